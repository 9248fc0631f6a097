"""Where training data comes from: a JSONL file, a table, a saved data set or a hub id, as a stream of numbered rows.

JSONL is read line by line, so that a malformed line does not stop the rest; everything else by the `datasets` library.
"""

from __future__ import annotations

import csv
import glob
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import ConfigError, describe
from .row_form import ANSWERS, FORMS, KEYS, named, nearest
from .row_lines import json_lines
from .row_store import BATCH_ROWS

DEMO = "demo"
"""The name of the rows that come with the package; a folder of that name is ``./demo``."""
LINES = (".jsonl", ".ndjson", ".json")
"""Endings of files with one JSON object a line."""
TABLES = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv"}
"""Ending → the loader of the `datasets` library."""

_EXPECTED = "'demo', a JSONL, Parquet or CSV file, a folder saved by `save_to_disk`, or a hub id (ID or ID:SPLIT)"


@dataclass(frozen=True, slots=True)
class RowSource:
    """A stream of raw rows; it can be gone through once."""

    name: str
    """What is read, for messages."""
    unit: str
    """``line`` or ``row``: what its numbers count."""
    rows: Iterator[tuple[int, object]]
    """(number from 1, the row or the error that parsing it gave). Raises `ConfigError` where the source breaks off."""


def open_rows(data: str | Path, also: Sequence[str] | None = ()) -> RowSource:
    """The rows of `data`, with the keys of `row_form.KEYS` and the columns in `also`; with None, with all columns.

    Args:
        data: ``demo``, a JSONL (``.jsonl``, ``.ndjson``, ``.json``), Parquet or CSV file, a folder saved by
            ``datasets.Dataset.save_to_disk`` (of several splits: ``FOLDER:SPLIT``), or a hub id (``ID``, ``ID:SPLIT``).
        also: Further columns. Of a JSONL file every key is there anyway.

    Raises:
        ConfigError: there is nothing of that name, no such split, it cannot be read, or its columns are no row's.
    """
    name = str(data)
    if data == DEMO:
        shipped = files("smda_monitor").joinpath("data", "demo_rows.jsonl")
        return RowSource(
            "the shipped demo rows", "line", json_lines("the shipped demo rows", lambda: shipped.open("rb"))
        )
    path = _path(name)
    if path.is_file():
        return _file(path, also)
    if path.is_dir():
        return _saved(path, "", also)
    folder, _, split = name.rpartition(":")
    if folder and _path(folder).is_dir():
        return _saved(_path(folder), split, also)
    if isinstance(data, Path) or name.startswith((".", "~", "/")) or name.count("/") > 1 or "\\" in name or not name:
        raise _no_such(path)
    if path.suffix.lower() in (*LINES, *TABLES):
        raise _no_such(path)
    return _hub(name, also)


def _path(name: str) -> Path:
    """`name` as a path; a name that can be none is an error like one that does not exist."""
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(describe(f"data {name!r:.200}", f"{error}", _EXPECTED, "check the path")) from error
    return path


def _no_such(path: Path) -> ConfigError:
    near = get_close_matches(path.name, _names(path.parent), n=1)
    found = "neither a file nor a folder" if path.exists() else "no such file"
    remedy = f"did you mean {path.parent / near[0]}?" if near else "check the path"
    return ConfigError(describe(f"data {path}", found, _EXPECTED, remedy))


def _names(folder: Path) -> list[str]:
    """What lies in `folder`; nothing where it cannot be looked into."""
    try:
        return sorted(one.name for one in folder.iterdir())
    except OSError:
        return []


def _file(path: Path, also: Sequence[str] | None) -> RowSource:
    ending = path.suffix.lower()
    if ending in LINES:
        return RowSource(f"file {path}", "line", json_lines(f"file {path}", lambda: path.open("rb")))
    if ending not in TABLES:
        endings = ", ".join((*LINES, *TABLES))
        raise ConfigError(describe(f"data {path}", f"ending {ending!r}", f"one of {endings}", "convert or rename it"))
    from datasets import Features, Value, load_dataset

    what, kind = f"file {path}", TABLES[ending]
    options: dict[str, Any] = {}
    if kind == "csv":
        separator = "\t" if ending == ".tsv" else ","
        # Every cell is text: a guessed type would make numbers and gaps of answers such as "42" and "None".
        features = Features({column: Value("string") for column in _header(path, separator)})
        options = {"sep": separator, "features": features, "keep_default_na": False, "encoding": "utf-8-sig"}
        options["chunksize"] = BATCH_ROWS
    loaded = _had(what, lambda: load_dataset(kind, data_files=glob.escape(str(path)), streaming=True, **options))
    return _table(loaded["train"], what, also, blank_is_null=kind == "csv")


def _header(path: Path, separator: str) -> list[str]:
    """The columns of a CSV file. Its first row is held against them: of a longer one pandas would take the first cells
    as names of rows, and shift all others."""
    what = f"file {path}"
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = (line for line in csv.reader(stream, delimiter=separator) if line)
            columns, first = next(lines, []), next(lines, [])
    except (OSError, ValueError, csv.Error) as error:
        remedy = "check the file and its encoding"
        raise ConfigError(describe(what, f"{error}", "a CSV file in UTF-8 with a head line", remedy)) from error
    if not columns or len(first) > len(columns) or len(set(columns)) < len(columns):
        found = f"columns {named(columns)}, and {len(first)} cells in the first row"
        raise ConfigError(describe(what, found, "a name for each cell, no two the same", "quote texts with separators"))
    return columns


def _saved(path: Path, split: str, also: Sequence[str] | None) -> RowSource:
    from datasets import load_from_disk

    what = f"folder {path}"
    names = _names(path)
    if not {"dataset_info.json", "dataset_dict.json"} & set(names):
        inside = [one for one in names if Path(one).suffix.lower() in (*LINES, *TABLES)]
        remedy = f"name a file in it: {named(inside)}" if inside else "name a file, or save the data set first"
        raise ConfigError(describe(what, "no saved data set", "one saved by `save_to_disk`", remedy))
    return _table(_split(_had(what, lambda: load_from_disk(str(path))), str(path), split), what, also)


def _hub(name: str, also: Sequence[str] | None) -> RowSource:
    from datasets import load_dataset

    identity, _, split = name.partition(":")
    loaded = _had(f"data {name!r}", lambda: load_dataset(identity))
    return _table(_split(loaded, identity, split), f"data set {name}", also)


def _had(what: str, load: Callable[[], Any]) -> Any:
    """What `load` gives."""
    try:
        return load()
    except Exception as error:  # the library raises errors of many families; each means: no such data
        raise ConfigError(
            describe(what, _brief(error), _EXPECTED, "check the name, the file and the network")
        ) from error


def _split(loaded: Any, name: str, split: str) -> Any:
    """The one split of `loaded`, or the one asked for."""
    splits = list(loaded) if isinstance(loaded, dict) else []
    if not splits and not split:
        return loaded
    if not split and len(splits) > 1:
        remedy = f"write {name}:{splits[0]}, or another of {named(splits)}"
        raise ConfigError(describe(f"data set {name}", "several splits", "one", remedy))
    if split and split not in splits:
        near = get_close_matches(split, splits, n=1)
        expected = f"one of {named(splits)}" if splits else "no split: the data set has none"
        remedy = f"did you mean {name}:{near[0]}?" if near else "choose one" if splits else f"write {name}"
        raise ConfigError(describe(f"data set {name}", f"no split {split!r}", expected, remedy))
    return loaded[split or splits[0]]


def _table(loaded: Any, what: str, also: Sequence[str] | None, blank_is_null: bool = False) -> RowSource:
    """The rows of a data set of the library, with no columns but those that are wanted."""
    columns = _had(what, lambda: list(loaded.column_names or next(iter(loaded), {})))
    if "messages" not in columns and not ("prompt" in columns and set(ANSWERS) & set(columns)):
        remedy = nearest(columns, KEYS) or "rename its columns"
        raise ConfigError(describe(what, f"columns {named(columns)}", FORMS, remedy))
    if missing := [column for column in also or () if column not in columns]:
        near = get_close_matches(missing[0], columns, n=1)
        remedy = f"did you mean {near[0]!r}?" if near else "choose one of these"
        raise ConfigError(describe(what, f"no column {missing[0]!r}", f"one of {named(columns)}", remedy))
    wanted = [column for column in columns if also is None or column in KEYS or column in also]
    rows = _stream(loaded.with_format(None).select_columns(wanted), what)
    if blank_is_null:
        rows = ({key: value or None for key, value in row.items()} for row in rows)
    return RowSource(what, "row", enumerate(rows, start=1))


def _stream(loaded: Iterable[Any], what: str) -> Iterator[Any]:
    number, rows = 0, iter(loaded)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:  # see _had: the file is damaged, or not what its ending says
            found = f"{_brief(error)}, after {number} rows"
            raise ConfigError(describe(what, found, "rows that the `datasets` library can read", "mend it")) from error
        number += 1
        yield row


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
