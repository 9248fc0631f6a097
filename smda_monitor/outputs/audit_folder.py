"""The folder of one audit: never mixed with anything else, and resumed only as the audit that it is.

``manifest.json`` comes first: what is judged, and how far it has got (``setting up``, ``running``, ``finished``). What
was killed while it was set up holds no judgement yet, and is begun anew.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import ConfigError, describe
from .files import read_json, to_json, write_text

_MANIFEST = "manifest.json"
SETTING_UP = "setting up"
"""The status before anything is judged."""


def begin_audit(folder: Path, identity: Mapping[str, Any], resume: bool) -> bool:
    """Whether the audit of `identity` begins in `folder`, which then has a manifest; False: it goes on.

    Raises `ConfigError`, and leaves everything as it is, unless `folder` is empty or not there; to resume, unless it
    holds the same audit.
    """
    if resume:
        check_same_audit(folder, identity)
    elif folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not _was_set_up(folder))):
        remedy = "name another folder, or --resume an audit of the same data."
        found = "a file" if not folder.is_dir() else "a folder that is not empty"
        raise ConfigError(describe(f"--out {folder}", found, "an empty folder, or none", remedy))
    new = not resume or _was_set_up(folder)
    if new:
        write_text(folder / _MANIFEST, to_json({**identity, "kind": "audit", "status": SETTING_UP}, indent=2))
    return new


def _was_set_up(folder: Path) -> bool:
    """Whether `folder` is what a kill left of an audit that had judged nothing."""
    path = folder / _MANIFEST
    known = read_json(path, "manifest") if path.is_file() else {}
    return isinstance(known, dict) and known.get("kind") == "audit" and known.get("status") == SETTING_UP


def check_same_audit(folder: Path, identity: Mapping[str, Any]) -> None:
    """Raises `ConfigError` where the manifest in `folder` cannot be read or says other things than `identity`."""
    known = read_json(folder / _MANIFEST, "manifest")
    differing = [key for key, value in identity.items() if known.get(key) != json.loads(to_json(value))]
    if differing:
        remedy = "name another folder, or ask for the same data with the same configuration."
        found = f"an audit with other {' and '.join(differing)}"
        raise ConfigError(describe(f"--out {folder}", found, "the one to resume", remedy))


@contextmanager
def removed_on_error(folder: Path, new: bool) -> Iterator[None]:
    """A `new` audit that cannot be set up leaves nothing behind, so that the next try finds the folder as it was."""
    try:
        yield
    except BaseException:
        if new:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def add_to_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes the manifest in `folder` again, with `content`."""
    known = read_json(folder / _MANIFEST, "manifest")
    write_text(folder / _MANIFEST, to_json({**known, **content}, indent=2))
