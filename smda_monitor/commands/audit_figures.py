"""What an audit found, all rows beside one another: their scores, how close ``gradient`` came. Wiring, no arithmetic.

A few numbers for each row are held at a time, whatever else is known of it: memory hardly grows with the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..maths.agreement import agreement
from ..maths.controls import auroc_controls, auroc_controls_by_kind
from ..maths.score import score_figures, scores
from ..outputs.row_audit_tables import SCORED, judged_columns, judged_parts, write_scores
from ..records.training_row import PlantedRow

PATHWAYS = ("S_X", "S_Y")
_WITNESSES = ("own_push", "expected", "answer_reading", "unintended")


def audit_figures(folder: Path, with_answers: bool, planted: Sequence[PlantedRow], behaviour: str) -> dict[str, Any]:
    """Scores every row of the finished audit in `folder` beside all others, writes them to ``scores.parquet``, and
    sums up; without reference answers what an answer shows is no witness. Only then is it asked how well scores tell
    rows that are known to be `planted`, about this `behaviour`, from their controls; all by kind, beside the behaviour
    that the data say a kind is about."""
    judged = judged_columns(folder / "judged", (*SCORED, *_WITNESSES))
    push, expected, reading = (_column(judged, name) for name in _WITNESSES[:3])
    found = scores(push, expected, reading if with_answers else None)
    write_scores(folder / "scores.parquet", judged, found)
    return {
        "rows": judged.num_rows,
        **score_figures(found, _column(judged, "unintended")),
        "gradient_vs_replay": _closeness(folder, judged),
        "auroc_controls": auroc_controls(found, [one for one in planted if one.behaviour in (None, behaviour)]),
        "auroc_controls_by_kind": auroc_controls_by_kind(found, planted),
        "kinds_about": {one.kind: one.behaviour for one in planted},
    }


def _closeness(folder: Path, judged: Any) -> dict[str, dict[str, float]] | None:
    """Of the rows that were also replayed, by pathway; None where there is none."""
    numbers = [number for part in judged_parts(folder / "checked") for number in part]
    if not numbers:
        return None
    columns = [f"push.{name}" for name in PATHWAYS]
    replayed = judged_columns(folder / "checked", columns)
    same = judged.select(columns).take([number - 1 for number in numbers])
    return {
        name: agreement(_column(same, column).tolist(), _column(replayed, column).tolist())
        for name, column in zip(PATHWAYS, columns, strict=True)
    }


def _column(table: Any, name: str) -> Tensor:
    """(n,) float64."""
    return torch.tensor(table[name].to_numpy(), dtype=torch.float64)
