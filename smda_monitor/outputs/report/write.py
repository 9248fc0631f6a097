"""The page of whatever a folder holds: a monitored run, an audit of data, or a policy laid open."""

from __future__ import annotations

from pathlib import Path

from ..files import read_json
from .data_audit_page import audit_page
from .page import run_page
from .policy_page import policy_page
from .rendering import save_page


def write_report(folder: str | Path) -> Path:
    """Writes ``report.html`` into `folder` from what lies there, and returns its path. What the folder holds is said by
    its manifest: ``kind`` is ``audit`` or ``policy``; without a kind it is a monitored run.

    Raises `ConfigError` for a folder that holds none of them or a file that cannot be read, and where the page cannot
    be written.
    """
    manifest = Path(folder) / "manifest.json"
    found = read_json(manifest, "manifest") if manifest.is_file() else None
    kind = found.get("kind") if isinstance(found, dict) else None
    page = {"audit": audit_page, "policy": policy_page}.get(str(kind), run_page)
    return save_page(folder, page(folder))
