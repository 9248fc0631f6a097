"""The run folder: one run each, never overwritten, never deleted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

from ..errors import ConfigError, describe
from .files import is_temporary


def prepare_run_folder(folder: str | Path, exists: Literal["error", "move_aside"], resume: bool = False) -> Path | None:
    """Makes `folder` ready for one run and returns the new name of an earlier run that was moved aside, else None.

    An earlier run is a folder with ``manifest.json`` or ``ledger/`` in it. ``exists="error"`` refuses it;
    ``"move_aside"`` renames it to ``<folder>.1``, ``.2``, …, the first free number; `resume` keeps it and goes on.
    Raises `ConfigError` for another run under ``"error"``, and always for a file or for a folder that holds something
    that is no run, since nothing says that it may be mixed with one.
    """
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise ConfigError(describe(f"outputs.folder {path}", "a file", "a folder", "name another outputs.folder"))
    content = [p for p in path.iterdir() if not is_temporary(p)] if path.exists() else []
    moved = None
    if content and not _is_run(path):
        names = ", ".join(sorted(p.name for p in content)[:5])
        raise ConfigError(
            describe(
                f"outputs.folder {path}",
                f"a folder with other files ({names})",
                "an empty folder, or none",
                "name another outputs.folder, or empty this one yourself",
            )
        )
    if content and not resume:
        if exists == "error":
            raise ConfigError(
                describe(
                    f"outputs.folder {path}",
                    f"another run, {_date(path)}",
                    "an empty folder, or none",
                    'name another outputs.folder, set outputs.exists to "move_aside", or resume from a checkpoint',
                )
            )
        moved = _move_aside(path)
    path.mkdir(parents=True, exist_ok=True)
    return moved


def _is_run(path: Path) -> bool:
    return (path / "manifest.json").is_file() or (path / "ledger").is_dir()


def _date(path: Path) -> str:
    """When the run in `path` started, in words; a manifest that cannot be read is no reason to hide the refusal."""
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        return f"started {manifest['started']}, status {manifest['status']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "of unknown date (its manifest.json is missing or cannot be read)"


def _move_aside(path: Path) -> Path:
    whole = path.resolve() if not path.is_symlink() else path.absolute()  # so that "runs/demo/." has a name
    number = 1
    while os.path.lexists(target := whole.with_name(f"{whole.name}.{number}")):
        number += 1
    os.rename(whole, target)
    return path.with_name(target.name) if path.name == whole.name else target
