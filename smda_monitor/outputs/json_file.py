"""Files that a command is asked for, above all ``--json FILE``, which every command takes: its figures, for programs.
NaN is null there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError, describe
from .files import to_json, write_text


def check_json_file(path: str | Path | None, option: str = "--json") -> None:
    """Raises `ConfigError` where `path`, asked for as `option`, is a folder: better before a long job than after it.
    None asks for no file."""
    if path is not None and Path(path).is_dir():
        raise ConfigError(describe(f"{option} {path}", "a folder", "a file's name", "name a file in it"))


def write_json_file(path: str | Path | None, figures: Mapping[str, Any]) -> None:
    """Writes `figures` as `write_asked_file` does; nothing for None."""
    if path is not None:
        write_asked_file(path, to_json(figures, indent=2), "--json")


def write_asked_file(path: str | Path, text: str, option: str) -> None:
    """Writes `text` atomically. Raises `ConfigError` as `check_json_file`, and where the disk refuses."""
    check_json_file(path, option)
    try:
        write_text(Path(path), text)
    except OSError as error:
        remedy = "check the path, its rights and the free space"
        raise ConfigError(describe(f"{option} {path}", error, "a file that can be written", remedy)) from error
