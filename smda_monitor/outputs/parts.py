"""Append-only Parquet in part files: one per account, merged into ranges so that a long run leaves few files.

``rows-000017.parquet`` is the part of step 17, ``rows-000001-000064.parquet`` a range that holds the steps 1 to 64. A
part that lies inside a range is what a kill during a merge leaves behind; it is not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, describe
from .files import is_temporary, write_atomic

_NAME = re.compile(r"(?P<stem>[a-z]+)-(?P<first>\d{6,})(-(?P<last>\d{6,}))?\.parquet")


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """One Parquet file of a table."""

    first: int
    """Its first step."""
    last: int
    """Its last step; equal to `first` for the part of one account."""
    path: Path
    """The file."""


def part_path(folder: Path, stem: str, first: int, last: int) -> Path:
    """Where the part of the steps `first` to `last` of the table `stem` lies."""
    steps = f"{first:06d}" if first == last else f"{first:06d}-{last:06d}"
    return folder / f"{stem}-{steps}.parquet"


def all_parts(folder: Path, stem: str) -> list[Part]:
    """Every part of the table `stem`, covered ones too, by first step."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match and match["stem"] == stem:
            found.append(Part(int(match["first"]), int(match["last"] or match["first"]), path))
    return sorted(found)


def covered(parts: Iterable[Part]) -> list[Part]:
    """The parts that lie inside another one, by first step. Of two of the same steps the second counts as inside."""
    found, reached = [], -1
    for part in sorted(parts, key=lambda part: (part.first, -part.last)):
        # Whatever begins no later comes before, so it is enough to know how far those reach.
        if part.last <= reached:
            found.append(part)
        reached = max(reached, part.last)
    return found


def live_parts(folder: Path, stem: str) -> list[Part]:
    """The parts to be read: all but the covered ones, by first step."""
    parts = all_parts(folder, stem)
    hidden = set(covered(parts))
    return [part for part in parts if part not in hidden]


def read_part(path: Path, columns: Sequence[str] | None = None) -> Any:
    """The Arrow table in one part, or only some of its `columns`, in this order.

    Raises `ConfigError` naming the file where it is not whole Parquet, `KeyError` where it lacks one of the columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as handle:
            file = pq.ParquetFile(handle)
            if columns is None:
                return file.read()
            if missing := set(columns) - set(file.schema_arrow.names):
                raise KeyError(min(missing))
            return file.read(list(columns)).select(list(columns))
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(
            describe(
                f"ledger part {path}",
                f"a file that cannot be read ({error})",
                "a Parquet file",
                "restore it from a copy, or move it out of the folder to go on without its steps",
            )
        ) from error


def read_parts(folder: Path, stem: str) -> Any:
    """One Arrow table of all live parts, ordered as the parts are; None where there is none.

    Columns that only some parts have are null in the others. Raises `ConfigError` as `read_part`.
    """
    return concatenate([read_part(part.path) for part in live_parts(folder, stem)])


def concatenate(tables: list[Any]) -> Any:
    """The tables under one another, with the union of their columns; None for no table."""
    import pyarrow as pa

    return pa.concat_tables(tables, promote_options="default") if tables else None


def write_part(folder: Path, stem: str, first: int, last: int, table: Any) -> Path:
    """Writes one part (zstd) atomically and returns its path."""
    import pyarrow.parquet as pq

    path = part_path(folder, stem, first, last)
    write_atomic(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))
    return path


def merge(folder: Path, stem: str, size: int) -> None:
    """Merges the single parts of the table `stem` into one range once there are `size` of them; `size` is at least 2.

    The range is in place before the first part goes, so that a kill in between loses nothing and doubles nothing.
    """
    singles = [part for part in live_parts(folder, stem) if part.first == part.last]
    if len(singles) < size:
        return
    table = concatenate([read_part(part.path) for part in singles])
    write_part(folder, stem, singles[0].first, singles[-1].last, table)
    for part in singles:
        part.path.unlink(missing_ok=True)


def keep_until(folder: Path, stem: str, step: int) -> None:
    """Removes every line later than `step`; a range that reaches beyond it is written anew up to `step`."""
    import pyarrow.compute as pc

    for part in live_parts(folder, stem):
        if part.last <= step:
            continue
        if part.first <= step:
            table = read_part(part.path)
            write_part(folder, stem, part.first, step, table.filter(pc.less_equal(table["step"], step)))
        part.path.unlink()


def tidy(folder: Path) -> None:
    """Removes what a kill leaves behind: unfinished temporary files, and parts inside a range."""
    for path in list(folder.iterdir()):
        if is_temporary(path):
            path.unlink(missing_ok=True)
    for stem in {match["stem"] for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))}:
        for part in covered(all_parts(folder, stem)):
            part.path.unlink(missing_ok=True)
