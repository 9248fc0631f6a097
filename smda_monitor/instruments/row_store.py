"""Rows on disk instead of in memory: Arrow files written a batch at a time, and the ids that were given already."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from ..errors import PrerequisiteError, describe
from ..records.training_row import LeftOutRow, Message

BATCH_ROWS, BATCH_BYTES = 1_000, 4 << 20
"""A batch is written when it holds so many rows, or so many bytes of text."""


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """Training data that was read, in TRL's format; it lies in files, and no more than a batch of it in memory."""

    source: str | Path
    """What was read, as the user named it."""
    data: Any
    """The kept rows, a `datasets.Dataset` in their order: ``id`` (text, unique), ``line`` (from 1, rising), and
    ``prompt`` and ``completion``, or ``messages``: lists of {role, content}. Its fingerprint is one of its contents,
    so what is cached for it is never taken for other rows."""
    left_out: Any
    """The others, a `datasets.Dataset`: ``line``, ``id`` (null where unknown), ``reason``; by stage, then line."""
    form: Literal["prompt-completion", "messages"]
    """Which columns `data` has. ``messages`` only where every kept row was written as a conversation."""
    folder: Path
    """Where the files lie."""

    def __len__(self) -> int:
        return len(self.data)

    def omitted(self) -> Iterator[LeftOutRow]:
        """The rows that are not trained on, one at a time."""
        return (LeftOutRow(row["line"], row["id"], row["reason"]) for row in self.left_out)


def turns(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """All messages of a row of `TrainingRows.data`, prompt and answer."""
    return _messages(row["messages"] if "messages" in row else [*row["prompt"], *row["completion"]])


def before_answer(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """The messages of a row of `TrainingRows.data` before the answer that it teaches; of a conversation, the last."""
    return _messages(row["messages"][:-1] if "messages" in row else row["prompt"])


def _messages(found: Sequence[Mapping[str, str]]) -> tuple[Message, ...]:
    return tuple(Message(one["role"], one["content"]) for one in found)


def row_schema(form: Literal["prompt-completion", "messages"] | None) -> Any:
    """The Arrow schema of kept rows; with None, of rows in both forms, whose messages are null from the row on that
    has none."""
    import pyarrow as pa

    messages = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    names = {"messages": ["messages"], "prompt-completion": ["prompt", "completion"]}
    columns = names[form] if form is not None else ["prompt", "completion", "messages"]
    return pa.schema([("id", pa.string()), ("line", pa.int64()), *((name, messages) for name in columns)])


def stored(row: LeftOutRow) -> dict[str, Any]:
    """`row` for `left_out_schema`: its reason may quote anything, so lone surrogates become their escapes."""
    reason = row.reason.encode("utf-8", "backslashreplace").decode()
    return {"line": row.line, "id": row.id, "reason": reason}


def left_out_schema() -> Any:
    """The Arrow schema of rows that were left out."""
    import pyarrow as pa

    return pa.schema([("line", pa.int64()), ("id", pa.string()), ("reason", pa.string())])


class ArrowFile:
    """An Arrow file in the making, as a context: on an error nothing is left of it."""

    def __init__(self, folder: Path, name: str, schema: Any) -> None:
        import pyarrow as pa

        self._folder, self._name, self._schema = folder, name, schema
        self._temporary = folder / f".{name}-{uuid4().hex}.tmp"
        self._digest = hashlib.sha256(str(schema).encode())
        self._batch: list[Mapping[str, Any]] = []
        self._bytes = 0
        self._sink = pa.OSFile(str(self._temporary), "wb")
        self._writer = pa.ipc.new_stream(self._sink, schema)
        self.rows = 0
        """Rows added so far."""

    def __enter__(self) -> ArrowFile:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._sink.closed:
            self._sink.close()
        self._temporary.unlink(missing_ok=True)

    def add(self, row: Mapping[str, Any]) -> None:
        """One row more; every text in it can be written as UTF-8."""
        content = json.dumps(row, ensure_ascii=False).encode()
        self._digest.update(b"%d:" % len(content) + content)
        self._batch.append(row)
        self._bytes += len(content)
        self.rows += 1
        if len(self._batch) >= BATCH_ROWS or self._bytes >= BATCH_BYTES:
            self._write()

    def data_set(self) -> Any:
        """Ends the file and opens it, memory-mapped: a `datasets.Dataset` whose fingerprint, like the file's name, is
        one of its contents. A file of that name is replaced, and stays readable for whoever has it open."""
        from datasets import Dataset
        from datasets.table import MemoryMappedTable

        self._write()
        self._writer.close()
        self._sink.close()
        fingerprint = self._digest.hexdigest()[:16]
        path = self._folder / f"{self._name}-{fingerprint}.arrow"
        os.replace(self._temporary, path)
        return Dataset(MemoryMappedTable.from_file(str(path)), fingerprint=fingerprint)

    def _write(self) -> None:
        import pyarrow as pa

        if self._batch:
            self._writer.write_batch(pa.RecordBatch.from_pylist(self._batch, schema=self._schema))
        self._batch, self._bytes = [], 0


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Makes `folder`; inside, whatever the disk refuses becomes a `PrerequisiteError` that names it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, sqlite3.Error) as error:
        found, remedy = getattr(error, "strerror", None) or str(error), "free space, or name another folder"
        raise PrerequisiteError(describe(f"folder {folder}", found, "a folder to write rows into", remedy)) from error


class GivenIds:
    """The ids of the rows kept so far, in a private file that SQLite deletes: a million ids would fill the memory."""

    def __init__(self) -> None:
        self._known = sqlite3.connect("")
        self._known.execute("PRAGMA journal_mode = OFF")
        self._known.execute("CREATE TABLE ids (id BLOB PRIMARY KEY, line INTEGER) WITHOUT ROWID")

    def __enter__(self) -> GivenIds:
        return self

    def __exit__(self, *_: object) -> None:
        self._known.close()

    def give(self, name: str, line: int) -> int | None:
        """Gives `name` to the row at `line`; the line of the row that has it, where it is given already."""
        given = self._known.execute("INSERT OR IGNORE INTO ids VALUES (?, ?)", (name.encode(), line))
        if given.rowcount:
            return None
        held = self._known.execute("SELECT line FROM ids WHERE id = ?", (name.encode(),)).fetchone()
        return int(held[0])
