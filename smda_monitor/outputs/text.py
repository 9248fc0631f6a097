"""Hostile text made harmless for a terminal, a log line and a table cell."""

from __future__ import annotations

import unicodedata

_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Cn"}
"""Unicode categories that steer a terminal or hide text: controls (escape sequences start with one), format characters
(right-to-left overrides, zero-width marks), lone surrogates, private and unassigned code points."""


def plain(text: str, limit: int | None = None) -> str:
    """`text` on one line with nothing but visible characters, cut to `limit` characters with an ellipsis.

    A control or format character becomes a space, so that ``\\x1b[31m`` leaves the harmless ``[31m``; runs of white
    space become one space. Markup is not touched: whoever prints it must not parse it.
    """
    visible = "".join(" " if unicodedata.category(c) in _UNSAFE else c for c in str(text))
    visible = " ".join(visible.split())
    if limit is not None and len(visible) > limit:
        return visible[: max(limit - 1, 0)] + "…"
    return visible


def visible(text: str) -> str:
    """`text` with its lines and spaces kept and every other control or format character made a space."""
    lines = text.replace("\r\n", "\n").replace("\t", "    ").split("\n")
    return "\n".join("".join(" " if unicodedata.category(c) in _UNSAFE else c for c in line) for line in lines)


def storable(text: str) -> str:
    """`text` with lone surrogates, which UTF-8 and Parquet cannot hold, replaced by ``?``; otherwise unchanged."""
    return text.encode("utf-8", "replace").decode("utf-8")


def number(value: float, digits: int = 3) -> str:
    """A signed figure for a person with that many digits, zeros kept; ``n/a`` where it was not read."""
    if value != value:
        return "n/a"
    return f"{value:+#.{digits}g}".rstrip(".")


def percent(fraction: float) -> str:
    """A fraction as a percentage; ``n/a`` for NaN."""
    if fraction != fraction:
        return "n/a"
    return f"{100 * fraction:.2g} %" if abs(fraction) < 0.995 else f"{100 * fraction:,.0f} %"


def duration(seconds: float) -> str:
    """Seconds as ``41 s``, ``3 min 05 s`` or ``2 h 10 min``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
