"""Reads the training data that an audit judges, from outside: any source, into a data set in TRL's format on disk.

What cannot be trained on is left out by line and reason, never silently; other columns are not carried along.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError, describe
from ..records.training_row import LeftOutRow, Message, TrainingRow
from .row_form import FORMS, named, nearest, training_row
from .row_sources import RowSource, open_rows
from .row_store import ArrowFile, GivenIds, TrainingRows, left_out_schema, row_schema, stored, turns, writable

_SHOWN = 5
"""Rows named in the message that none is left."""
_KEYS_SEEN = 64
"""Keys of a JSONL file that are kept for a message."""


def read_rows(data: str | Path, folder: Path, split: bool = False) -> TrainingRows:
    """The rows of `data` in TRL's format, and those that were left out.

    Rows written as prompt and answer become ``prompt`` and ``completion``; conversations become ``messages``, or where
    rows of both kinds are mixed, or under `split`, ``prompt`` and ``completion``, the last message being the answer.

    Args:
        data: ``demo``, a file, a saved folder or a hub id; see `row_sources.open_rows`.
        folder: For the rows, about as large as the data (twice for conversations). Made if need be.
        split: Whether conversations are brought into that form though all rows are.

    Raises:
        ConfigError: `data` is not there or cannot be read, or no row of it can be trained on.
        PrerequisiteError: `folder` cannot be written.
    """
    source = open_rows(data)
    with (
        writable(folder),
        GivenIds() as ids,
        ArrowFile(folder, "rows", row_schema(None)) as kept,
        ArrowFile(folder, "left-out", left_out_schema()) as omitted,
    ):
        conversations = 0
        for line, raw in source.rows:
            row = training_row(line, raw)
            if isinstance(row, TrainingRow) and (first := ids.give(row.id, line)) is not None:
                row = LeftOutRow(line, row.id, f"id {row.id!r:.80} again, as in {source.unit} {first}")
            if isinstance(row, LeftOutRow):
                omitted.add(stored(row))
                continue
            conversations += row.conversation
            # Both forms as long as all rows are conversations: which one is wanted is known only at the end.
            both = not split and conversations == kept.rows + 1
            kept.add(_columns(row, both))
        left_out = omitted.data_set()
        if not kept.rows:
            raise _nothing_left(source.name, source.unit, left_out)
        all_conversations = not split and conversations == kept.rows
        unwanted = ["prompt", "completion"] if all_conversations else ["messages"]
        return TrainingRows(
            source=data,
            data=kept.data_set().remove_columns(unwanted),
            left_out=left_out,
            form="messages" if all_conversations else "prompt-completion",
            folder=folder,
        )


def column(rows: TrainingRows, name: str) -> dict[str, Any]:
    """id → value of the column `name` of the source, for every kept row; None where a row lacks it.

    Training and judging see no such column: it is for holding the judgement against it afterwards. The source is read
    a second time.

    Raises:
        ConfigError: no row has the column, or the source is no longer what it was.
    """
    values: dict[str, Any] = {}
    seen: dict[str, None] = {}
    found = False
    source = open_rows(rows.source, also=(name,))
    for _, row_id, raw in _matched(rows, source):
        if isinstance(raw, Mapping):
            found = found or name in raw
            seen.update(dict.fromkeys(list(raw)[: _KEYS_SEEN - len(seen)]))
            if row_id is not None:
                values[row_id] = raw.get(name)
    if not found:
        remedy = nearest([name], seen) or "choose one of these"
        raise ConfigError(describe(source.name, f"no column {name!r}", f"one of {named(seen)}", remedy))
    return values


def originals(rows: TrainingRows) -> Iterator[tuple[int, str | None, object]]:
    """(line, id of the kept row or None for one that is left out, the row as its source has it, all columns) of every
    row of the source, which is read a second time. A row that could not be parsed is the error that it gave.

    Raises:
        ConfigError: the source is no longer what it was.
    """
    return _matched(rows, open_rows(rows.source, also=None))


def _matched(rows: TrainingRows, source: RowSource) -> Iterator[tuple[int, str | None, object]]:
    kept = iter(rows.data)
    expected = next(kept, None)
    for line, raw in source.rows:
        if expected is None or line != expected["line"]:
            yield line, None, raw
        elif isinstance(raw, Mapping) and _same(training_row(line, raw), expected):
            yield line, expected["id"], raw
            expected = next(kept, None)
        else:
            break
    if expected is not None:
        what, found_text = f"{source.name}, {source.unit} {expected['line']}", "another row than when it was read first"
        raise ConfigError(describe(what, found_text, f"row {expected['id']!r}", "read the data again"))


def _columns(row: TrainingRow, both: bool) -> dict[str, Any]:
    return {
        "id": row.id,
        "line": row.line,
        "prompt": _written(row.prompt),
        "completion": _written(row.completion),
        "messages": _written(row.prompt + row.completion) if both else None,
    }


def _written(messages: tuple[Message, ...]) -> list[dict[str, str]]:
    return [{"role": one.role, "content": one.content} for one in messages]


def _same(row: TrainingRow | LeftOutRow, kept: Mapping[str, Any]) -> bool:
    return isinstance(row, TrainingRow) and row.id == kept["id"] and row.prompt + row.completion == turns(kept)


def _nothing_left(name: str, unit: str, left_out: Any) -> ConfigError:
    listed = [f"{unit} {row['line']}: {row['reason']}" for row in left_out.select(range(min(_SHOWN, len(left_out))))]
    if len(left_out) > len(listed):
        listed.append(f"and {len(left_out) - len(listed)} more")
    expected = f"at least one, {FORMS}"
    remedy = "write one JSON object a line" if unit == "line" else "give it such columns"
    return ConfigError("\n  ".join([describe(name, "no row that can be trained on", expected, remedy), *listed]))
