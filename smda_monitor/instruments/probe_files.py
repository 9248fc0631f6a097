"""Reads probe sets: what is shipped, a JSONL file, or a data set of the `datasets` library.

One probe a line: ``{"id": …, "prompt": …, "category": …, "kind": "harmful"|"lookalike"|"benign", "pair": … or null}``.
Further keys are ignored. Every error names the line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from ..errors import ConfigError, describe
from ..records.probes import KINDS, Probe, ProbeSet

_SHIPPED = {"probes": "probe_set.jsonl", "fit": "fit_prompts.jsonl", "heldout": "heldout_prompts.jsonl"}
"""The shipped file of each role."""

STEREOTYPE = "stereotype"
"""The shipped second behaviour: ``shipped:stereotype`` is its file of any role."""

_REQUIRED = ("id", "prompt", "category", "kind")
_APOSTROPHES = str.maketrans(dict.fromkeys("\u2019\u2018\u02bc\u2032\u00b4\u0060", "'"))
_MOST_PROBLEMS = 10
"""Problems listed in one message; the rest are counted."""


def read_probes(source: str | Path, role: Literal["probes", "fit", "heldout"] = "probes") -> ProbeSet:
    """The probes of `source`, in its order.

    Args:
        source: ``shipped`` (the shipped file of `role`), ``shipped:fit``, ``shipped:heldout``, ``shipped:stereotype``
            (of `role`, too), a JSONL file, or a `datasets` id (``id`` or ``id:split``) with the same columns.
        role: What the set is for; only ``shipped`` means another file for each.

    Raises:
        ConfigError: there is no such file or data set, it is empty, or a row is not a probe: bad JSON, a key missing
            or empty, an unknown kind, an id or a text that stands there twice.
    """
    name = str(source)
    if name == "shipped" or name.startswith("shipped:"):
        return _shipped(name.partition(":")[2] or role, role)
    path = Path(source).expanduser()
    if path.is_file():
        return _probe_set(_lines(path), str(path))
    if (
        path.exists()
        or isinstance(source, Path)
        or name.startswith((".", "~", "/"))
        or name.endswith((".jsonl", ".json"))
    ):
        found = "a folder" if path.is_dir() else "no such file"
        raise ConfigError(describe(f"probe file {path}", found, "a JSONL file", "check the path"))
    return _probe_set(_rows_of_data_set(name), f"data set {name}", unit="row")


def normalise(text: str) -> str:
    """`text` as compared for being the same prompt: case folded, white space collapsed, apostrophes straight."""
    return " ".join(text.translate(_APOSTROPHES).casefold().split())


def _shipped(name: str, role: str) -> ProbeSet:
    """The set of that `name` that comes with the package; of the second behaviour the one for `role`."""
    known = {**_SHIPPED, STEREOTYPE: f"{STEREOTYPE}_{role}.jsonl"}
    if name not in known:
        valid = ", ".join(f"shipped:{one}" for one in known)
        raise ConfigError(describe("shipped probe set", repr(name), valid, "choose one of these"))
    resource = files("smda_monitor").joinpath("data", known[name])
    return _probe_set(_parsed(resource.read_bytes()), f"shipped:{name}")


def _lines(path: Path) -> Iterator[tuple[int, object]]:
    """(line number, parsed value or the `ValueError` that parsing gave) of the JSONL file at `path`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        found = error.strerror or str(error)
        raise ConfigError(describe(f"probe file {path}", found, "a readable file", "check its rights")) from error
    return _parsed(content)


def _parsed(content: bytes) -> Iterator[tuple[int, object]]:
    """(line number from 1, parsed value or the error of parsing it) of every line that is not blank.

    Lines end at a line feed alone: a text may hold other line separators of Unicode.
    """
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                yield number, error


def _rows_of_data_set(name: str) -> Iterator[tuple[int, object]]:
    """(row number from 1, row) of a `datasets` id, ``id`` or ``id:split``."""
    import datasets

    identity, _, split = name.partition(":")
    try:
        loaded: Any = datasets.load_dataset(identity)
    except Exception as error:  # the library raises errors of many families; each means that there is no such set here
        found = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        expected = "a JSONL file, 'shipped', or a data set that the `datasets` library can load"
        raise ConfigError(describe(f"probe set {name!r}", found, expected, "check the name and the network")) from error
    splits = list(loaded)
    if not split and len(splits) > 1:
        raise ConfigError(
            describe(f"data set {identity}", "several splits", "one", f"write {identity}:SPLIT, {splits}")
        )
    if split and split not in splits:
        raise ConfigError(describe(f"data set {identity}", f"no split {split!r}", f"one of {splits}", "choose one"))
    return enumerate(loaded[split or splits[0]], start=1)


def _probe_set(rows: Iterable[tuple[int, object]], what: str, unit: str = "line") -> ProbeSet:
    """The probes in `rows`, or one error with every row that is not a probe."""
    probes: list[Probe] = []
    problems: list[str] = []
    ids: dict[str, int] = {}
    texts: dict[str, int] = {}
    for number, row in rows:
        place = f"{unit} {number}"
        probe = _probe(row)
        if isinstance(probe, str):
            problems.append(f"{place}: {probe}")
            continue
        text = normalise(probe.prompt)
        if probe.id in ids:
            problems.append(describe(place, f"id {probe.id!r}, as in {unit} {ids[probe.id]}", "a new id", "rename one"))
        elif text in texts:
            problems.append(
                describe(place, f"the prompt of {unit} {texts[text]} again", "a new text", "drop one of them")
            )
        ids.setdefault(probe.id, number)
        texts.setdefault(text, number)
        probes.append(probe)
    if problems:
        listed = problems[:_MOST_PROBLEMS]
        if len(problems) > len(listed):
            listed.append(f"and {len(problems) - len(listed)} more")
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError("\n  ".join([f"{what} has {count}:", *listed]))
    if not probes:
        raise ConfigError(describe(what, "no probe", "at least one", "give a file with one JSON object a line"))
    return ProbeSet(tuple(probes))


def _probe(row: object) -> Probe | str:
    """The probe that `row` is, or what is wrong with it."""
    if isinstance(row, Exception):
        return describe("content", f"no JSON ({row})", "one JSON object in UTF-8", "mend or drop it")
    if not isinstance(row, Mapping):
        return describe("content", f"a {type(row).__name__}", f"an object with keys {', '.join(_REQUIRED)}", "mend it")
    for key in (*_REQUIRED, "pair"):
        value = row.get(key)
        if key == "pair" and value is None:
            continue
        if not isinstance(value, str) or not value.strip():
            found = f"{value!r:.80}" if key in row else "no such key"
            return describe(f"key {key!r}", found, "a text that is not empty", f"give the probe its {key}")
        if not _encodable(value):
            return describe(f"key {key!r}", "half of a surrogate pair", "Unicode text", "mend the escape")
    if row["kind"] not in KINDS:
        near = get_close_matches(row["kind"], KINDS, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else "choose one of these"
        return describe("key 'kind'", repr(row["kind"]), " or ".join(KINDS), remedy)
    return Probe(row["id"], row["prompt"], row["category"], row["kind"], row.get("pair"))


def _encodable(text: str) -> bool:
    """Whether `text` can be written as UTF-8; JSON lets lone surrogates through."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
