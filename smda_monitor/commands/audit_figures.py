"""What an audit found, all rows beside one another: their scores, how close ``gradient`` came. Wiring, no arithmetic.

A few numbers for each row are held at a time, whatever else is known of it: memory hardly grows with the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..maths.agreement import closeness, median
from ..maths.controls import auroc_controls, auroc_controls_by_kind
from ..maths.score import score_figures, scores
from ..outputs.row_audit_tables import SCORED, judged_columns, judged_parts, write_scores
from ..records.training_row import PlantedRow

_PUSH = {"S_X": "push.S_X", "S_Y": "push.S_Y"}
_REFIT = "refit_remainder"
_WITNESSES = ("own_push", "expected", "answer_reading", "unintended")


def audit_figures(folder: Path, with_answers: bool, planted: Sequence[PlantedRow], behaviour: str) -> dict[str, Any]:
    """Scores every row of the finished audit in `folder` beside all others, writes them to ``scores.parquet``, and
    sums up; without reference answers what an answer shows is no witness. Only then is it asked how well scores tell
    rows that are known to be `planted`, about this `behaviour`, from their controls; all by kind, beside the behaviour
    that the data say a kind is about."""
    judged = judged_columns(folder / "judged", (*SCORED, *_WITNESSES, "seconds", _REFIT))
    push, expected, reading = (_column(judged, name) for name in _WITNESSES[:3])
    found = scores(push, expected, reading if with_answers else None)
    write_scores(folder / "scores.parquet", judged, found)
    return {
        "rows": judged.num_rows,
        **score_figures(found, _column(judged, "unintended")),
        "gradient_vs_replay": _closeness(folder, judged),
        "refit_remainder": _refit(folder, judged),
        "auroc_controls": auroc_controls(found, [one for one in planted if one.behaviour in (None, behaviour)]),
        "auroc_controls_by_kind": auroc_controls_by_kind(found, planted),
        "kinds_about": {one.kind: one.behaviour for one in planted},
    }


def _closeness(folder: Path, judged: Any) -> dict[str, Any] | None:
    """Of the rows that were also replayed; None where there is none."""
    numbers = [number for part in judged_parts(folder / "checked") for number in part]
    if not numbers:
        return None
    replayed = judged_columns(folder / "checked", [*_PUSH.values(), "seconds"])
    same = judged.take([number - 1 for number in numbers])
    pairs = {name: (_column(same, on).tolist(), _column(replayed, on).tolist()) for name, on in _PUSH.items()}
    seconds = _column(judged, "seconds").tolist(), _column(replayed, "seconds").tolist()
    return closeness(pairs, *seconds)


def _refit(folder: Path, judged: Any) -> float:
    """The median of the remainders of the exact refits, which replayed rows have; NaN where no row was replayed."""
    replayed = [judged, judged_columns(folder / "checked", [_REFIT])]
    known = [one for table in replayed if table is not None for one in _column(table, _REFIT).tolist() if one == one]
    return median(known)


def _column(table: Any, name: str) -> Tensor:
    """(n,) float64."""
    return torch.tensor(table[name].to_numpy(), dtype=torch.float64)
