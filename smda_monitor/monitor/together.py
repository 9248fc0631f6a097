"""Monitors of one and the same training: each knows the others, so that none takes another's folder, name or time.

A training is known by the trainer's state, of which there is one for all of its callbacks. Wiring, no arithmetic.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, describe
from ..records.config import MonitorConfig

if TYPE_CHECKING:
    from .run import MonitoredRun

_watching: list[tuple[Any, MonitoredRun]] = []
"""(the trainer's state, a run that watches it) of all runs with hooks on, in the order in which they began."""


def watching(state: Any) -> list[MonitoredRun]:
    """The runs that watch the training of `state`, in the order in which they began."""
    return [run for known, run in _watching if known is state]


def check_apart(config: MonitorConfig, state: Any) -> None:
    """Raises `ConfigError` where a run with the folder or the behaviour of `config` watches the training already.

    One would move the other's folder away, and in W&B their figures would be one."""
    for run in watching(state):
        other = run.instruments.bench.config
        if Path(config.outputs.folder).resolve() == Path(other.outputs.folder).resolve():
            found = "the folder of another monitor of this training"
            what, expected = f"outputs.folder {config.outputs.folder}", "a folder for each"
        elif config.behaviour.name == other.behaviour.name:
            what, found = f"behaviour.name {config.behaviour.name!r}", "the name of another monitor's of this training"
            expected = "a name for each"
        else:
            continue
        raise ConfigError(describe(what, found, expected, "give this monitor one of its own."))


def join(state: Any, run: MonitoredRun) -> None:
    """`run` watches the training of `state` from now on. What its setting up took, and what it will take, is no time of
    plain training to the others."""
    others = watching(state)
    _watching.append((state, run))
    for other in others:
        other.pace.begin()
        other.pace.beside.append(run.pace)
        run.pace.beside.append(other.pace)


def leave(run: MonitoredRun) -> None:
    """`run` has ended."""
    _watching[:] = [entry for entry in _watching if entry[1] is not run]
