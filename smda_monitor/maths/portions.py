"""Long ranges worked on part by part, and how far apart the members of an even sample lie."""

from __future__ import annotations


def portions(count: int, longest: int) -> list[range]:
    """The numbers 0 … `count` − 1 as consecutive ranges, each of `longest` ≥ 1 numbers but the last, which has the
    rest."""
    return [range(first, min(first + longest, count)) for first in range(0, count, longest)]


def spacing(count: int, most: int) -> int:
    """From one to the next where at most `most` ≥ 1 of `count` things are taken, evenly and from the first on; ≥ 1."""
    return max(1, -(-count // most))
