"""Files from outside, damaged in every way that hypothesis can think of: each is read, or refused in our own words.

A specimen is a whole file, or a folder of which one file is damaged. Damage: bytes replaced, cut off, put in, or moved;
in a text of JSON or YAML any value replaced by any other, a key renamed or left out, a line twice.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from _bed import Bed
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from smda_monitor.errors import SMDAError
from smda_monitor.instruments.config_file import load_config
from smda_monitor.instruments.dictionary_files import load_dictionary
from smda_monitor.instruments.policy_files import load_policy
from smda_monitor.instruments.probe_files import read_probes
from smda_monitor.instruments.reference_answers import read_reference_answers
from smda_monitor.instruments.row_files import read_rows
from smda_monitor.outputs.ledger_reader import read_ledger

Values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["../../x", "\x1b[2J", "<b>"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
"""Anything that JSON can say."""


@dataclass
class Tried:
    """Of one kind of file."""

    inputs: int = 0
    read: int = 0
    refused: int = 0
    untyped: Counter[str] = field(default_factory=Counter)
    """Errors of another kind than our own, by type and text."""


@dataclass(frozen=True)
class Specimen:
    """A file from outside as it should be."""

    kind: str
    """What it is."""
    path: Path
    """The file, or the folder."""
    read: Callable[[Path], object]
    """Its reader."""
    share: float
    """Of all inputs: slow readers get fewer."""


def specimens(bed: Bed, run: Path, folder: Path) -> list[Specimen]:
    """One of every kind: `bed`'s own files, and the `run` folder of a monitored training."""
    folder.mkdir(parents=True, exist_ok=True)
    config, answers, rows = folder / "config.yaml", folder / "answers.jsonl", folder / "rows.jsonl"
    whole = {name: value for name, value in bed.config.items() if name != "seed"}
    config.write_text(yaml.safe_dump({**whole, "alerts": {"stop": ["drift"]}, "account": {"every": 2}}), "utf-8")
    told = [
        {"prompt": f"Tell me of {i}", "response": f"It is {i}.", "kind": ("harmful", "benign")[i % 2]}
        for i in range(12)
    ]
    answers.write_text("".join(json.dumps(row) + "\n" for row in told), "utf-8")
    rows.write_text("".join(json.dumps({"id": f"r{i}", **row}) + "\n" for i, row in enumerate(told)), "utf-8")
    probes, dictionary = Path(bed.config["probes"]["file"]), Path(bed.config["dictionary"]["path"])
    short = folder / "probes.jsonl"
    short.write_text("".join(probes.read_text("utf-8").splitlines(keepends=True)[:24]), "utf-8")
    return [
        Specimen("probes", short, lambda path: read_probes(str(path), "probes"), 0.3),
        Specimen("reference answers", answers, lambda path: read_reference_answers(str(path)), 0.25),
        Specimen("configuration", config, load_config, 0.15),
        Specimen("policy", bed.folder / "policy", load_policy, 0.15),
        Specimen("dictionary", dictionary, lambda path: load_dictionary(str(path)), 0.05),
        Specimen("rows", rows, lambda path: read_rows(str(path), path.parent / "cache"), 0.05),
        Specimen("ledger", run, _whole_ledger, 0.05),
    ]


def _whole_ledger(path: Path) -> object:
    view = read_ledger(path)
    return [view.snapshots[i] for i in range(len(view.snapshots))]


def tried(specimen: Specimen, count: int, folder: Path, start: int) -> Tried:
    """`count` damaged copies of `specimen` below `folder`, read one after the other."""
    found = Tried()
    files = [specimen.path] if specimen.path.is_file() else sorted(p for p in specimen.path.rglob("*") if p.is_file())
    whole = {path: path.read_bytes() for path in files}

    @seed(start)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def damage(data: st.DataObject) -> None:
        victim = data.draw(st.sampled_from(files))
        content = data.draw(_damaged(whole[victim], victim.suffix))
        place = folder / specimen.path.name
        if specimen.path.is_file():
            place.write_bytes(content)
        else:
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(specimen.path, place)
            (place / victim.relative_to(specimen.path)).write_bytes(content)
        found.inputs += 1
        try:
            specimen.read(place)
            found.read += 1
        except SMDAError:
            found.refused += 1
        except Exception as error:
            found.untyped[f"{victim.name}: {type(error).__name__}: {str(error)[:200]}"] += 1

    folder.mkdir(parents=True, exist_ok=True)
    damage()
    return found


def _damaged(content: bytes, suffix: str) -> st.SearchStrategy[bytes]:
    ways = [_bytes(content)]
    if suffix in (".json", ".jsonl", ".yaml"):
        ways += [_values(content, suffix)] * 3
    return st.one_of(ways)


def _bytes(content: bytes) -> st.SearchStrategy[bytes]:
    at = st.integers(0, len(content))

    def put(places: tuple[int, int], piece: bytes, moved: int) -> bytes:
        low, high = sorted(places)
        return content[: min(low, moved)] + piece + content[high:]

    return st.builds(put, st.tuples(at, at), st.binary(max_size=64), at)


def _values(content: bytes, suffix: str) -> st.SearchStrategy[bytes]:
    text = content.decode("utf-8")
    lines = text.splitlines() if suffix == ".jsonl" else [text]
    parsed = [yaml.safe_load(line) if suffix == ".yaml" else json.loads(line) for line in lines]
    kept = json.dumps(parsed)

    @st.composite
    def changed(draw: Any) -> bytes:
        values = json.loads(kept)
        number = draw(st.integers(0, len(values) - 1))
        values[number] = _replaced(values[number], draw)
        if draw(st.booleans()):
            values.append(values[draw(st.integers(0, len(values) - 1))])
        written = yaml.safe_dump if suffix == ".yaml" else json.dumps
        return "\n".join(written(value) for value in values[: None if suffix == ".jsonl" else 1]).encode(
            "utf-8", "surrogatepass"
        )

    return changed()


def _replaced(value: Any, draw: Any) -> Any:
    """`value` with one part of it replaced, renamed or left out."""
    if isinstance(value, dict) and value and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(value)))
        way = draw(st.integers(0, 4))
        inner = value.pop(key)
        if way == 0:
            return value
        return {**value, (draw(st.text(max_size=8)) if way == 1 else key): _replaced(inner, draw)}
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        i = draw(st.integers(0, len(value) - 1))
        return [*value[:i], _replaced(value[i], draw), *value[i + 1 :]]
    return draw(Values)
