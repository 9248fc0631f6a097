"""Ranks that share a job: their shares are all parts, they wait for one another, and one that fails ends all."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed import HashStore

from smda_monitor.errors import ConfigError, PrerequisiteError
from smda_monitor.instruments.ranks import VARIABLES, Ranks, _take_one_device


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 50), st.integers(1, 7))
def test_law_every_part_is_in_one_share(n: int, count: int) -> None:
    shares = [Ranks(number, count).share(range(n)) for number in range(count)]
    assert sorted(part for share in shares for part in share) == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def run_each(count: int, work: Callable[[Ranks], None]) -> list[BaseException | None]:
    """What each of `count` ranks, on a store of this process, ended with."""
    store, ended = HashStore(), list[BaseException | None]([None] * count)

    def one(number: int) -> None:
        ranks = Ranks(number, count, store)
        try:
            with ranks.together():
                work(ranks)
        except Exception as error:
            ended[number] = error

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert not any(thread.is_alive() for thread in threads), "none waits for ever"
    return ended


def test_they_meet_and_the_first_goes_ahead() -> None:
    order: list[str] = []

    def work(ranks: Ranks) -> None:
        with ranks.first_alone("alone"):
            if ranks.first:
                time.sleep(0.05)
            order.append(f"in {ranks.first}")
        if ranks.first:
            time.sleep(0.05)
        order.append("before")
        ranks.meet("all")
        order.append("after")

    assert run_each(3, work) == [None, None, None]
    assert order[0] == "in True"
    assert order.index("after") == len(order) - 3, "nobody goes on before all have come"


@pytest.mark.parametrize("failing", [0, 1])
def test_one_that_fails_ends_all_with_its_message(failing: int) -> None:
    def work(ranks: Ranks) -> None:
        if ranks.number == failing:
            raise ConfigError("data: found a: b; expected c.")
        ranks.meet("all")

    ended = run_each(2, work)
    assert isinstance(ended[failing], ConfigError)
    told = ended[1 - failing]
    assert isinstance(told, PrerequisiteError)
    assert f"rank {failing} failed: data: found a: b; expected c." in str(told)


def test_alone_there_is_nobody_to_wait_for() -> None:
    before = dict(os.environ)
    assert not {"RANK", "WORLD_SIZE"} & set(before)
    ranks = Ranks.joined()
    assert (ranks.number, ranks.count, ranks.first) == (0, 1, True)
    ranks.meet("all")
    with ranks.together(), ranks.first_alone("alone"):
        assert list(ranks.share(range(3))) == [0, 1, 2]
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("found", "kind", "message"),
    [
        ({"RANK": "0", "WORLD_SIZE": "two"}, ConfigError, "'two'"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, PrerequisiteError, "torchrun --standalone"),
    ],
)
def test_ranks_that_cannot_meet_are_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, str], kind: type[Exception], message: str
) -> None:
    for name in (*VARIABLES, "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(kind, match=message):
        Ranks.joined()


def test_two_jobs_in_one_process_meet_by_turns() -> None:
    seen: list[str] = []

    def work(ranks: Ranks) -> None:
        for job in ("one", "two"):
            with ranks.first_alone("rows"):
                seen.append(job)
            ranks.meet("judged")

    assert run_each(2, work) == [None, None]
    assert seen == ["one", "one", "two", "two"]


@pytest.mark.parametrize(("local", "visible", "own"), [(0, "4,5,6", "4"), (2, "4,5,6", "6"), (4, "4,5,6", "5")])
def test_each_rank_sees_a_device_of_its_own(
    monkeypatch: pytest.MonkeyPatch, local: int, visible: str, own: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    _take_one_device(local)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == own
