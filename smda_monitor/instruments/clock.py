"""Clocks: one that a device cannot fool, and one for hooks inside the trainer's own forward and backward."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
Found = TypeVar("Found")
Timed = Callable[[Callable[..., Any]], Callable[..., Any]]
"""What is put around a hook."""


class WaitingClock:
    """Seconds of wall time, read after all that was queued on a CUDA device is done: else whoever asks for the next
    result, here the monitor, would seem to have spent the time of the backward pass before it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __call__(self) -> float:
        """Now."""
        torch.cuda.synchronize(self._device)
        return time.perf_counter()


def device_clock(device: torch.device) -> Callable[[], float]:
    """Seconds of wall time, from any origin, by a clock that waits where `device` works on its own."""
    return WaitingClock(device) if device.type == "cuda" else time.perf_counter


class HookClock:
    """Adds up what hooks take by `clock`. Training may not wait for them, so a `WaitingClock` is not asked: where a
    device works on its own, what they queue there is not counted."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = time.perf_counter if isinstance(clock, WaitingClock) else clock
        self.seconds = 0.0
        """So far."""

    def timed(self, hook: Callable[P, Found]) -> Callable[P, Found]:
        """`hook`, whose time is added."""

        def run(*args: P.args, **kwargs: P.kwargs) -> Found:
            begun = self._clock()
            try:
                return hook(*args, **kwargs)
            finally:
                self.seconds += self._clock() - begun

        return run


def untimed(hook: Callable[P, Found]) -> Callable[P, Found]:
    """`hook` itself."""
    return hook
