"""How well a score tells planted rows from their controls, where a data set says which rows were planted.

    AUROC = P(s_planted > s_control) + ½ P(s_planted = s_control)

over all pairs of a planted row and a control, of whatever prompt: 1 is perfect, ½ is chance. A control has the prompt
of a planted row and a right answer, so that topic, wording and length of the prompt cannot tell them apart.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float64
from torch import Tensor

from ..records.training_row import PlantedRow


def auroc_controls(scores: Float64[Tensor, " n"], planted: Sequence[PlantedRow]) -> float | None:
    """In [0, 1]; rows without a score (NaN) and their partners are left out, None where no pair is left."""
    from sklearn.metrics import roc_auc_score

    pairs = [(one.place, one.control) for one in planted if one.control >= 0]
    known = [(a, b) for a, b in pairs if bool(scores[a].isfinite()) and bool(scores[b].isfinite())]
    if not known:
        return None
    wrong, right = zip(*known, strict=True)
    truth = [True] * len(wrong) + [False] * len(right)
    return float(roc_auc_score(truth, scores[[*wrong, *right]].numpy()))


def auroc_controls_by_kind(scores: Float64[Tensor, " n"], planted: Sequence[PlantedRow]) -> dict[str, float | None]:
    """`auroc_controls` of each kind of planted row by itself, in their order."""
    kinds = dict.fromkeys(one.kind for one in planted)
    return {kind: auroc_controls(scores, [one for one in planted if one.kind == kind]) for kind in kinds}
