"""Pictures that rank: rows by score, features by drift and by coefficient, targets by what moved them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...records.account import StepAccount
from ..ledger_reader import Coefficient
from ..ranking import Ranking
from .by_step import PART_COLOURS
from .figure import Cell, Figure, axis, label, legend_on_top, step_axis

DRAWN_ROWS = 15
"""Rows in the picture."""
KEPT_ROWS = 200
"""Rows behind the picture."""
DRAWN_FEATURES = 24
"""Features in the heatmap and in the coefficient picture."""
X_COLOUR, Y_COLOUR = "#c98a1b", "#4c7fb8"
_NOWHERE = float("nan")


def _ticks(names: Sequence[str]) -> dict[str, Any]:
    """A y-axis with one line per name, the first on top. Positions are numbers, so that equal names stay apart."""
    ticks = {"tickmode": "array", "tickvals": list(range(len(names))), "ticktext": list(names)}
    return ticks | {"range": [len(names) - 0.5, -0.5], "automargin": True, "showgrid": False, "zeroline": False}


def rows_figure(ranking: Ranking) -> Figure:
    """The leading rows' pushes on the policy's two pathways, stacked."""
    drawn = ranking.rows[:DRAWN_ROWS]
    names = [label(r.entry.row_id) for r in drawn]
    traces = [
        {"type": "bar", "orientation": "h", "name": name, "y": list(range(len(drawn)))}
        | {"x": [r.entry.push.get(target, _NOWHERE) for r in drawn], "marker": {"color": colour}}
        | {"customdata": [[names[i], r.entry.step, r.entry.score] for i, r in enumerate(drawn)]}
        | {"hovertemplate": f"%{{customdata[0]}}, step %{{customdata[1]}}<br>push on {target} %{{x:.3g}}<br>score %{{customdata[2]:.3g}}<extra></extra>"}
        for target, name, colour in (("S_X", "ΔX: through features", X_COLOUR), ("S_Y", "ΔY: through outputs", Y_COLOUR))
    ]
    layout = {"xaxis": axis("push on the policy's score S (policy units, Σ ΔW·w)", zeroline=True), "yaxis": _ticks(names)}
    layout |= {"barmode": "relative", "bargap": 0.3, "legend": legend_on_top()}
    columns = ["rank", "row_id", "row_hash", "step", "first_step", "times", "tokens", "loss", "gradient_norm", "push_S_X", "push_S_Y"]
    columns += ["own_push", "own_mass", "own_predicted", "interference", "dominant_feature", "unintended", "score"]
    table: list[list[Cell]] = [
        [rank, e.row_id, e.row_hash, e.step, r.first_step, r.times, e.tokens, e.loss, e.gradient_norm]
        + [e.push.get("S_X", _NOWHERE), e.push.get("S_Y", _NOWHERE), e.own_push, e.own_mass, e.own_predicted]
        + [e.interference, e.dominant_feature, e.unintended, e.score]
        for rank, r in enumerate(ranking.rows[:KEPT_ROWS], start=1)
        for e in (r.entry,)
    ]
    caption = (
        f"The {len(drawn)} rows with the highest score, at the step of that score. Right of zero the row reinforces the "
        f"policy, left of zero it erodes it. The numbers behind hold up to {KEPT_ROWS} rows."
    )
    height = 110 + 26 * max(4, len(drawn))
    return Figure("rows", "What the leading rows pushed", caption, traces, layout, columns, table, height)


def drift_figure(accounts: Sequence[StepAccount]) -> Figure:
    """Heatmap of activation drift, features × steps, largest final drift on top."""
    drift: dict[int, dict[int, float]] = {}
    coefficient: dict[int, float] = {}
    for account in accounts:
        for shift in account.features:
            drift.setdefault(shift.feature, {})[account.step] = shift.activation_drift
            coefficient[shift.feature] = shift.coefficient
    size = {f: max((abs(v) for v in by_step.values() if v == v), default=0.0) for f, by_step in drift.items()}
    order = sorted(drift, key=lambda f: -size[f])[:DRAWN_FEATURES]
    steps = [a.step for a in accounts]
    names = [f"{f} (w {coefficient[f]:+.2f})" for f in order]
    limit = max((size[f] for f in order), default=0.0) or 1.0
    trace = {"type": "heatmap", "x": steps, "y": list(range(len(order))), "z": [[drift[f].get(s) for s in steps] for f in order]}
    trace |= {"zmin": -limit, "zmax": limit, "colorscale": [[0, "#2c6cb5"], [0.5, "@panel"], [1, "#c2413b"]]}
    trace |= {"customdata": [[name] * len(steps) for name in names], "xgap": 1, "ygap": 1, "hoverongaps": False}
    trace |= {"hovertemplate": "feature %{customdata}<br>step %{x}<br>drift %{z:.3f}<extra></extra>"}
    trace |= {"colorbar": {"title": {"text": "activation<br>units", "side": "top"}, "thickness": 12}}
    layout = {"xaxis": step_axis(showgrid=False), "yaxis": _ticks(names) | {"title": {"text": "feature (its coefficient w)", "standoff": 10}}}
    layout["plot_bgcolor"] = "@hole"
    table: list[list[Cell]] = [[f, coefficient[f], s, drift[f][s]] for f in order for s in steps if s in drift[f]]
    caption = (
        "Mean change of a feature's activation on the measured probes since step 0. Blue: weaker; red: stronger. Grey: the "
        "feature was not among those that led that step's account."
    )
    columns = ["feature", "coefficient", "step", "activation_drift"]
    height = 130 + 20 * max(6, len(order))
    return Figure("drift", "Which features drifted", caption, [trace], layout, columns, table, height)


def coefficients_figure(coefficients: Sequence[Coefficient]) -> Figure:
    """The policy's largest coefficients with their bootstrap intervals."""
    leading = sorted(coefficients, key=lambda c: -abs(c.coef))[:DRAWN_FEATURES]
    trace = {"type": "bar", "orientation": "h", "x": [c.coef for c in leading], "y": list(range(len(leading)))}
    trace |= {"marker": {"color": ["#c94f5d" if c.coef > 0 else "#2f9e8f" for c in leading]}}
    above, below = [c.high - c.coef for c in leading], [c.coef - c.low for c in leading]
    error = {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "color": "@ink", "thickness": 1.2, "width": 3}
    trace |= {"error_x": error, "hovertemplate": "w %{x:.3f}<extra></extra>"}
    layout = {"xaxis": axis("coefficient w (units of y per activation unit)", zeroline=True), "showlegend": False, "bargap": 0.3}
    layout["yaxis"] = _ticks([str(c.feature) for c in leading]) | {"title": {"text": "feature", "standoff": 10}}
    table: list[list[Cell]] = [[c.feature, c.coef, c.low, c.high] for c in leading]
    caption = (
        "Features that make the policy predict refusal (right, red) or compliance (left, green); whiskers are the 95 % "
        "bootstrap interval over the prompts it was fitted on."
    )
    height = 90 + 20 * max(6, len(leading))
    return Figure("coefficients", "Leading features of the policy", caption, [trace], layout, ["feature", "coef", "low", "high"], table, height)


def balance_figure(id: str, title: str, unit: str, targets: Sequence[str], accounts: Sequence[StepAccount]) -> Figure:
    """What the whole run's shift of each target is made of, beside what was measured; sums over the accounts."""
    parts = ("measured", *PART_COLOURS)
    sums = {
        target: {part: sum(getattr(b, part) for a in accounts for b in a.balances if b.target == target) for part in parts}
        for target in targets
    }
    positions = list(range(len(targets)))
    traces: list[dict[str, Any]] = [
        {"type": "bar", "orientation": "h", "name": part, "y": positions, "x": [sums[t][part] for t in targets]}
        | {"marker": {"color": colour}, "hovertemplate": f"{part} %{{x:.3g}}<extra></extra>"}
        for part, colour in PART_COLOURS.items()
    ]
    traces.append(
        {"type": "scatter", "mode": "markers", "name": "measured", "y": positions, "x": [sums[t]["measured"] for t in targets]}
        | {"marker": {"symbol": "diamond", "size": 11, "color": "@ink"}, "hovertemplate": "measured %{x:.3g}<extra></extra>"}
    )
    layout = {"xaxis": axis(unit, zeroline=True), "yaxis": _ticks([label(t) for t in targets]), "legend": legend_on_top()}
    layout |= {"barmode": "relative", "bargap": 0.4}
    table: list[list[Cell]] = [[target, *(sums[target][part] for part in parts)] for target in targets]
    caption = "Sums over the run's accounts. Bars to the right and left of zero add up to the diamond, which was measured."
    height = 150 + 36 * max(6, len(targets))
    return Figure(id, title, caption, traces, layout, ["target", *parts], table, height)
