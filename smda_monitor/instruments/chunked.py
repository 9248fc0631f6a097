"""Passes over prompts in chunks: one that memory does not suffice for is halved, and so is every later one."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from ..errors import MeasurementError, describe
from ..maths.portions import portions

Found = TypeVar("Found")
logger = logging.getLogger("smda_monitor")
WORDS = ("out of memory", "not enough memory", "can't allocate memory")
"""By which allocators that raise a plain `RuntimeError` are known: MPS, and torch's own on CPUs."""


def in_chunks(chunks: Iterable[list[int]], work: Callable[[list[int]], Found]) -> Iterator[tuple[list[int], Found]]:
    """Each of `chunks`, or of its parts, and what `work` makes of it, in order.

    `work` is called again on parts of a chunk for which memory ran out, so it must leave nothing behind then. Raises
    `MeasurementError` where there is none for a single number.
    """
    most: int | None = None
    for chunk in chunks:
        waiting = deque([chunk])
        while waiting:
            here = waiting.popleft()
            if most is not None and len(here) > most:
                waiting.extendleft(reversed([here[part.start : part.stop] for part in portions(len(here), most)]))
                continue
            lacking = ""
            try:
                found = work(here)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                lacking = str(error).splitlines()[0] if str(error) else type(error).__name__
            if not lacking:
                yield here, found
                continue
            # Only here is the failed pass's memory free: its error held all frames of it.
            most = _halved(len(here), lacking)
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                torch.cuda.empty_cache()
            waiting.appendleft(here)


@contextmanager
def undivided(size: int) -> Iterator[None]:
    """Inside, work on a chunk of `size` leaves something behind: what memory runs out in cannot be done again on parts
    of it. Raises `MeasurementError` then."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        found = f"memory for a part of it ({error})"
        raise MeasurementError(
            describe(f"a pass over {size} prompts", found, "for all", "lower memory_gib.")
        ) from error


def _halved(size: int, lacking: str) -> int:
    if size == 1:
        remedy = "leave more of it free: a smaller batch, gradient checkpointing, or a monitor on fewer features."
        raise MeasurementError(describe("a pass over one prompt", lacking, "memory enough for it", remedy))
    half = -(-size // 2)
    message = "Memory ran out in a pass over %d prompts (%s). It goes on with %d at a time; lower memory_gib."
    logger.warning(message, size, lacking, half)
    return half


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, by any device's word for it."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    plain = isinstance(error, RuntimeError) and not isinstance(error, MeasurementError)
    return plain and any(words in str(error).lower() for words in WORDS)
