"""The folder of a long job that can be stopped and gone on with: its manifest says what the job is and how far it got.

manifest.json    ``kind``, the job's identity, ``status`` (running until the end), ``started``
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ConfigError, describe
from .files import is_temporary, read_json, to_json, write_text
from .ledger import now

_HEAD = "manifest.json"


def check_job_folder(folder: Path, kind: str, resume: bool) -> None:
    """Before anything dear is done. Raises `ConfigError` where a new job's `folder` holds anything, or one to be gone
    on with holds no job of this `kind`."""
    if resume:
        if _manifest(folder).get("kind") != kind:
            found = f"the folder of no {kind}"
            raise ConfigError(
                describe(f"--out {folder}", found, "the one to resume", "name the folder it was run into")
            )
    elif folder.exists() and (not folder.is_dir() or any(not is_temporary(path) for path in folder.iterdir())):
        remedy = f"name another folder, or --resume a {kind} that was stopped"
        found = "a folder that is not empty" if folder.is_dir() else "a file"
        raise ConfigError(describe(f"--out {folder}", found, "an empty folder, or none", remedy))


def begin_job(folder: Path, kind: str, identity: Mapping[str, Any], resume: bool) -> None:
    """Writes the manifest of a new job; holds that of one to be gone on with against `identity`,
    and marks it as running again.

    Raises `ConfigError` naming what differs.
    """
    if not resume:
        _write(folder, {"kind": kind, **identity, "status": "running", "started": now()})
        return
    known = _manifest(folder)
    differing = [key for key, value in identity.items() if known.get(key) != json.loads(to_json(value))]
    if differing:
        found, remedy = f"a {kind} with other {' and '.join(differing)}", "name another folder, or ask for the same"
        raise ConfigError(describe(f"--out {folder}", found, "the one to resume", remedy))
    _write(folder, {**known, "status": "running"})


@contextmanager
def new_job(folder: Path, resume: bool) -> Iterator[None]:
    """A new job that cannot be set up inside leaves nothing behind, so that the next try finds the folder as it was."""
    try:
        yield
    except BaseException:
        if not resume:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def finish_job(folder: Path) -> None:
    """Marks the job as finished."""
    _write(folder, {**_manifest(folder), "status": "finished"})


def _manifest(folder: Path) -> dict[str, Any]:
    found = read_json(folder / _HEAD, "manifest")
    return found if isinstance(found, dict) else {}


def _write(folder: Path, content: Mapping[str, Any]) -> None:
    write_text(folder / _HEAD, to_json(dict(content), indent=2))
