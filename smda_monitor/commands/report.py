"""`smda report RUN`: the page of a folder written again from what lies in it, and its headline figures. Wiring."""

from __future__ import annotations

from pathlib import Path

from ..outputs.json_file import check_json_file, write_json_file
from ..outputs.report import write_report
from ..outputs.report_figures import report_figures


def run_report(run: Path, json: Path | None = None) -> Path:
    """Writes the page of the folder `run` and, where a file is named, its headline figures to `json`; the page's path.

    Raises `ConfigError` for a folder that cannot be read and for files that cannot be written.
    """
    check_json_file(json)
    page = write_report(run)
    if json is not None:
        write_json_file(json, report_figures(page, run))
    return page
