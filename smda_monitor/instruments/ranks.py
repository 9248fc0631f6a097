"""Several processes that share one job under torchrun, each with a whole model of its own.

They meet in the launcher's key-value store. There is no process group, and the launcher's variables are taken out of
the environment: transformers, Accelerate and TRL see one process each, and nothing of theirs waits for the others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch

from ..errors import ConfigError, PrerequisiteError, describe

Part = TypeVar("Part")
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""By which a process knows that it has company."""
POLL = 0.1
"""Seconds between two looks at who has arrived."""
_FAILED = "failed"


class Rank:
    """One of `count` processes, by `number` from 0."""

    def __init__(self, number: int = 0, count: int = 1) -> None:
        self.number, self.count = number, count

    @property
    def first(self) -> bool:
        """Whether this is the process that writes what is written once."""
        return self.number == 0

    def share(self, parts: Sequence[Part]) -> Sequence[Part]:
        """Every `count`-th of `parts`, from `number` on: the ranks' shares are all parts, each once."""
        return parts[self.number :: self.count]


class Ranks(Rank):
    """Processes that meet in a `store`; None for a process alone."""

    def __init__(self, number: int = 0, count: int = 1, store: Any = None) -> None:
        super().__init__(number, count)
        self._store = store
        self._meetings = 0

    @classmethod
    def joined(cls) -> Ranks:
        """This process as torchrun started it, or alone; its variables are out of the environment afterwards.

        Where each process of a machine could see all GPUs, it sees its own from here on. Raises `ConfigError` for
        variables that are no numbers, `PrerequisiteError` where the others cannot be reached.
        """
        numbers = _numbers({name: os.environ[name] for name in VARIABLES if os.environ.get(name)})
        if numbers.get("WORLD_SIZE", 1) == 1:
            _forget()
            return cls()
        from torch.distributed.rendezvous import rendezvous

        try:
            store, number, count = next(rendezvous("env://"))
        except (RuntimeError, ValueError) as error:
            remedy = "start it by torchrun --standalone --nproc-per-node N -m smda_monitor …"
            raise PrerequisiteError(describe("meeting the other ranks", error, "torchrun's store", remedy)) from error
        _forget()
        _take_one_device(numbers.get("LOCAL_RANK", 0))
        return cls(number, count, store)

    def meet(self, stage: str) -> None:
        """Returns when every rank has called it as often as this one, always with the same `stage`s.

        Raises `PrerequisiteError` where another rank has failed.
        """
        if self._store is None:
            return
        self._meetings += 1
        everyone = [f"{self._meetings}/{stage}/{number}" for number in range(self.count)]
        self._store.set(everyone[self.number], "here")
        while not self._store.check(everyone):
            if self._store.check([_FAILED]):
                rank, _, why = self._store.get(_FAILED).decode("utf-8", "replace").partition(":")
                found = f"rank {rank} failed: {why}"
                remedy = "mend what it names, and start all ranks again with --resume."
                raise PrerequisiteError(describe(f"rank {self.number}", found, "all ranks at work", remedy))
            time.sleep(POLL)

    @contextmanager
    def first_alone(self, stage: str) -> Iterator[None]:
        """What is inside is done by the first rank, and only then by all others; raises as `meet`."""
        if not self.first:
            self.meet(stage)
        yield
        if self.first:
            self.meet(stage)

    @contextmanager
    def together(self) -> Iterator[None]:
        """An error inside is told to the others, which end at their next meeting."""
        try:
            yield
        except BaseException as error:
            if self._store is not None:
                with suppress(RuntimeError):  # the first cause counts, not that the store has gone with it
                    self._store.compare_set(_FAILED, "", f"{self.number}:{str(error) or type(error).__name__}")
            raise


def _forget() -> None:
    for name in VARIABLES:
        os.environ.pop(name, None)


def _take_one_device(local: int) -> None:
    """Of the machine's GPUs, so that none is used twice and the trainer does not spread over all."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    if devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[local % len(devices)]


def _numbers(found: dict[str, str]) -> dict[str, int]:
    try:
        return {name: int(value) for name, value in found.items()}
    except ValueError as error:
        remedy = "take it out, or start by torchrun."
        raise ConfigError(describe("the environment", error, "whole numbers of torchrun", remedy)) from error
