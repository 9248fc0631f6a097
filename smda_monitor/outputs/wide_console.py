"""Where commands print their tables: as wide as the terminal, or of a fixed width where there is none to ask."""

from __future__ import annotations

from rich.console import Console

WIDTH = 120
"""Columns without a terminal."""


def wide_console() -> Console:
    """Standard output."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)
