"""Atomic files and strict JSON: what a kill at any moment leaves on disk is either the old file or the new one."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import ConfigError, describe


def is_temporary(path: Path) -> bool:
    """Whether `path` is named like an unfinished write of `write_atomic`; such a file never counts as content."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a temporary file beside `path`, flushes it to the disk, then renames it into place.

    Raises whatever `write` raises, and `OSError` where the disk refuses; `path` is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, atomically. A lone surrogate, which UTF-8 has no bytes for, becomes ``?``."""
    write_atomic(path, lambda temporary: temporary.write_bytes(text.encode("utf-8", "replace")))


def sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` durable. Windows cannot open a folder; there the rename is left to the system."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def to_json(value: Any, *, indent: int | None = None, spell: bool = False) -> str:
    """Strict JSON: NaN and infinities, which JSON has no word for, become ``null``, or with `spell` the strings
    ``"nan"``, ``"inf"``, ``"-inf"``, which ``float`` reads back. Anything unknown to JSON is written as its ``str``."""
    return json.dumps(_strict(value, spell), indent=indent, ensure_ascii=True, allow_nan=False, default=str)


def _strict(value: Any, spell: bool) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value)) if spell else None
    if isinstance(value, dict):
        return {str(key): _strict(item, spell) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item, spell) for item in value]
    return value


def read_json(path: Path, what: str) -> Any:
    """The content of a JSON file. Raises `ConfigError` naming `what` and the file where it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            describe(f"{what} {path}", f"a file that cannot be read ({error})", "JSON", "restore it from a copy")
        ) from error


def read_json_lines(path: Path, what: str) -> list[Any]:
    """All that `json_lines` yields."""
    return list(json_lines(path, what))


def json_lines(path: Path, what: str) -> Iterator[Any]:
    """One value per line, a line at a time; an unfinished last line, which is all that a kill can leave, is skipped.

    Raises `ConfigError` naming the file and the line where any other line is not JSON. A missing file is empty.
    """
    if not path.exists():
        return
    with path.open("rb") as handle:
        for number, line in enumerate(handle, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ConfigError(
                    describe(f"{what} {path}, line {number}", f"{error}", "JSON", "restore the file or delete the line")
                ) from error
