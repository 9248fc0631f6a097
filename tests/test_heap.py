"""The heap is held while a run is monitored, and given back afterwards."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest
import torch

from smda_monitor.instruments import heap
from smda_monitor.instruments.heap import OWN_SETTINGS, kept_apart, zeros_apart

MIB = 1 << 20


@pytest.fixture(autouse=True)
def nobody_holds_it() -> None:
    """Runs that other tests killed in this process were never closed, and hold the heap still."""
    while heap._held:
        heap.release_heap()


PROGRAM = """
import json, re
from pathlib import Path
import ctypes
from smda_monitor.instruments.heap import HeapGrowth, hold_heap, kept_apart, large_apart, release_heap, trimmed
from smda_monitor.instruments.heap import zeros_apart

class Counts(ctypes.Structure):  # glibc's mallinfo
    _fields_ = [(name, ctypes.c_int) for name in "arena ordblks smblks hblks".split()] + [("rest", ctypes.c_int * 6)]

libc = ctypes.CDLL(None)
libc.mallinfo.restype = Counts

def mapped():
    before = libc.mallinfo().hblks
    block = bytearray(8 << 20)
    return libc.mallinfo().hblks - before

def resident():
    return int(re.search(r"Rss:\\s+(\\d+)", Path("/proc/self/smaps_rollup").read_text()).group(1)) << 10  # exact

def used_and_freed():
    for _ in range(2):  # after the first free glibc takes the smaller blocks from the heap
        blocks = [bytearray(b"1") * (size << 20) for size in [8] * 16 + [64] * 2]
        peak = resident()
        del blocks
    return peak, resident()

plain = used_and_freed()
with large_apart():
    own = [mapped()]
own.append(mapped())
held = hold_heap()
with large_apart():
    own.append(mapped())
kept = used_and_freed()
kept_apart(zeros_apart(64 << 18).add_(1.0).bfloat16()).sum()  # what torch needs once, for itself
before = resident()  # with 256 MiB of it free in the heap
large = zeros_apart(64 << 18).add_(1.0)
copy = kept_apart(large.bfloat16())
apart = resident() - before, float(large.sum() + copy.sum())
del large, copy
left = resident() - before
with trimmed(False):
    trims = [resident() - before]
with trimmed(True):
    trims += [resident() - before]
    used_and_freed()
trims += [resident() - before]
growth, grown = HeapGrowth(), []
for more in (0, 0, 512, 0):  # MiB that a step takes beside what they all take
    used_and_freed()
    block = bytearray(b"1") * (more << 20)
    del block
    growth.look()
    grown += [resident() - before]
waits = [bytearray(b"1") * (64 << 20)]
used_and_freed()
for waiting in (64 << 20, 0):
    growth.look(waiting)
    grown += [resident() - before]
del waits
hold_heap()
if held:
    release_heap()
still = used_and_freed()
if held:
    release_heap()
found = {"held": held, "plain": plain, "kept": kept, "still": still, "apart": apart, "left": left}
print(json.dumps({**found, "own": own, "trims": trims, "grown": grown, "after": resident()}))
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")


def measured(**environment: str) -> dict[str, object]:
    clean = {name: value for name, value in os.environ.items() if name not in OWN_SETTINGS}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, check=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


@glibc
def test_what_is_freed_stays_until_it_is_released() -> None:
    found = measured()
    (plain_peak, plain_freed), (kept_peak, kept_freed) = found["plain"], found["kept"]  # type: ignore[misc]
    assert found["held"] is True
    assert plain_peak - plain_freed > 200 * MIB, "glibc gives back what is free"
    assert kept_peak - kept_freed < 8 * MIB
    still_peak, still_freed = found["still"]  # type: ignore[misc]
    assert still_peak - still_freed < 8 * MIB, "for another run it is held on"
    assert kept_peak - found["after"] > 200 * MIB  # type: ignore[operator]
    assert kept_peak < plain_peak + 16 * MIB, "the peak is the same"
    apart, sums = found["apart"]  # type: ignore[misc]
    assert sums == 2 * (64 << 18)
    assert apart > 90 * MIB, "not in the heap, where there would be room"
    assert found["left"] < 8 * MIB, "what lies apart goes back at once"  # type: ignore[operator]
    assert found["own"] == [1, 0, 0], "large blocks are mapped where that is asked for, and while no heap is held"
    untouched, first, last = found["trims"]  # type: ignore[misc]
    assert abs(untouched) < 8 * MIB
    assert max(first, last) < -200 * MIB, "trimmed before and after"
    # The heap may find room for one of its 8 MiB blocks elsewhere than before; what is trimmed is 256 MiB.
    assert all(abs(size) < 16 * MIB for size in found["grown"][:2]), "a step like the one before"  # type: ignore[index]
    assert found["grown"][2] < -200 * MIB, "trimmed after one that took more"  # type: ignore[index]
    assert abs(found["grown"][3]) < 16 * MIB, "and what the next takes is held again"  # type: ignore[index]
    assert abs(found["grown"][4] - 64 * MIB) < 16 * MIB, "what waits is not growth"  # type: ignore[index]
    assert found["grown"][5] < -128 * MIB, "but where nothing waits it is"  # type: ignore[index]


@glibc
@pytest.mark.parametrize("name", OWN_SETTINGS)
def test_what_the_user_set_stays(name: str) -> None:
    value = "glibc.malloc.trim_threshold=1048576" if name == "GLIBC_TUNABLES" else "65536"
    found = measured(**{name: value})
    assert found["held"] is False
    assert found["trims"][0] == pytest.approx(found["trims"][2], abs=8 * MIB)  # type: ignore[index]
    peak, freed = found["kept"]  # type: ignore[misc]
    assert peak - freed > 200 * MIB


def test_inside_it_is_held_and_afterwards_not() -> None:
    found: list[bool] = []

    def broken() -> None:
        with heap.heap_held():
            found.append(heap._held)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    (held,) = found
    assert held == (platform.libc_ver()[0] == "glibc" and not any(name in os.environ for name in OWN_SETTINGS))
    assert not heap._held


def test_what_is_kept_stays_where_it_is_while_no_heap_is_held() -> None:
    kept = torch.ones(1 << 19)
    assert kept_apart(kept) is kept
    assert zeros_apart(2, 3, device=torch.device("meta")).device.type == "meta"
    assert zeros_apart(2, 3).eq(0).all()
