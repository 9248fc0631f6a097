"""The folder of a long job that can be stopped and gone on with: its manifest says what the job is and how far it got.

manifest.json    ``kind``, the job's identity, ``status`` (setting up, running, finished), ``started``

What was killed while it was set up holds no result yet, and is begun anew.
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

MANIFEST = "manifest.json"
"""The file's name."""
SETTING_UP = "setting up"
"""The status before there is anything to go on with."""


def check_job_folder(folder: Path, kind: str, resume: bool) -> bool:
    """Whether a job of this `kind` begins in `folder`; False: it goes on. Before anything dear is done. Raises
    `ConfigError` where a new job's `folder` holds anything, or one to be gone on with holds no job of this `kind`."""
    if was_set_up(folder, kind):
        return True
    if resume:
        if _manifest(folder).get("kind") != kind:
            remedy = "name the folder that it was run into"
            raise ConfigError(describe(f"--out {folder}", f"the folder of no {kind}", "the one to resume", remedy))
    elif folder.exists() and (not folder.is_dir() or any(not is_temporary(path) for path in folder.iterdir())):
        remedy = f"name another folder, or --resume a {kind} that was stopped"
        found = "a folder that is not empty" if folder.is_dir() else "a file"
        raise ConfigError(describe(f"--out {folder}", found, "an empty folder, or none", remedy))
    return not resume


def begin_set_up(folder: Path, kind: str, identity: Mapping[str, Any]) -> None:
    """Writes the manifest of a job that is about to be set up; `identity` is what is known of it by then."""
    write_text(folder / MANIFEST, to_json({**identity, "kind": kind, "status": SETTING_UP}, indent=2))


def was_set_up(folder: Path, kind: str) -> bool:
    """Whether `folder` is what a kill left of a job of this `kind` that had done nothing."""
    path = folder / MANIFEST
    known = read_json(path, "manifest") if path.is_file() else {}
    return isinstance(known, dict) and known.get("kind") == kind and known.get("status") == SETTING_UP


def begin_job(folder: Path, kind: str, identity: Mapping[str, Any], resume: bool) -> None:
    """Writes the manifest of a new job; of one to be gone on with it is checked, and says again that the job runs."""
    if resume:
        check_same_job(folder, kind, identity)
        add_to_manifest(folder, {"status": "running"})
    else:
        content = {"kind": kind, **identity, "status": "running", "started": now()}
        write_text(folder / MANIFEST, to_json(content, indent=2))


def check_same_job(folder: Path, kind: str, identity: Mapping[str, Any]) -> None:
    """Raises `ConfigError` where the manifest in `folder` cannot be read or says other things than `identity`."""
    known = _manifest(folder)
    differing = [key for key, value in identity.items() if known.get(key) != json.loads(to_json(value))]
    if differing:
        remedy = "name another folder, or ask for the same data with the same configuration."
        found = f"{'an' if kind[0] in 'aeiou' else 'a'} {kind} with other {' and '.join(differing)}"
        raise ConfigError(describe(f"--out {folder}", found, "the one to resume", remedy))


@contextmanager
def removed_on_error(folder: Path, new: bool) -> Iterator[None]:
    """A `new` job that cannot be set up leaves nothing behind, so that the next try finds the folder as it was."""
    try:
        yield
    except BaseException:
        if new:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def add_to_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes the manifest in `folder` again, with `content`."""
    write_text(folder / MANIFEST, to_json({**_manifest(folder), **content}, indent=2))


def _manifest(folder: Path) -> dict[str, Any]:
    found = read_json(folder / MANIFEST, "manifest")
    return found if isinstance(found, dict) else {}
