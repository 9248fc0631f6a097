"""The page of whatever a folder holds: a monitored run, an audit of data or several, or a policy laid open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ...errors import ConfigError, describe
from ..files import read_json
from .behaviours_page import behaviours_page
from .data_audit_page import audit_page
from .page import run_page
from .policy_page import policy_page
from .rendering import save_page

_PAGES: Mapping[str | None, Callable[[Path], str]] = {
    None: run_page,
    "audit": audit_page,
    "audits": behaviours_page,
    "policy": policy_page,
}
"""By the manifest's ``kind``; a run's has none."""
_EXPECTED = "the folder of a run, an audit or a policy"


def write_report(folder: str | Path) -> Path:
    """Writes ``report.html`` into `folder` from what lies there, and returns its path. What the folder holds is said by
    its manifest: ``kind`` is ``audit``, ``audits`` (one for each of several behaviours, the page their index) or
    ``policy``; without a kind it is a monitored run.

    Raises `ConfigError` for a folder that holds none of them or a file that cannot be read, and where the page cannot
    be written.
    """
    path = Path(folder)
    kind = _kind(path)
    if kind not in _PAGES:
        remedy = "name such a folder; what belongs to an audit is on the audit's page"
        raise ConfigError(describe(f"folder {path}", f"one of kind {kind!r}", _EXPECTED, remedy))
    return save_page(path, _PAGES[kind](path))


def _kind(folder: Path) -> str | None:
    """What its manifest says of `folder`; None for a run, whose manifest says nothing, and for no folder at all."""
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        inside = sorted(path.parent.name for path in folder.glob("*/manifest.json"))
        if inside:
            remedy = f"name one in it: {', '.join(inside[:5])}"
            raise ConfigError(describe(f"folder {folder}", "no manifest.json", _EXPECTED, remedy))
        return None
    found = read_json(manifest, "manifest")
    kind = found.get("kind") if isinstance(found, dict) else None
    return None if kind is None else str(kind)
