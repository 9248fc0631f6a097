"""Memory that the C library gives back to the system between a step and the next, and must get anew page by page.

glibc returns the free end of its heap, and every block of more than 32 MiB (a batch's logits), as soon as it is freed.
Training gets them again at every step; what lies free for the seconds of a probe pass comes back slower still, and the
forward after it takes up to a half longer. So while a run is monitored on a CPU freed memory stays in the process,
where the next step finds it. A process then holds its peak until the run ends, and the peak is higher by some percent,
since blocks of unlike sizes share one heap. Four things keep it low. What the monitor keeps from step to step lies
apart: in the heap it would split the free space into holes that are too small for the trainer's large blocks. So do the
blocks of the first probe pass (`large_apart`), whose holes no step of training would fill. And around an account of
several steps the heap is trimmed (`trimmed`), so that what waits for it, what the pass needs and what a step of
training needs are not in memory together. And it is trimmed when the process has grown from one step to the next
(`HeapGrowth`): holes add up.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psutil
import torch
from torch import Tensor

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""The numbers by which glibc's `mallopt` knows them (malloc.h)."""
HELD = {M_MMAP_MAX: 0, M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: -1}
"""No block is mapped apart, and the heap's end is not given back."""
RELEASED = {M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: 64 << 20}
"""Where glibc itself starts, or moves to as a process frees large blocks; bytes, and a number of blocks."""
OWN_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")
"""Environment variables by which a user sets them: then nothing is changed."""

LARGE = 1 << 20
"""Bytes from which a block is worth memory of its own."""
APART = {**RELEASED, M_MMAP_THRESHOLD: LARGE}
"""Such blocks are mapped apart."""

GROWN = 1.03
"""Size of the process, over that of an earlier step, from which its heap is trimmed."""

_held = 0
"""For how many runs this process holds its heap; there is one heap for all of it."""


def hold_heap() -> bool:
    """Keeps what is freed from now on until there was a `release_heap` for each call that was true; whether it does."""
    if not _can_be_set():
        return False
    global _held
    _trim()
    if not _set(HELD):
        return False
    _held += 1
    return True


def release_heap() -> None:
    """After a `hold_heap` that was true: with the last one what is free goes back, and so will what is freed."""
    global _held
    _held -= 1
    if _held:
        return
    _set(RELEASED)
    _trim()


def _can_be_set() -> bool:
    return platform.libc_ver()[0] == "glibc" and not any(name in os.environ for name in OWN_SETTINGS)


def _set(options: Mapping[int, int]) -> bool:
    return all([ctypes.CDLL(None).mallopt(option, value) for option, value in options.items()])


def _trim() -> None:
    ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def heap_held() -> Iterator[None]:
    """Inside, what is freed stays in the process."""
    held = hold_heap()
    try:
        yield
    finally:
        if held:
            release_heap()


@contextmanager
def large_apart() -> Iterator[None]:
    """Inside, large blocks lie outside the heap, unless it is held: they leave no holes in it, and take more time."""
    mapped = not _held and _can_be_set() and _set(APART)
    try:
        yield
    finally:
        if mapped:
            _set(RELEASED)


@contextmanager
def trimmed(when: bool) -> Iterator[None]:
    """Where `when`, what is free in a held heap goes back before and after; the next step gets it anew."""
    trims = when and _held > 0
    if trims:
        _trim()
    try:
        yield
    finally:
        if trims:
            _trim()


class HeapGrowth:
    """Looks at the size of the process after every step, and trims a held heap when it has grown."""

    def __init__(self) -> None:
        self._level: int | None = None

    def look(self, waiting: int = 0) -> None:
        """A step is over, after which `waiting` bytes wait for an account: they are not what it grew by. The first size
        seen, and the first after trimming, is what a step needs."""
        if not _held:
            return
        now = psutil.Process().memory_info().rss - waiting
        if self._level is None:
            self._level = now
        elif now > GROWN * self._level:
            _trim()
            self._level = None


def zeros_apart(*shape: int, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Zeros for what is kept from step to step: while the heap is held, large ones on the CPU lie outside it, in memory
    that the system gets back with the tensor. glibc itself would look for room in the heap first."""
    size = torch.Size(shape).numel() * dtype.itemsize
    if not _held or size < LARGE or (device is not None and device.type != "cpu"):
        return torch.zeros(*shape, device=device, dtype=dtype)
    return torch.frombuffer(mmap.mmap(-1, size), dtype=dtype).view(shape)  # anonymous memory is zero


def kept_apart(tensor: Tensor) -> Tensor:
    """The same numbers where `zeros_apart` would put them; `tensor` itself where that is no other place."""
    if not _held or tensor.nbytes < LARGE or tensor.device.type != "cpu":
        return tensor
    return zeros_apart(*tensor.shape, dtype=tensor.dtype).copy_(tensor)
