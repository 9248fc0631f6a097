"""Work in a process forked from one that has loaded everything; a fork must not happen beside threads."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from smda_monitor.errors import SMDAError

FORK: Any = multiprocessing.get_context("fork")


class Untyped(Exception):
    """An error of another kind than our own."""


def in_child(work: Callable[[], Any]) -> Any:
    """What `work` gives in a process of its own: torch keeps threads and memory that a fork must not have.

    Raises `Untyped` where it raised, or died."""
    mine, theirs = FORK.Pipe(duplex=False)
    child = FORK.Process(target=_told, args=(work, theirs))
    child.start()
    theirs.close()
    try:
        found, error = mine.recv()
    except EOFError:
        found, error = None, "it died"
    child.join()
    if error:
        raise Untyped(error)
    return found


def _told(work: Callable[[], Any], pipe: Connection) -> None:
    torch.set_num_threads(1)
    try:
        found, error = work(), ""
    except SMDAError as refused:
        found, error = None, f"refused: {refused}"
    except Exception as failure:
        found, error = None, f"{type(failure).__name__}: {failure}"
    pipe.send((found, error))
