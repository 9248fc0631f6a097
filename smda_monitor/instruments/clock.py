"""A clock that a device cannot fool: work that was only queued is waited for before the time is read."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def device_clock(device: torch.device) -> Callable[[], float]:
    """Seconds of wall time, from any origin. On CUDA it waits for the device first: else whoever asks for the next
    result, here the monitor, would seem to have spent the time of the backward pass before it."""
    if device.type != "cuda":
        return time.perf_counter

    def synchronized() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronized
