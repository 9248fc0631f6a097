"""The pace of a run: measures what the monitor takes beside training and, under a budget of time, chooses how often it
measures how many probes. Wiring, no arithmetic: the choice is `maths.budget`."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

from ..errors import describe
from ..instruments.clock import HookClock
from ..maths.budget import (
    LONGEST,
    ROTATION,
    Choice,
    Costs,
    Limits,
    audit_part,
    choose,
    fewest_probes,
    running_median,
    settle,
)
from ..outputs.text import percent
from ..records.account import Method, StepAccount
from ..records.config import MonitorConfig
from ..records.overhead import Overhead
from ..records.probes import KINDS

logger = logging.getLogger("smda_monitor")
LATEST = 4
"""Accounts whose longest interval a resumed run goes on with: a checkpoint cuts the last one short."""


@dataclass(frozen=True, slots=True)
class AccountSeconds:
    """Where the time of one account went."""

    measured: int
    """Probes measured."""
    probes: float
    """Of the pass over them, with gradients."""
    own: float = 0.0
    """Of the rows' own prompts, all steps."""
    split: float = 0.0
    """Of reading the steps on the probes, and of replays where the account is made of them."""
    steps: int = 1
    """Steps covered, ≥ 1."""
    replays: float = 0.0
    """What of `split` was spent before the steps were taken."""


class Pace:
    """Asked for `every` and `probes` before each step, told what everything took.

    Without ``overhead`` both stay as configured, as far as the steps that wait for an account fit into memory, and only
    the cost is measured. With it the first interval is chosen
    after the first step, from the probe pass before it, and again after every account from medians of what accounts and
    steps took. `clock` gives seconds; `probes` of the set's `whole` are measured. What is chosen is `agreed`: several
    processes, whose clocks differ, go by the choice of one.
    """

    def __init__(
        self,
        config: MonitorConfig,
        method: Method,
        whole: int,
        probes: int,
        clock: Callable[[], float],
        agreed: Callable[[tuple[int, int]], tuple[int, int]] = lambda chosen: chosen,
    ) -> None:
        self.clock, self._agreed = clock, agreed
        self.hooks = HookClock(clock)
        """Of what is done inside the trainer's own forward and backward."""
        self.overhead = config.overhead
        shortest = config.account.every if method == "split" else 1
        longest = max(LONGEST, shortest) if method == "split" else 1
        self._limits = Limits(whole, probes, fewest_probes(len(KINDS), probes), longest, shortest)
        self.every = shortest if config.overhead is None else longest
        """Steps that the coming account covers."""
        self.probes = probes
        """Probes that it measures."""
        self.accounts = 0
        """Made so far, those before a resume included."""
        self._memory = config.memory_gib * 2**30
        self._audits = 0.0 if config.overhead is None else audit_part(config.audit.share, config.overhead)
        self._share = config.audit.share
        self._began = clock()
        self._entered: float | None = None
        self._worked = self._seen = self._mark = self._audited = 0.0
        self._steps: list[float] = []
        self._costs: dict[str, list[float]] = {field.name: [] for field in fields(Costs)}
        self._told = self._restored = self._over = False
        self.beside: list[Pace] = []
        """Of other monitors of the same training: what they take is no time of plain training either."""

    @property
    def rotation(self) -> int:
        """Number of the choice of probes that the coming account measures; 0 without a budget, or with all probes."""
        rotates = self.overhead is not None and self.probes < self._limits.whole
        return self.accounts // ROTATION if rotates else 0

    @contextmanager
    def working(self) -> Iterator[None]:
        """Around everything that the monitor does while training waits; may be nested."""
        outermost = self._entered is None
        if outermost:
            self._entered = self.clock()
        try:
            yield
        finally:
            if outermost and self._entered is not None:
                self._worked += self.clock() - self._entered
                self._entered = None

    def begin(self) -> None:
        """Training begins: what came before is nobody's overhead."""
        self._began, self._worked, self._mark, self._seen = self.clock(), 0.0, 0.0, 0.0
        self.hooks.seconds = 0.0

    @property
    def worked(self) -> float:
        """Seconds that the monitor took since `begin`."""
        now = self.clock() - self._entered if self._entered is not None else 0.0
        return self._worked + self.hooks.seconds + now

    @property
    def plain(self) -> float:
        """Seconds of plain training since `begin`."""
        return self.clock() - self._began - self.worked - sum(other.worked for other in self.beside)

    def audit_seconds(self, elapsed: float) -> float:
        """What replays of drawn rows may have taken so far; `elapsed` is the run's seconds."""
        allowed = self._share * elapsed
        return allowed if self.overhead is None else min(allowed, self._audits * self.plain)

    def resume(self, accounts: Sequence[StepAccount]) -> None:
        """Goes on as the run did before it stopped, until there are figures of its own."""
        self.accounts = len(accounts)
        if self.overhead is not None and accounts:
            longest = max(account.step - account.since for account in accounts[-LATEST:])
            self.every = min(max(longest, self._limits.shortest), self._limits.longest)
            measured = len(accounts[-1].probe_ids) or self.probes
            self.probes = min(max(measured, self._limits.fewest), self._limits.most)
            self._restored = True

    def first_pass(self, seconds: AccountSeconds, kept: int) -> None:
        """The probe pass before the first step: all that is known of the costs until there is an account. Its
        gradients, `kept` from account to account, hold so many bytes."""
        self._costs["probe"] = [seconds.probes / seconds.measured]
        if kept > self._memory:
            found = (
                f"{kept / 2**30:.2f} GiB of the gradients of {seconds.measured} probes, kept from account to account"
            )
            remedy = "go on; a lower probes.per_step or LoRA rank takes less."
            logger.warning(describe("probes", found, f"{self._memory / 2**30:g} GiB (memory_gib)", remedy))

    def step_taken(self, nbytes: int) -> None:
        """A step is over, and its account is made where it was due; it held `nbytes` bytes until then."""
        plain = self.plain
        self._steps.append(plain - self._seen)
        self._seen = plain
        if nbytes > 0:
            self._fit(nbytes)
        if not self._costs["account"] and not self._restored:
            # The probes stay as they are until a whole account shows what they cost.
            self._choose(replace(self._limits, most=self.probes, fewest=self.probes))

    def account_made(self, seconds: AccountSeconds, whole: float, audited: float) -> None:
        """An account is made: where its time went, all that it took up to here, and what all audits took so far."""
        self.accounts += 1
        audits, self._audited = audited - self._audited, audited
        since = self.worked - self._mark
        if not self._costs["account"]:
            self._costs["probe"] = []  # the pass before the first step paid for warming up
        found = {
            "probe": seconds.probes / seconds.measured,
            "split": seconds.split / seconds.steps / seconds.measured,
            "own": seconds.own / seconds.steps,
            "other": max(0.0, since - whole - audits - seconds.replays) / seconds.steps,
            "account": max(0.0, whole - seconds.probes - seconds.own - (seconds.split - seconds.replays)),
        }
        for name, figure in found.items():
            self._costs[name].append(figure)
        if self._steps:
            self._choose(self._limits)

    def account_over(self) -> None:
        """What came after the account, another choice of probes measured, belongs to no step."""
        self._mark = self.worked

    def report(self) -> Overhead:
        """What the run cost so far."""
        worked, plain = self.worked, self.plain
        return Overhead(self.overhead, worked / plain if plain > 0 else math.nan, self.every, self.probes)

    def _fit(self, nbytes: int) -> None:
        """No account covers more steps than fit into memory, each with so many bytes."""
        steps, gib = max(1, int(self._memory // nbytes)), f"{self._memory / 2**30:g} GiB (memory_gib)"
        if nbytes > self._memory and not self._over:
            self._over = True
            found = f"{nbytes / 2**30:.2f} GiB of one step's rows and optimizer state"
            logger.warning(describe("account", found, gib, "go on; smaller batches or a lower LoRA rank take less."))
        if steps < self._limits.shortest:
            found = f"account.every {self._limits.shortest}, {steps} of whose steps fit into memory at a time"
            remedy = f"go on, with an account at least every {steps} steps; or give a larger memory_gib."
            logger.warning(describe("account", found, f"all to fit into {gib}", remedy))
        longest, shortest = min(self._limits.longest, steps), min(self._limits.shortest, steps)
        self._limits = replace(self._limits, longest=longest, shortest=shortest)
        self.every = min(self.every, longest)

    def _choose(self, limits: Limits) -> None:
        if self.overhead is None:
            return
        known = {name: running_median(figures) for name, figures in self._costs.items() if figures}
        costs = Costs(**{**known, "step": running_median(self._steps)})
        wanted = choose(costs, limits, self.overhead, self._audits)
        chosen = self._agreed(settle((self.every, self.probes), wanted, limits.longest))
        if chosen != (self.every, self.probes):
            self.every, self.probes = chosen
            # A warning, since Python shows no milder message by itself, and what was chosen is to be seen.
            message = "overhead: %s asked, about %s expected with account.every %d and %d probes, audits up to %s"
            logger.warning(message, percent(self.overhead), percent(wanted.expected), *chosen, percent(self._audits))
        if not wanted.kept and not self._told and self._costs["account"]:
            self._told = True
            self._tell(wanted, costs)

    def _tell(self, wanted: Choice, costs: Costs) -> None:
        assert self.overhead is not None
        own = percent(costs.own / costs.step) if costs.step > 0 else "all"
        found = (
            f"{percent(wanted.expected)} at the cheapest, one account every {wanted.every} steps on {wanted.probes} "
            f"probes: {percent(wanted.expected - self.overhead)} too much"
        )
        remedy = (
            f"raise overhead; or own_prompts: false, which now take {own} and without which rows have no score; or a "
            "larger memory_gib, where that limits the interval."
        )
        logger.warning(describe("overhead", found, f"{percent(self.overhead)} of plain training time", remedy))
