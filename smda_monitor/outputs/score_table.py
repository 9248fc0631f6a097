"""``scores.parquet`` for a page: its first lines whole, an even part of the others, and every score as a number.

A million rows fit: what is held of each row that is not shown is 8 bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, describe
from ..maths.portions import spacing
from . import parts

COLUMNS = ("row_id", "row_hash", "line", "score", "S", "S_X", "S_Y")
"""What a line holds; the file may have more."""
LEADING = 200
"""First lines, whole."""
SPREAD = 1800
"""Lines of the others at most."""


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """The rows of an audit by score, the most suspicious first; rows without a score last."""

    rows: int
    """Rows in all."""
    leading: Sequence[Mapping[str, Any]]
    """The first lines: `COLUMNS`, ``score`` NaN where a row has none."""
    spread: Sequence[Mapping[str, Any]]
    """Every `every`-th line after them."""
    every: int
    """From one line of `spread` to the next."""
    known: Tensor
    """(n,) the scores that are known, float64, rising."""

    @property
    def unscored(self) -> int:
        """Rows without a score."""
        return self.rows - len(self.known)


def read_score_table(path: Path) -> ScoreTable:
    """Reads `path`; a table of no rows where there is no such file yet. Raises `ConfigError` for a file that is none of
    scores."""
    import pyarrow as pa

    if not path.is_file():
        return ScoreTable(0, [], [], 1, torch.zeros(0, dtype=torch.float64))
    table = parts.read_part(path)
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        found, remedy = f"no column {missing[0]!r}", "resume the audit"
        raise ConfigError(describe(str(path), found, "what the audit writes there", remedy))

    table = table.select(COLUMNS)
    others = range(LEADING, len(table))
    every = spacing(len(others), SPREAD)
    scores = torch.tensor(table["score"].to_numpy(zero_copy_only=False).copy(), dtype=torch.float64)
    return ScoreTable(
        rows=len(table),
        leading=_lines(table.slice(0, LEADING)),
        spread=_lines(table.take(pa.array(others[::every], pa.int64()))),
        every=every,
        known=scores[scores.isfinite()].sort().values,
    )


def _lines(table: Any) -> list[dict[str, Any]]:
    lines = table.to_pylist()
    return [{**line, "score": float("nan") if line["score"] is None else line["score"]} for line in lines]
