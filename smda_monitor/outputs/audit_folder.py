"""The folder of one audit: never mixed with anything else, and resumed only as the audit that it is.

Its manifest comes first: what is judged, and how far it has got (`job_folder`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError, describe
from .job_folder import begin_set_up, check_same_job, was_set_up

KIND = "audit"
"""What the manifest calls it."""


def begin_audit(folder: Path, identity: Mapping[str, Any], resume: bool) -> bool:
    """Whether the audit of `identity` begins in `folder`, which then has a manifest; False: it goes on.

    Raises `ConfigError`, and leaves everything as it is, unless `folder` is empty or not there; to resume, unless it
    holds the same audit.
    """
    if resume:
        check_same_job(folder, KIND, identity)
    elif folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not was_set_up(folder, KIND))):
        remedy = "name another folder, or --resume an audit of the same data."
        found = "a file" if not folder.is_dir() else "a folder that is not empty"
        raise ConfigError(describe(f"--out {folder}", found, "an empty folder, or none", remedy))
    new = not resume or was_set_up(folder, KIND)
    if new:
        begin_set_up(folder, KIND, identity)
    return new
