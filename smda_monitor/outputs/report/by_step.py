"""Pictures over the steps of a run: refusal by kind, what made up each step, what stayed unexplained, dictionary health."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...records.account import StepAccount
from ...records.probes import KINDS
from .figure import Cell, Figure, axis, label, legend_on_top, step_axis, warm_up_shade

KIND_NAMES = {"harmful": "harmful", "lookalike": "benign look-alikes", "benign": "benign"}
KIND_COLOURS = {"harmful": "#c94f5d", "lookalike": "#c98a1b", "benign": "#2f9e8f"}
PART_COLOURS = {"shares": "#4c7fb8", "history": "#9a8fc4", "decay": "#a7adb8", "unexplained": "#e0805c"}
READINGS = {
    "mass": ("What the model does (mass)", "log-odds of refusal (nats)"),
    "contrast": ("Which way it leans (contrast)", "refusal minus compliance (nats)"),
}
_TRANSPARENT = "26"  # 15 % opacity, as the last two hex digits of a colour


def last_warm_up(accounts: Sequence[StepAccount]) -> int | None:
    """The last step marked warm-up; None where there is none."""
    return max((a.step for a in accounts if a.warm_up), default=None)


def refusal_figure(reading: str, accounts: Sequence[StepAccount], before: Mapping[str, float]) -> Figure:
    """Refusal by probe kind over steps in one reading, with a band of one standard error on each side.

    `before` is the reading at step 0 (whole probe set); empty where it was not kept.
    """
    title, unit = READINGS[reading]
    traces: list[dict[str, Any]] = []
    table: list[list[Cell]] = []
    for kind in KINDS:
        name = f"{reading}.{kind}"
        points = [(0, before[name], 0.0)] if name in before else []
        points += [
            (a.step, a.refusal[name], a.standard_error.get(name, float("nan"))) for a in accounts if name in a.refusal
        ]
        if not points:
            continue
        table += [[step, kind, value, error] for step, value, error in points]
        steps = [step for step, _, _ in points]
        known = [(s, v, e) for s, v, e in points if e == e and v == v]
        band = [v + e for _, v, e in known] + [v - e for _, v, e in reversed(known)]
        around = [s for s, _, _ in known] + [s for s, _, _ in reversed(known)]
        colour = KIND_COLOURS[kind]
        traces.append(
            {"type": "scatter", "x": around, "y": band, "fill": "toself", "fillcolor": colour + _TRANSPARENT}
            | {"line": {"width": 0}, "mode": "lines", "hoverinfo": "skip", "showlegend": False, "legendgroup": kind}
        )
        hover = "step %{x}<br>%{y:.2f} ± %{customdata:.2f} nats"
        traces.append(
            {"type": "scatter", "x": steps, "y": [v for _, v, _ in points], "mode": "lines+markers", "legendgroup": kind}
            | {"name": KIND_NAMES[kind], "line": {"color": colour, "width": 2.5}, "marker": {"size": 5}}
            | {"customdata": [e for _, _, e in points], "hovertemplate": hover}
        )
    layout = {"xaxis": step_axis(), "yaxis": axis(unit, zeroline=True), "legend": legend_on_top()}
    layout["shapes"] = warm_up_shade(last_warm_up(accounts))
    caption = (
        "Mean over the probes of each kind; the band is one standard error of the mean as an estimate for the whole probe "
        "set (none where all of it was measured). Grey: warm-up."
    )
    return Figure(f"refusal-{reading}", title, caption, traces, layout, ["step", "kind", "value", "standard_error"], table)


def parts_figure(target: str, accounts: Sequence[StepAccount]) -> Figure:
    """What each step's shift of one target was made of, stacked, beside what was measured."""
    entries = [(a.step, b) for a in accounts for b in a.balances if b.target == target]
    steps = [step for step, _ in entries]
    traces: list[dict[str, Any]] = [
        {"type": "bar", "name": part, "x": steps, "y": [getattr(b, part) for _, b in entries]}
        | {"marker": {"color": colour}, "hovertemplate": f"step %{{x}}<br>{part} %{{y:.3g}}<extra></extra>"}
        for part, colour in PART_COLOURS.items()
    ]
    traces.append(
        {"type": "scatter", "name": "measured", "x": steps, "y": [b.measured for _, b in entries], "mode": "markers"}
        | {"marker": {"symbol": "diamond", "size": 7, "color": "@ink"}}
        | {"hovertemplate": "step %{x}<br>measured %{y:.3g}<extra></extra>"}
    )
    layout = {"xaxis": step_axis(), "yaxis": axis(f"shift of {label(target)} per step"), "legend": legend_on_top()}
    layout |= {"barmode": "relative", "bargap": 0.25, "shapes": warm_up_shade(last_warm_up(accounts))}
    pathway = {"S_X": "feature-activation pathway", "S_Y": "output-probability pathway"}.get(target, "this target")
    columns = ["step", "measured", *PART_COLOURS]
    table: list[list[Cell]] = [[s, b.measured, *(getattr(b, part) for part in PART_COLOURS)] for s, b in entries]
    caption = f"Each step of the {pathway}: bars stack to the diamond, which was measured. Policy units (Σ ΔW·w)."
    return Figure(f"parts-{target.replace('_', '-').lower()}", f"{target}, step by step", caption, traces, layout, columns, table)


def unexplained_figure(accounts: Sequence[StepAccount], targets: Sequence[str] = ("S_Y", "S_X")) -> Figure:
    """The unexplained fraction of the policy's two pathways at every step, log scale; exact zeros cannot be drawn."""
    traces: list[dict[str, Any]] = []
    table: list[list[Cell]] = []
    for target, colour in zip(targets, ("#4c7fb8", "#c98a1b"), strict=False):
        entries = [(a.step, b.unexplained_fraction) for a in accounts for b in a.balances if b.target == target]
        table += [[step, target, fraction] for step, fraction in entries]
        drawn = [100 * f if 0 < f < float("inf") else None for _, f in entries]
        name = {"S_X": "S_X (feature pathway)", "S_Y": "S_Y (output pathway)"}.get(target, target)
        traces.append(
            {"type": "scatter", "name": name, "x": [s for s, _ in entries], "y": drawn, "mode": "lines+markers"}
            | {"line": {"color": colour, "width": 2}, "marker": {"size": 5}}
            | {"hovertemplate": "step %{x}<br>%{y:.3g} %"}
        )
    layout = {"xaxis": step_axis(), "yaxis": axis("unexplained (% of what was explained)", type="log", dtick=1, ticksuffix=" %")}
    layout |= {"legend": legend_on_top(), "shapes": warm_up_shade(last_warm_up(accounts))}
    caption = "|measured − (shares + history + decay)| as a percentage of Σ|share| + |history| + |decay|. Lower is better."
    return Figure("unexplained", "What stayed unexplained", caption, traces, layout, ["step", "target", "fraction"], table)


_HEALTH = {
    "fvu": ("FVU", "fraction of variance unexplained", "How much of the residual the dictionary misses; 0 is perfect."),
    "l0": ("L0", "active features per probe", "How many features are on at once."),
    "dead": ("Dead features", "fraction never active", "Features on no measured probe; grows when fewer are measured."),
}


def health_figures(accounts: Sequence[StepAccount], before: Mapping[str, float]) -> list[Figure]:
    """Three small pictures of the dictionary's fit over steps; `before` holds step 0's values, if kept."""
    figures = []
    for name, (title, unit, caption) in _HEALTH.items():
        points = [(0, before[name])] if name in before else []
        points += [(a.step, getattr(a.health, name)) for a in accounts]
        trace = {"type": "scatter", "x": [s for s, _ in points], "y": [v for _, v in points], "mode": "lines+markers"}
        trace |= {"line": {"color": "#4c7fb8", "width": 2}, "marker": {"size": 4}, "hovertemplate": "step %{x}<br>%{y:.3g}<extra></extra>"}
        layout = {"xaxis": step_axis(), "yaxis": axis(unit, rangemode="tozero"), "showlegend": False}
        table: list[list[Cell]] = [[step, value] for step, value in points]
        figures.append(Figure(f"health-{name}", title, caption, [trace], layout, ["step", name], table, height=240))
    return figures
