"""Monitored runs that are killed at random moments, looked at, and gone on with.

A run is a process forked from one that has loaded everything. It tells at the start of each phase (`PHASES`) that it is
there, and is sent SIGKILL a random part of that phase's usual time later; some are killed once more while they are
resumed. What is left is then read; the run is resumed from its last whole checkpoint, or started again where there is
none; and its ledger and weights are held against those of the unbroken run.
"""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import mean
from typing import Any

from _bed import Bed
from _forked import FORK, Untyped, in_child
from _phases import PHASES, followed
from _small_run import STEPS, SmallRun, Weights, same

from smda_monitor.callback import SMDACallback
from smda_monitor.outputs.ledger_reader import read_ledger
from smda_monitor.outputs.report import write_report
from smda_monitor.records.account import StepAccount

PATIENCE = 120.0
"""Seconds after which a run is not working any more."""
RESUMED = "resumed"
"""Killed in training, and again, in any phase, as it went on."""
WAYS = (*PHASES, RESUMED)
"""To be killed, which take turns."""
NONE = "none"
"""Not killed: the run had ended before its turn."""
TRIES = 5
"""Draws for one kill: a run that has ended before its turn was not killed."""


@dataclass(frozen=True, slots=True)
class Kill:
    """When a run dies."""

    phase: str
    """One of `PHASES`."""
    entry: int
    """At so many entries into it, from 1."""
    part: float
    """After this part of the phase's usual time, in [0, 1)."""


@dataclass(frozen=True, slots=True)
class Left:
    """What was found of one killed run."""

    way: str
    """How it was killed, of `WAYS`, or `NONE`."""
    lost: int
    """Rows of accounts that were written, and are not in the ledger."""
    duplicates: int
    """Rows that are in the resumed run's ledger more than once."""
    missing: int
    """Rows of the unbroken run's ledger that are not in the resumed one's."""
    changed: bool
    """Whether its accounts or its weights differ from the unbroken run's."""
    untyped: str
    """The error of another kind than our own; empty without one."""


@dataclass(frozen=True)
class Unbroken:
    """The run that nothing happens to."""

    accounts: tuple[StepAccount, ...]
    weights: tuple[Weights, ...]
    seconds: dict[str, float]
    """Usual time of each phase."""
    entries: dict[str, int]
    """How often it is entered."""


def unbroken(run: SmallRun) -> Unbroken:
    """The run itself, and how long its phases take."""
    times: dict[str, list[float]] = {phase: [] for phase in PHASES}
    began: dict[str, float] = {}

    def tell(phase: str, begins: bool) -> None:
        if begins:
            began[phase] = time.perf_counter()
        else:
            times[phase].append(time.perf_counter() - began[phase])

    callback = SMDACallback(run.config())
    with followed(tell, lambda _: None) as phases:
        weights = run.train([phases, callback])
    return Unbroken(
        tuple(read_ledger(run.home).accounts),
        tuple(weights),
        {phase: mean(found) for phase, found in times.items()},
        {phase: len(found) for phase, found in times.items()},
    )


def killed_runs(bed: Bed, folder: Path, count: int, seed: int, workers: int) -> list[Left]:
    """`count` killed runs, `workers` at a time, in turn with accounts of one and of two steps, and those beside them
    that had ended before."""
    jobs = [list(range(i, count, workers)) for i in range(workers)]
    pipes = []
    for numbers in filter(None, jobs):
        mine, theirs = FORK.Pipe()
        worker = FORK.Process(target=_work, args=(bed, folder / f"worker-{numbers[0]}", numbers, seed, theirs))
        worker.start()
        theirs.close()
        pipes.append((mine, worker))
    found: list[Left] = []
    for mine, worker in pipes:
        found += _received(mine)
        worker.join()
    return found


def _received(pipe: Connection) -> list[Left]:
    try:
        found = pipe.recv()
    except EOFError:
        raise RuntimeError("a worker ended without a word: see its errors above") from None
    assert isinstance(found, list)
    return found


def _work(bed: Bed, folder: Path, numbers: Sequence[int], seed: int, pipe: Connection) -> None:
    runs = {every: SmallRun(bed, folder / f"unbroken-{every}", every) for every in (1, 2)}
    whole = {every: in_child(partial(unbroken, run)) for every, run in runs.items()}
    found: list[Left] = []
    for number in numbers:
        way, every = WAYS[number % len(WAYS)], 1 + number // len(WAYS) % 2
        for attempt in range(TRIES):
            draw = random.Random(f"{seed}-{number}-{attempt}")
            found.append(one_kill(SmallRun(bed, folder / "killed", every), whole[every], way, draw))
            if found[-1].way != NONE:
                break
    pipe.send(found)


def one_kill(run: SmallRun, whole: Unbroken, way: str, draw: random.Random) -> Left:
    """Starts `run`, kills it, looks at what is left and goes on with it."""
    shutil.rmtree(run.folder, ignore_errors=True)
    kills = [_drawn(way, whole, draw)]
    if way == RESUMED:
        kills = [_drawn("training", whole, draw), Kill(draw.choice(PHASES), 1, draw.random())]
    reached, account = True, 0
    for kill in kills:
        reached = _kill(run, kill, whole.seconds, written := FORK.Value("i", 0, lock=False)) and reached
        # What is resumed goes on from the checkpoint.
        account = max(written.value, min(account, run.last_step()))
    left = Left(way if reached else NONE, 0, 0, 0, False, "")
    try:
        known = in_child(partial(_accounts, run)) if (run.home / "manifest.json").is_file() else []
        written_rows = _rows([a for a in whole.accounts if a.step <= account])
        left = replace(left, lost=(written_rows - _rows(known)).total())
        accounts, weights = in_child(partial(_gone_on, run))
    except Untyped as error:
        return replace(left, changed=True, untyped=str(error))
    rows, expected = _rows(accounts), _rows(whole.accounts)
    return replace(
        left,
        duplicates=rows.total() - len(rows),
        missing=(expected - rows).total(),
        changed=_timeless(accounts) != _timeless(whole.accounts) or not same(weights, whole.weights),
    )


def _drawn(phase: str, whole: Unbroken, draw: random.Random) -> Kill:
    entries = whole.entries.get(phase, 1)
    return Kill(phase, draw.randint(1, entries), draw.random())


def _accounts(run: SmallRun) -> list[StepAccount]:
    return read_ledger(run.home).accounts


def _gone_on(run: SmallRun) -> tuple[list[StepAccount], list[Weights]]:
    """The run's accounts and weights once it is through. Where the last checkpoint is of the last step training is over
    (resumed, the trainer takes one step more, with or without the monitor): what is missing is the report."""
    last = run.last_checkpoint()
    if last is not None and run.last_step() == STEPS:
        write_report(run.home)
        weights = run.saved_weights(last)
    else:
        weights = run.monitored(resume=True)
    return read_ledger(run.home).accounts, weights


def _rows(accounts: Sequence[StepAccount]) -> Counter[tuple[int, str]]:
    return Counter((row.step, row.row_hash) for account in accounts for row in account.rows)


def _timeless(accounts: Sequence[StepAccount]) -> list[str]:
    return [repr(replace(account, seconds=0.0)) for account in accounts]


def _kill(run: SmallRun, kill: Kill, seconds: dict[str, float], written: Any) -> bool:
    """Whether the run was killed in that phase; `written` gets the step of the last account in its ledger."""
    mine, theirs = FORK.Pipe(duplex=False)
    child = FORK.Process(target=_until_killed, args=(run, kill, theirs, written))
    child.start()
    theirs.close()
    reached = False
    try:
        if mine.poll(PATIENCE):
            mine.recv()
            time.sleep(kill.part * seconds[kill.phase])
            reached = child.is_alive()
    except EOFError:
        pass  # it ended before
    child.kill()
    child.join()
    return reached


def _until_killed(run: SmallRun, kill: Kill, pipe: Connection, written: Any) -> None:
    entered: Counter[str] = Counter()

    def tell(phase: str, begins: bool) -> None:
        entered[phase] += begins
        if begins and phase == kill.phase and entered[phase] == kill.entry:
            pipe.send(phase)

    def account(step: int) -> None:
        written.value = step

    with followed(tell, account) as phases:
        run.train([phases, SMDACallback(run.config())], resume=True)
