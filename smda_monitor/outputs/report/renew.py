"""The page at the end of a command: written again with what was just found, and never in the way of that.

A page shows what lies in files already. One that cannot be written is said on standard error, with the command that
writes it later; the files and the command's exit code stay as they are.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ..text import plain
from .rendering import PAGE
from .write import write_report


def renew_report(folder: Path) -> None:
    """Writes the page of `folder` and prints where it lies, or why it could not be written."""
    try:
        print(f"report: {write_report(folder)}")
    except Exception as error:  # whatever it is: what was found is on disk, and that is what counts
        kept = "the page there is an earlier one" if (folder / PAGE).is_file() else "there is no page"
        why = f"{type(error).__name__}: {error}"
        print(
            f"report: NOT written ({plain(why)}); {kept}. Everything that was found is kept: {folder}. "
            f"`smda report {folder}` writes the page from it.",
            file=sys.stderr,
        )


def renew_report_with(run: Path, part: str, found: Path) -> None:
    """`renew_report` of the audit in `run`, after a command that wrote what it found into the folder `found`. The
    page shows ``run/part`` alone: where `found` is another folder, that is said instead."""
    if found.resolve() == (run / part).resolve():
        renew_report(run)
    else:
        print(f"The page of {run} shows {run / part}, and nothing of {found}.")
