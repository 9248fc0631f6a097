"""JSONL read line by line, so that a malformed line is named and does not stop the rest."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from ..errors import ConfigError, describe

LONGEST_LINE = 64 << 20
"""Bytes of a line that is still parsed: a file without line ends would be held in memory as a whole."""


def json_lines(what: str, opened: Callable[[], Any]) -> Iterator[tuple[int, object]]:
    """(line number from 1, parsed value or the error of parsing it) of every line that is not blank.

    `what` names the source, `opened` opens it in binary. Lines end at a line feed alone: a text may hold other line
    separators of Unicode. Raises `ConfigError` where the source cannot be read.
    """
    try:
        with opened() as stream:
            for number, line in enumerate(_bounded(stream), start=1):
                if line is None:
                    yield number, ValueError(f"the line is longer than {LONGEST_LINE >> 20} MiB")
                    continue
                content = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if content.strip():
                    try:
                        yield number, json.loads(content.decode("utf-8"))
                    except (ValueError, RecursionError) as error:
                        yield number, error
    except OSError as error:
        remedy = "check the file and its rights"
        raise ConfigError(describe(what, error.strerror or str(error), "a readable file", remedy)) from error


def _bounded(stream: BinaryIO) -> Iterator[bytes | None]:
    """The lines of `stream`; None in the place of one that is longer than `LONGEST_LINE`."""
    while line := stream.readline(LONGEST_LINE):
        if len(line) < LONGEST_LINE or line.endswith(b"\n"):
            yield line
            continue
        line = b""
        while (rest := stream.readline(1 << 20)) and not rest.endswith(b"\n"):
            pass
        yield None
