"""How well scores tell planted rows: pure figures of one run, and their means over seeds with intervals.

    auroc            P(s_planted > s_clean) + ½ P(=), planted rows of one kind against all clean rows of the run
    auroc_controls   the same against the controls alone, the clean rows with the prompt of a planted one
    auprc            average precision of the same ranking as ``auroc``
    recall           planted rows among the first n of that ranking, over their number n
    above_control    planted rows that score above their own control, over those that have one; ties count a half

All in [0, 1]; NaN where there is nothing to compare. A row that a score does not know ranks last. A score that is read
for every behaviour counts by the behaviour by which the row stands out most:

    s = max_b (s_b − centre_b) / spread_b        centre and spread of the run's bulk (`smda_monitor.maths.curation`)
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import torch
from _planted_run import JudgedRow, RaisedAlert, RunFound
from torch import Tensor

from smda_monitor.maths.curation import bulk, over_usual

OURS = "smda"
"""The row score."""
FIGURES = ("auroc", "auroc_controls", "auprc", "recall", "above_control")
NOT_SCORES = ("expected",)
"""What a run keeps beside scores."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Mean over seeds, with a 95 % interval by Student's t; the bounds are NaN for a single seed."""

    mean: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Estimate:
        """Of the values that are not NaN; NaN without one."""
        from scipy.stats import t

        known = [value for value in values if not math.isnan(value)]
        if not known:
            return Estimate(math.nan, math.nan, math.nan)
        if len(known) == 1:
            return Estimate(known[0], math.nan, math.nan)
        centre = mean(known)
        error = float(torch.tensor(known, dtype=torch.float64).std()) / len(known) ** 0.5
        half = float(t.ppf(0.975, len(known) - 1)) * error
        return Estimate(centre, centre - half, centre + half)

    def as_json(self) -> list[float | None]:
        """[mean, low, high]; None for NaN."""
        return [plain(value) for value in (self.mean, self.low, self.high)]


def score_names(run: RunFound) -> list[str]:
    """Of all scores of a run, ours first."""
    return [name for name in run.rows[0].scores if name not in NOT_SCORES]


def suspicion(rows: Sequence[JudgedRow], name: str) -> list[float]:
    """The score `name` of all `rows` of one run, by the behaviour by which each stands out most."""
    behaviours = list(rows[0].scores[name])
    columns = {b: torch.tensor([row.scores[name][b] for row in rows], dtype=torch.float64) for b in behaviours}
    if name == OURS:
        columns = {b: over_usual(column, _expected(rows, b))[0] for b, column in columns.items()}
    if len(columns) == 1:
        (only,) = columns.values()
        return list(only.tolist())
    return list(torch.stack([_standard(column) for column in columns.values()]).amax(0).tolist())


def figures(rows: Sequence[JudgedRow], scores: Sequence[float], kind: str) -> dict[str, float]:
    """`FIGURES` of the planted rows of `kind` in one run."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    last = min((score for score in scores if not math.isnan(score)), default=0.0) - 1
    known = {row.id: last if math.isnan(score) else score for row, score in zip(rows, scores, strict=True)}
    planted = [row for row in rows if row.planted and row.kind == kind]
    clean = [row for row in rows if not row.planted]
    pairs = [(known[row.id], known[row.control]) for row in planted if row.control in known]
    if not planted or not clean:
        return dict.fromkeys(FIGURES, math.nan)
    wrong, right = [known[row.id] for row in planted], [known[row.id] for row in clean]
    truth, together = [1] * len(wrong) + [0] * len(right), [*wrong, *right]
    controls = math.nan
    if pairs:
        bad, good = zip(*pairs, strict=True)
        controls = float(roc_auc_score([1] * len(bad) + [0] * len(good), [*bad, *good]))
    return {
        "auroc": float(roc_auc_score(truth, together)),
        "auroc_controls": controls,
        "auprc": float(average_precision_score(truth, together)),
        "recall": recall(wrong, right),
        "above_control": mean((a > b) + 0.5 * (a == b) for a, b in pairs) if pairs else math.nan,
    }


def recall(wrong: Sequence[float], right: Sequence[float]) -> float:
    """Part of the n scores `wrong` among the n highest of all; equal ones share the places that they lie across."""
    n, ranked = len(wrong), sorted([*wrong, *right], reverse=True)
    cut = ranked[n - 1]
    above, level = sum(s > cut for s in wrong), sum(s == cut for s in wrong)
    places = n - sum(s > cut for s in ranked)
    return (above + level * places / sum(s == cut for s in ranked)) / n


def steps_to_alert(run: RunFound, kind: str | None = None) -> float:
    """Steps from the first one an eighth of which is planted, to the first right drift alert from then on: one most of
    whose rows are planted. Of `kind` alone, where it is given. Infinite without one, NaN where no step is so."""
    planted, began = _began(run, kind)
    right = (a.step for a in run.alerts if a.kind == "drift" and a.step >= began and _mostly(a, planted))
    return float(min(right, default=math.inf)) - began


def false_alerts(run: RunFound) -> int:
    """Drift alerts of a run that are not right: before the first step an eighth of which is planted, or with fewer than
    half of the rows behind it planted."""
    planted, began = _began(run, None)
    drifts = [alert for alert in run.alerts if alert.kind == "drift"]
    return sum(not (alert.step >= began and _mostly(alert, planted)) for alert in drifts)


def _began(run: RunFound, kind: str | None) -> tuple[set[str], float]:
    """(ids of the planted rows, the first step an eighth of which they make up or NaN)."""
    planted = {row.id: row.step for row in run.rows if row.planted and kind in (None, row.kind)}
    sizes, counts = Counter(row.step for row in run.rows), Counter(planted.values())
    return set(planted), min((step for step, count in counts.items() if 8 * count >= sizes[step]), default=math.nan)


def _mostly(alert: RaisedAlert, planted: Collection[str]) -> bool:
    return 2 * sum(row in planted for row in alert.rows) > len(alert.rows)


def named(run: RunFound) -> list[str]:
    """Ids of the rows that row alerts name, by step and then in their order."""
    alerts = sorted((alert for alert in run.alerts if alert.kind == "rows"), key=lambda alert: alert.step)
    return list(dict.fromkeys(row for alert in alerts for row in alert.rows))


def first_named(run: RunFound, count: int = 5) -> int:
    """Planted rows among the first `count` that row alerts name, or among all where fewer are named."""
    planted = {row.id for row in run.rows if row.planted}
    return len(planted.intersection(named(run)[:count]))


def kind_figures(runs: Sequence[RunFound], kind: str) -> dict[str, Any]:
    """Of a kind over the `runs` of all seeds: figures of our score, of every rival, and steps to the alert."""
    found = {name: _by_run(runs, name, kind) for name in score_names(runs[0])}
    by_score = {name: _estimates(one) for name, one in found.items()}
    ours = by_score.pop(OURS)
    return {**ours, "steps_to_alert": [plain(steps_to_alert(run, kind)) for run in runs], "rivals": by_score}


def mean_figures(runs: Sequence[RunFound], kinds: Sequence[str]) -> dict[str, Any]:
    """Over `kinds`, of our score and of every rival, those that are unknown left out, run by run."""
    by_score = {}
    for name in score_names(runs[0]):
        by_kind = [_by_run(runs, name, kind) for kind in kinds]
        by_score[name] = _estimates([_mean_known(one) for one in zip(*by_kind, strict=True)])
    ours = by_score.pop(OURS)
    return {**ours, "rivals": by_score}


def _by_run(runs: Sequence[RunFound], name: str, kind: str) -> list[dict[str, float]]:
    return [figures(run.rows, suspicion(run.rows, name), kind) for run in runs]


def _mean_known(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    known = {figure: [one[figure] for one in found if not math.isnan(one[figure])] for figure in FIGURES}
    return {figure: mean(values) if values else math.nan for figure, values in known.items()}


def _estimates(found: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Of the figures of several runs: means, and under ``intervals`` means with their bounds."""
    estimates = {figure: Estimate.of([one[figure] for one in found]) for figure in FIGURES}
    means = {figure: plain(estimate.mean) for figure, estimate in estimates.items()}
    return {**means, "intervals": {figure: estimate.as_json() for figure, estimate in estimates.items()}}


def plain(value: float) -> float | None:
    """As it is written: None for what is not finite."""
    return value if math.isfinite(value) else None


def _expected(rows: Sequence[JudgedRow], behaviour: str) -> Tensor:
    return torch.tensor([row.scores["expected"][behaviour] for row in rows], dtype=torch.float64)


def _standard(values: Tensor) -> Tensor:
    found = bulk(values)
    return (values - found.centre) / found.spread if found.spread > 0 else values - found.centre
