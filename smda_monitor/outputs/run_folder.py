"""The run folder: one run each, never overwritten, never deleted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

from ..errors import ConfigError, describe
from .files import is_temporary, read_json

CHECKPOINT_FILE = "smda_monitor.json"
"""What the monitor leaves in a trainer's checkpoint: the ids of the runs that watched it."""

RIGHTS = "name another outputs.folder, or change the rights of this one."
"""What to do where nothing can be written."""


def check_run_folder(folder: str | Path, exists: Literal["error", "move_aside"], resume: bool = False) -> None:
    """Raises what `prepare_run_folder` would, and touches nothing."""
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise ConfigError(describe(f"outputs.folder {path}", "a file", "a folder", "name another outputs.folder"))
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not os.access(there, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise ConfigError(describe(f"outputs.folder {path}", f"{there}, read-only", "a folder to write in", RIGHTS))
    content = [p for p in path.iterdir() if not is_temporary(p)] if path.exists() else []
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
    if content and not resume and exists == "error":
        raise ConfigError(
            describe(
                f"outputs.folder {path}",
                f"another run, {_date(path)}",
                "an empty folder, or none",
                'name another outputs.folder, set outputs.exists to "move_aside", or resume from a checkpoint',
            )
        )


def prepare_run_folder(folder: str | Path, exists: Literal["error", "move_aside"], resume: bool = False) -> Path | None:
    """Makes `folder` ready for one run and returns the new name of an earlier run that was moved aside, else None.

    An earlier run is a folder with ``manifest.json`` or ``ledger/`` in it. ``exists="error"`` refuses it;
    ``"move_aside"`` renames it to ``<folder>.1``, ``.2``, …, the first free number; `resume` keeps it and goes on.
    Raises `ConfigError` for another run under ``"error"``, always for a file or for a folder that holds something
    that is no run, since nothing says that it may be mixed with one, and where the folder cannot be made.
    """
    path = Path(folder)
    check_run_folder(path, exists, resume)
    try:
        moved = _move_aside(path) if not resume and path.exists() and _is_run(path) else None
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(describe(f"outputs.folder {path}", error, "a folder to write in", RIGHTS)) from error
    return moved


def check_resumed(folder: Path, checkpoint: Path, fingerprints: dict[str, str]) -> None:
    """Raises `ConfigError` unless the run in `folder` is the one that `checkpoint` belongs to, by the run id that the
    monitor left in the checkpoint (one that was saved without the monitor fits any), and measured with `fingerprints`.
    """
    manifest = read_json(folder / "manifest.json", "manifest")
    expected = {"run id": str(manifest.get("id")), **manifest.get("fingerprints", {})}
    found = dict(fingerprints)
    if (checkpoint / CHECKPOINT_FILE).exists():
        runs = read_json(checkpoint / CHECKPOINT_FILE, "checkpoint's note").get("runs")
        runs = [str(run) for run in runs] if isinstance(runs, list) else []
        found["run id"] = expected["run id"] if expected["run id"] in runs else " and ".join(runs)
    differing = [name for name, value in found.items() if value != expected.get(name)]
    if differing:
        raise ConfigError(
            describe(
                f"resuming in outputs.folder {folder}",
                ", ".join(f"{name} {found[name]}" for name in differing),
                "those of the run in it: " + ", ".join(f"{name} {expected.get(name)}" for name in differing),
                "name the run folder of this checkpoint, or another outputs.folder; use the run's own configuration",
            )
        )


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
