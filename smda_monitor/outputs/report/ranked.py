"""Pictures that rank: rows by score, features by drift and by coefficient, targets by what moved them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...records.account import StepAccount
from ..ledger_reader import Coefficient
from ..ranking import RankedRow
from .by_step import PART_COLOURS
from .figure import Cell, Figure, Plot, axis, bars, heatmap, label, step_axis, ticks, whiskers

DRAWN_ROWS = 15
"""Rows in the picture."""
KEPT_ROWS = 200
"""Rows behind the picture."""
DRAWN_FEATURES = 24
"""Features in the heatmap and in the coefficient picture."""
_PATHWAYS = {"S_X": ("ΔX: through features", "#c98a1b"), "S_Y": ("ΔY: through outputs", "#4c7fb8")}
_ENTRY: tuple[str, ...] = (
    "row_id",
    "row_hash",
    "step",
    "tokens",
    "loss",
    "gradient_norm",
    "own_push",
    "own_mass",
    "own_predicted",
)
_ENTRY += ("expected", "answer_reading", "interference", "dominant_feature", "unintended", "score")


def rows_figure(ranking: Sequence[RankedRow]) -> Figure:
    """The leading rows' pushes on the policy's two pathways, stacked."""
    drawn = [r.entry for r in ranking[:DRAWN_ROWS]]
    names = [label(row.row_id) for row in drawn]
    traces = []
    for target, (name, colour) in _PATHWAYS.items():
        hover = f"%{{customdata[0]}}, step %{{customdata[1]}}<br>push on {target} %{{x:.3g}}"
        hover += "<br>score %{customdata[2]:.3g}"
        drawn_bars = bars([row.push.get(target, math.nan) for row in drawn], colour, hover)
        facts = [[names[i], row.step, row.score] for i, row in enumerate(drawn)]
        traces.append(drawn_bars | {"name": name, "customdata": facts})
    return Figure(
        id="rows",
        title="What the leading rows pushed",
        caption=f"The {len(drawn)} rows with the highest score, at the step of that score. Right of zero the row "
        f"reinforces the policy, left of zero it erodes it. The numbers behind hold up to {KEPT_ROWS} rows.",
        traces=traces,
        layout={
            "xaxis": axis("push on the policy's score S (policy units, Σ ΔW·w)", zeroline=True),
            "yaxis": ticks(names),
            "barmode": "relative",
            "bargap": 0.3,
        },
        columns=["rank", "first_step", "times", "warm_up", "push_S_X", "push_S_Y", *_ENTRY],
        table=[_row_line(rank, row) for rank, row in enumerate(ranking[:KEPT_ROWS], start=1)],
        height=80 + 26 * max(4, len(drawn)),
    )


def _row_line(rank: int, row: RankedRow) -> list[Cell]:
    push = (row.entry.push.get(target, math.nan) for target in _PATHWAYS)
    return [rank, row.first_step, row.times, row.warm_up, *push, *(getattr(row.entry, name) for name in _ENTRY)]


def drift_figure(accounts: Sequence[StepAccount], coefficients: Sequence[Coefficient]) -> Figure:
    """Heatmap of drift · w, features by steps: the part of the explained behaviour shift that each feature carries.

    The feature with the largest |drift · w| at any step stands on top. `coefficients` are in the drift's order.
    """
    moved = [[d * c.coef for d, c in zip(a.drift, coefficients, strict=True)] for a in accounts]
    size = [max((abs(m[k]) for m in moved if math.isfinite(m[k])), default=0.0) for k in range(len(coefficients))]
    order = sorted(range(len(coefficients)), key=lambda k: -size[k])[:DRAWN_FEATURES]
    steps = [a.step for a in accounts]
    names = [f"{coefficients[k].feature} (w {coefficients[k].coef:+.3f})" for k in order]
    hover = "feature %{customdata[0]}<br>step %{x}<br>drift %{customdata[1]:.3g} activation units"
    heat = heatmap(
        steps,
        [[m[k] for m in moved] for k in order],
        [[[name, a.drift[k]] for a in accounts] for name, k in zip(names, order, strict=True)],
        f"{hover}<br>drift · w %{{z:.3g}} nats",
        "drift · w<br>(nats)",
    )
    return Figure(
        id="drift",
        title="Which features drifted",
        caption="Mean change of a feature's activation on the measured probes since step 0, times its coefficient: "
        "what the policy makes of the drift. Red: towards the behaviour; blue: away from it.",
        traces=[heat],
        layout={
            "xaxis": step_axis(showgrid=False),
            "yaxis": ticks(names) | {"title": {"text": "feature (its coefficient w)", "standoff": 10}},
            "plot_bgcolor": "@hole",
        },
        columns=["feature", "coefficient", "step", "drift", "drift_w"],
        table=[
            [coefficients[k].feature, coefficients[k].coef, a.step, a.drift[k], m[k]]
            for k in order
            for a, m in zip(accounts, moved, strict=True)
        ],
        height=110 + 20 * max(6, len(order)),
    )


def coefficients_figure(coefficients: Sequence[Coefficient]) -> Figure:
    """The policy's largest coefficients with their bootstrap intervals."""
    leading = sorted(coefficients, key=lambda c: -abs(c.coef))[:DRAWN_FEATURES]
    colours = ["#c94f5d" if c.coef > 0 else "#2f9e8f" for c in leading]
    error = whiskers([c.coef for c in leading], [c.low for c in leading], [c.high for c in leading])
    return Figure(
        id="coefficients",
        title="Leading features of the policy",
        caption="Features that make the policy predict the behaviour (right, red) or none (left, green); whiskers are "
        "the 95 % bootstrap interval over the prompts it was fitted on.",
        traces=[bars([c.coef for c in leading], colours, "w %{x:.3f}") | {"error_x": error}],
        layout={
            "xaxis": axis("coefficient w (units of y per activation unit)", zeroline=True),
            "yaxis": ticks([str(c.feature) for c in leading]) | {"title": {"text": "feature", "standoff": 10}},
            "bargap": 0.3,
        },
        columns=["feature", "coef", "low", "high"],
        table=[[c.feature, c.coef, c.low, c.high] for c in leading],
        height=90 + 20 * max(6, len(leading)),
    )


def balance_figure(id: str, title: str, unit: str, targets: Sequence[str], accounts: Sequence[StepAccount]) -> Figure:
    """What the whole run's shift of each target is made of, beside what was measured; sums over the accounts."""
    parts = ("measured", *PART_COLOURS)
    entries = {target: [b for a in accounts for b in a.balances if b.target == target] for target in targets}
    sums = {target: {part: sum(getattr(b, part) for b in found) for part in parts} for target, found in entries.items()}
    width = min(0.6, 0.1 + 0.1 * len(targets))  # few targets would otherwise get very thick bars
    traces = [
        bars([sums[t][part] for t in targets], colour, f"{part} %{{x:.3g}}") | {"name": part, "width": width}
        for part, colour in PART_COLOURS.items()
    ]
    measured: Plot = {
        "type": "scatter",
        "mode": "markers",
        "name": "measured",
        "x": [sums[t]["measured"] for t in targets],
        "y": list(range(len(targets))),
        "marker": {"symbol": "diamond", "size": 11, "color": "@ink"},
        "hovertemplate": "measured %{x:.3g}<extra></extra>",
    }
    return Figure(
        id=id,
        title=title,
        caption="Sums over the run's accounts. Bars to both sides of zero add up to the diamond, which was measured.",
        traces=[*traces, measured],
        layout={
            "xaxis": axis(unit, zeroline=True),
            "yaxis": ticks([label(t) for t in targets]),
            "barmode": "relative",
        },
        columns=["target", *parts],
        table=[[target, *(sums[target][part] for part in parts)] for target in targets],
        height=80 + 36 * max(6, len(targets)),
    )
