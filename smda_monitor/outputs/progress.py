"""A bar with the time left, for jobs that run without a trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console


@contextmanager
def progress(
    what: str, total: int, console: Console | None = None, hidden: bool = False
) -> Iterator[Callable[[int], None]]:
    """Inside, a bar on standard error, unless `hidden`; call what it gives with how many of `total` are done since the
    last call."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console or Console(stderr=True), disable=hidden) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)
