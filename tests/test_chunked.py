"""Chunks that memory does not suffice for are halved, none is lost or worked on twice, and the reason is said."""

from __future__ import annotations

import logging
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smda_monitor.errors import MeasurementError
from smda_monitor.instruments.chunked import in_chunks, out_of_memory


class Memory:
    """Suffices for so many numbers at a time."""

    def __init__(self, holds: int, error: type[Exception] = torch.OutOfMemoryError) -> None:
        self.holds, self.error = holds, error
        self.failed: list[int] = []

    def work(self, numbers: list[int]) -> list[int]:
        if len(numbers) > self.holds:
            self.failed.append(len(numbers))
            raise self.error("out of memory")
        return [10 * number for number in numbers]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 9))
def test_every_number_is_worked_on_once_and_in_order(sizes: list[int], holds: int) -> None:
    numbers = iter(range(sum(sizes)))
    memory = Memory(holds)
    found = list(in_chunks([[next(numbers) for _ in range(size)] for size in sizes], memory.work))
    assert [number for chunk, _ in found for number in chunk] == list(range(sum(sizes)))
    assert all(made == [10 * number for number in chunk] for chunk, made in found)
    assert max(len(chunk) for chunk, _ in found) <= holds
    assert all(later < earlier for earlier, later in pairwise(memory.failed)), "no size fails twice"


def test_what_fits_is_not_cut() -> None:
    chunks = [[0, 1, 2], [3]]
    assert [chunk for chunk, _ in in_chunks(chunks, Memory(3).work)] == chunks


def test_it_is_said_with_the_setting(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "smda_monitor"):
        list(in_chunks([[0, 1, 2, 3], [4, 5, 6, 7]], Memory(2).work))
    (record,) = caplog.records
    assert "4 prompts (out of memory)" in record.getMessage()
    assert "2 at a time" in record.getMessage()
    assert "memory_gib" in record.getMessage()


def test_a_single_prompt_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(MeasurementError, match=r"a pass over one prompt: found out of memory.*What to do"):
        list(in_chunks([[0, 1, 2]], Memory(0).work))


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA"), True),
        (MemoryError(), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_memory_that_ran_out(error: Exception, is_one: bool) -> None:
    assert out_of_memory(error) == is_one


def test_other_errors_are_raised_as_they_are() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_chunks([[0, 1]], Memory(1, ZeroDivisionError).work))
    with pytest.raises(RuntimeError, match="shapes"):
        list(in_chunks([[0]], lambda _: torch.zeros(2, 3) @ torch.zeros(2, 3)))
