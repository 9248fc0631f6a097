"""The folder of one audit: never mixed with anything else, and resumed only as the audit that it is.

Its manifest comes first: what is judged, and how far it has got (``setting up``, ``running``, ``finished``). What was
killed while it was set up holds no judgement yet, and is begun anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError, describe
from .files import read_json, to_json, write_text
from .job_folder import MANIFEST, check_same_job

KIND = "audit"
"""What the manifest calls it."""
SETTING_UP = "setting up"
"""The status before anything is judged."""


def begin_audit(folder: Path, identity: Mapping[str, Any], resume: bool) -> bool:
    """Whether the audit of `identity` begins in `folder`, which then has a manifest; False: it goes on.

    Raises `ConfigError`, and leaves everything as it is, unless `folder` is empty or not there; to resume, unless it
    holds the same audit.
    """
    if resume:
        check_same_job(folder, KIND, identity)
    elif folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not _was_set_up(folder))):
        remedy = "name another folder, or --resume an audit of the same data."
        found = "a file" if not folder.is_dir() else "a folder that is not empty"
        raise ConfigError(describe(f"--out {folder}", found, "an empty folder, or none", remedy))
    new = not resume or _was_set_up(folder)
    if new:
        write_text(folder / MANIFEST, to_json({**identity, "kind": KIND, "status": SETTING_UP}, indent=2))
    return new


def _was_set_up(folder: Path) -> bool:
    """Whether `folder` is what a kill left of an audit that had judged nothing."""
    path = folder / MANIFEST
    known = read_json(path, "manifest") if path.is_file() else {}
    return isinstance(known, dict) and known.get("kind") == KIND and known.get("status") == SETTING_UP
