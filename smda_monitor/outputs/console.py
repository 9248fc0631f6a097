"""The run on a terminal: progress with time left, a line when something is found, and what to look at in the end.

In a log file (no terminal) the same as plain lines. Nothing that comes from data is parsed: no markup, no escape codes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..maths.totals import leading_balances, missed_fraction, named_fraction
from ..records.account import StepAccount
from ..records.alert import Alert
from ..records.audit import AuditEntry
from ..records.config import REFUSAL
from ..records.probes import KINDS
from ..records.snapshot import Snapshot
from .ranking import intention, rank_rows
from .sink import RunHeader
from .summary import audit_line, median_unexplained, overhead_line
from .text import duration, number, percent, plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

LEADING_ROWS = 10
"""Rows listed at the end."""
LOG_LINES = 20
"""Progress lines of a whole run where there is no terminal."""
LOG_WIDTH = 120
"""Columns where there is no terminal to ask."""
_SHORT = {"harmful": "harmful", "lookalike": "look-alike", "benign": "benign"}


class ConsoleSink:
    """A `Sink` for the person who waits.

    `max_steps` is the run's last optimizer step. `console` is where to print; by default standard error, so that a
    program's own output stays clean. Of several monitors of one terminal the first has the bar, the others print lines.
    """

    _with_bar: ClassVar[ConsoleSink | None] = None

    def __init__(self, max_steps: int, console: Console | None = None) -> None:
        self._max_steps = max_steps
        self._console = console or _default_console()
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._accounts: list[StepAccount] = []
        self._audits: list[AuditEntry] = []
        self._past = 0
        self._alerts = 0
        self._behaviour = REFUSAL
        self._run: RunHeader | None = None
        self._began = time.monotonic()

    def start(self, run: RunHeader) -> None:
        """Says what is watched, and starts the bar on a terminal."""
        self._run, self._behaviour = run, run.behaviour
        self._began = time.monotonic()
        self._accounts = list(run.past.accounts)
        self._audits = list(run.past.audits)
        self._past = len(self._accounts)
        self._alerts = len(run.past.alerts)
        quality = run.policy.quality
        self._say(
            f"{len(run.probes)} probes, {len(run.policy.feature_ids)} features ({self._encoder(run)}), policy "
            f"{run.policy.preset} {'with' if run.policy.has_intercept else 'without'} intercept (R² "
            f"{quality.r2_heldout:.2f} on held-out prompts, constant {quality.r2_constant:.2f}), "
            f"{self._max_steps} steps, ledger in {run.folder}"
        )
        if meant := run.manifest.get("meant"):
            self._say(str(meant))
        if ConsoleSink._with_bar is not None:
            self._console = ConsoleSink._with_bar._console  # what it prints stands above the bar
        elif self._console.is_terminal:
            self._progress, self._task = _bar(self._console, self._max_steps)
            self._progress.start()
            ConsoleSink._with_bar = self

    @staticmethod
    def _encoder(run: RunHeader) -> str:
        """Which encoder reads them, and where: a proxy is never used without a word."""
        gate = run.manifest.get("config", {}).get("dictionary", {}).get("gate")
        return f"{gate} gate at {run.manifest.get('hookpoint')}"

    def snapshot(self, s: Snapshot) -> None:
        """Says nothing: each account tells what its snapshot found."""

    def audits(self, audits: Sequence[AuditEntry]) -> None:
        """Says nothing before the end."""
        self._audits += audits

    def account(self, a: StepAccount) -> None:
        """Moves the bar, or prints a line every twentieth of the run."""
        self._accounts.append(a)
        reading = " ".join(
            f"{_SHORT[kind]} {number(a.refusal[f'mass.{kind}'])}" for kind in KINDS if f"mass.{kind}" in a.refusal
        )
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=a.step, reading=reading)
        elif self._is_time(a):
            left = f", {duration(self._seconds_left(a.step))} left" if a.step < self._max_steps else ""
            share = f" ({100 * a.step // self._max_steps} %)" if self._max_steps else ""
            self._say(f"step {a.step}/{self._max_steps}{share}{left}; {self._behaviour} log-odds: {reading}")

    def alert(self, a: Alert) -> None:
        """One line at once."""
        self._alerts += 1
        rows = f"; rows behind it: {', '.join(plain(row, 40) for row in a.rows[:3])}" if a.rows else ""
        self._say(f"ALERT at step {a.step}: {a.title}{rows}. {a.advice}", style="bold red")

    def finish(self, summary: dict[str, Any]) -> None:
        """The leading rows, the balance, and where everything lies."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = ConsoleSink._with_bar = None
        if not self._accounts:
            self._say(f"{summary.get('status', 'finished')}, no step was accounted for")
        else:
            self._rows_table()
            self._balance_table()
        medians, after = median_unexplained(self._accounts)
        which = "after warm-up" if after else "warm-up only, low confidence"
        alerts = "1 alert" if self._alerts == 1 else f"{self._alerts} alerts"
        self._say(
            f"{summary.get('status', 'finished')} after {len(self._accounts)} accounts, {alerts}; "
            f"median unexplained: output {percent(medians['output'])}, feature {percent(medians['feature'])} ({which})"
        )
        if self._audits:
            self._say(audit_line(self._audits))
        if summary.get("overhead"):
            self._say(overhead_line(summary["overhead"]))
        if self._run is not None:
            for name, what in _PLACES.items():
                if (self._run.folder / name).exists():
                    self._say(f"  {self._run.folder / name}  {what}")

    def _is_time(self, a: StepAccount) -> bool:
        """Every twentieth of the run, and at both its ends."""
        stride = max(1, self._max_steps // LOG_LINES)
        first = len(self._accounts) == self._past + 1
        return first or a.step // stride > a.since // stride or a.step >= self._max_steps

    def _seconds_left(self, step: int) -> float:
        """From the steps this process has taken: a resumed run did not take those before."""
        done = step - self._accounts[self._past].since
        return (time.monotonic() - self._began) / done * max(0, self._max_steps - step)

    def _rows_table(self) -> None:
        from rich.table import Table

        leading = rank_rows(self._accounts)[:LEADING_ROWS]
        mark = " (*: in warm-up, low confidence)" if any(row.warm_up for row in leading) else ""
        table = Table(title=f"Leading rows by score{mark}", title_justify="left")
        table.add_column("row", no_wrap=True, max_width=40)
        for name in ("step", "score", "own push", "push S_X", "push S_Y", "feature", "interference", "unintended"):
            table.add_column(name, justify="right", no_wrap=True)
        for ranked in leading:
            row = ranked.entry
            interference = "n/a" if row.interference != row.interference else f"{row.interference:.2f}"
            cells = [f"{row.step}{'*' if ranked.warm_up else ''}", number(row.score), number(row.own_push)]
            cells += [number(row.push.get(target, float("nan"))) for target in ("S_X", "S_Y")]
            cells += [str(row.dominant_feature), interference, intention(row)]
            table.add_row(*(_inert(cell) for cell in (plain(row.row_id, 40), *cells)))
        self._console.print(table)

    def _balance_table(self) -> None:
        from rich.table import Table

        table = Table(title="Balance of the accounts, summed over the run", title_justify="left")
        table.add_column("target", no_wrap=True)
        for name in ("measured", "shares", "history", "decay", "unexplained", "of measured", "named"):
            table.add_column(name, justify="right", no_wrap=True)
        for target, entries in leading_balances(self._accounts).items():
            parts = ("measured", "shares", "history", "decay", "unexplained")
            sums = [number(sum(getattr(b, part) for b in entries)) for part in parts]
            fractions = [percent(of(entries)) for of in (missed_fraction, named_fraction)]
            table.add_row(*(_inert(cell) for cell in (plain(target, 40), *sums, *fractions)))
        self._console.print(table)

    def _say(self, line: str, style: str | None = None) -> None:
        from rich.text import Text

        indent = len(line) - len(line.lstrip(" "))
        if not indent:
            line = f"smda: {line}" if self._behaviour == REFUSAL else f"smda {self._behaviour}: {line}"
        text = Text(" " * indent + plain(line), style=style or "")
        self._console.print(text, soft_wrap=True, highlight=False)


_PLACES = {
    "report.html": "the report, opens in any browser",
    "summary.json": "closing figures",
    "manifest.json": "what ran",
    "ledger": "every row and every step, as Parquet",
    "alerts.jsonl": "alerts",
    "review.jsonl": "rows that they name, with reasons",
}
"""What the run folder holds, for the last lines."""


def _inert(cell: str) -> Any:
    """A cell that rich prints as it is: a `Text` is not searched for markup."""
    from rich.text import Text

    return Text(cell)


def _default_console() -> Console:
    import sys

    from rich.console import Console

    console = Console(stderr=True)
    return console if console.is_terminal else Console(file=sys.stderr, width=LOG_WIDTH, no_color=True)


def _bar(console: Console, max_steps: int) -> tuple[Progress, TaskID]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    progress = Progress(
        TextColumn("smda"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[reading]}", markup=False),
        console=console,
    )
    return progress, progress.add_task("smda", total=max_steps, reading="")
