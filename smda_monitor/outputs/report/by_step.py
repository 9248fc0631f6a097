"""Pictures over the steps of a run: refusal by kind, what made up each step, what stayed unexplained, health."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from ...maths.interference import Pooled
from ...records.account import StepAccount
from ...records.probes import KINDS
from ...records.snapshot import DictionaryHealth
from .figure import Cell, Figure, Plot, axis, label, step_axis, warm_up_shade

KIND_NAMES = {"harmful": "harmful", "lookalike": "benign look-alikes", "benign": "benign"}
KIND_COLOURS = {"harmful": "#c94f5d", "lookalike": "#c98a1b", "benign": "#2f9e8f"}
PART_COLOURS = {"shares": "#4c7fb8", "history": "#9a8fc4", "decay": "#a7adb8", "unexplained": "#e0805c"}
LINE = "#4c7fb8"
READINGS = {
    "mass": ("What the model does (mass)", "log-odds of {} (nats)"),
    "contrast": ("Which way it leans (contrast)", "{} openings minus opposite ones (nats)"),
}
"""Title and unit of each reading, with a place for the behaviour's name."""
_PATHWAYS = {"S_Y": "output pathway", "S_X": "feature pathway"}
_PATHWAY_COLOURS = {"S_Y": "#4c7fb8", "S_X": "#c98a1b"}
_HEALTH = {
    "fvu": ("FVU", "fraction", "Fraction of variance unexplained: how much the dictionary misses; 0 is perfect."),
    "l0": ("L0", "features on per probe", "How many features are on at once."),
    "dead": (
        "Silent features",
        "fraction",
        "Features that are on at none of these probes: on few probes, most.",
    ),
}
_TRANSPARENT = "26"  # 15 % opacity, as the last two hex digits of a colour


def last_warm_up(accounts: Sequence[StepAccount]) -> int | None:
    """The last step marked warm-up; None where there is none."""
    return max((a.step for a in accounts if a.warm_up), default=None)


def _line(name: str | None, colour: str, x: Sequence[int], y: Sequence[float | None], hover: str) -> Plot:
    trace: Plot = {"type": "scatter", "mode": "lines+markers", "x": list(x), "y": list(y), "hovertemplate": hover}
    trace |= {"line": {"color": colour, "width": 2.2}, "marker": {"size": 5, "color": colour}}
    return trace | {"name": name} if name else trace


Ends = Sequence[tuple[int, Mapping[str, float]]]
"""Steps at which the whole probe set was measured, with its readings by kind."""


def refusal_figure(
    reading: str,
    accounts: Sequence[StepAccount],
    before: tuple[Mapping[str, float], Mapping[str, float]],
    ends: Ends,
    behaviour: str,
) -> Figure:
    """A `behaviour` by probe kind over steps in one reading, with a band of one standard error on each side.

    `before` holds readings and standard errors of the same probes at step 0, empty where they were not kept; `ends` are
    drawn as diamonds, for whoever wants to see how well a part of the probes stands for all.
    """
    title, unit = READINGS[reading]
    start, error = before
    traces: list[Plot] = []
    table: list[list[Cell]] = []
    for kind in KINDS:
        name = f"{reading}.{kind}"
        points = [(0, start[name], error[name])] if name in start else []
        points += [
            (a.step, a.refusal[name], a.standard_error.get(name, math.nan)) for a in accounts if name in a.refusal
        ]
        if not points:
            continue
        table += [[step, kind, value, error] for step, value, error in points]
        known = [point for point in points if math.isfinite(point[1] + point[2])]
        band: Plot = {
            "type": "scatter",
            "mode": "lines",
            "x": [s for s, _, _ in known] + [s for s, _, _ in reversed(known)],
            "y": [v + e for _, v, e in known] + [v - e for _, v, e in reversed(known)],
            "fill": "toself",
            "fillcolor": KIND_COLOURS[kind] + _TRANSPARENT,
            "line": {"width": 0},
            "hoverinfo": "skip",
        }
        hover = f"{KIND_NAMES[kind]}, step %{{x}}<br>%{{y:.2f}} ± %{{customdata:.2f}} nats<extra></extra>"
        line = _line(KIND_NAMES[kind], KIND_COLOURS[kind], [s for s, _, _ in points], [v for _, v, _ in points], hover)
        whole: Plot = {
            "type": "scatter",
            "mode": "markers",
            "x": [step for step, means in ends if name in means],
            "y": [means[name] for _, means in ends if name in means],
            "marker": {"symbol": "diamond-open", "size": 10, "color": KIND_COLOURS[kind], "line": {"width": 2}},
            "hovertemplate": f"{KIND_NAMES[kind]}, all probes, step %{{x}}<br>%{{y:.2f}} nats<extra></extra>",
        }
        traces += [band, line | {"customdata": [e for _, _, e in points]}, whole]
    return Figure(
        id=f"refusal-{reading}",
        title=title,
        caption="Mean over the probes of each kind; the band is one standard error of the mean as an estimate for the "
        "whole probe set (none where all of it was measured). Diamonds: all probes, measured. Grey: warm-up.",
        traces=traces,
        layout={
            "xaxis": step_axis(),
            "yaxis": axis(unit.format(label(behaviour)), zeroline=True),
            "shapes": warm_up_shade(last_warm_up(accounts)),
        },
        columns=["step", "kind", "value", "standard_error"],
        table=table,
    )


def parts_figure(target: str, accounts: Sequence[StepAccount]) -> Figure:
    """What each step's shift of one target was made of, stacked, beside what was measured."""
    entries = [(a.step, b) for a in accounts for b in a.balances if b.target == target]
    steps = [step for step, _ in entries]
    traces: list[Plot] = [
        {
            "type": "bar",
            "name": part,
            "x": steps,
            "y": [getattr(b, part) for _, b in entries],
            "marker": {"color": colour},
            "hovertemplate": f"step %{{x}}<br>{part} %{{y:.3g}}<extra></extra>",
        }
        for part, colour in PART_COLOURS.items()
    ]
    measured: Plot = {
        "type": "scatter",
        "mode": "markers",
        "name": "measured",
        "x": steps,
        "y": [b.measured for _, b in entries],
        "marker": {"symbol": "diamond", "size": 7, "color": "@ink"},
        "hovertemplate": "step %{x}<br>measured %{y:.3g}<extra></extra>",
    }
    return Figure(
        id=f"parts-{target.replace('_', '-').lower()}",
        title=f"{target}, the {_PATHWAYS.get(target, 'target')}, step by step",
        caption="Bars to both sides of zero add up to the diamond, which was measured. Policy units (Σ ΔW·w).",
        traces=[*traces, measured],
        layout={
            "xaxis": step_axis(),
            "yaxis": axis(f"shift of {label(target)} per step", zeroline=True),
            "barmode": "relative",
            "bargap": 0.25,
            "shapes": warm_up_shade(last_warm_up(accounts)),
        },
        columns=["step", "measured", *PART_COLOURS],
        table=[[s, b.measured, *(getattr(b, part) for part in PART_COLOURS)] for s, b in entries],
    )


def unexplained_figure(accounts: Sequence[StepAccount]) -> Figure:
    """The unexplained fraction of the policy's two pathways at every step, log scale; exact zeros cannot be drawn."""
    traces: list[Plot] = []
    table: list[list[Cell]] = []
    for target, pathway in _PATHWAYS.items():
        entries = [(a.step, b.unexplained_fraction) for a in accounts for b in a.balances if b.target == target]
        table += [
            [a.step, target, b.unexplained_fraction, b.unexplained_of_measured]
            for a in accounts
            for b in a.balances
            if b.target == target
        ]
        drawn = [100 * f if 0 < f < math.inf else None for _, f in entries]
        hover = f"{target}, step %{{x}}<br>%{{y:.3g}} %<extra></extra>"
        traces.append(_line(f"{target} ({pathway})", _PATHWAY_COLOURS[target], [s for s, _ in entries], drawn, hover))
    return Figure(
        id="unexplained",
        title="What stayed unexplained",
        caption="|measured − (shares + history + decay)|, % of Σ|share| + |history| + |decay|; lower is better.",
        traces=traces,
        layout={
            "xaxis": step_axis(),
            "yaxis": axis("unexplained (% of the explained)", type="log", dtick=1, ticksuffix=" %"),
            "shapes": warm_up_shade(last_warm_up(accounts)),
        },
        columns=["step", "target", "fraction", "of_measured"],
        table=table,
    )


def effects_figure(accounts: Sequence[StepAccount]) -> Figure:
    """What each account's rows did to the policy that their prompts did not call for, and the run's so far."""
    by_account = [(a.step, Pooled.of(a.rows)) for a in accounts]
    so_far = list(itertools.accumulate(effects for _, effects in by_account))
    steps = [step for step, _ in by_account]
    hover = "step %{x}<br>%{y:.2f}<extra></extra>"
    return Figure(
        id="effects",
        title="What rows did that their prompts did not call for",
        caption="Interference: the part of Σ|ΔW·w| (output pathway, by row) on features that the rows' own prompts do "
        "not call for. Unintended: the part by rows that are unintended. The line is the run so far.",
        traces=[
            _line("interference", LINE, steps, [_known(one.interference) for one in so_far], hover),
            _line("unintended", PART_COLOURS["unexplained"], steps, [_known(one.unintended) for one in so_far], hover),
            {
                "type": "scatter",
                "mode": "markers",
                "name": "interference of one account",
                "x": steps,
                "y": [_known(one.interference) for _, one in by_account],
                "marker": {"symbol": "diamond-open", "size": 7, "color": LINE},
                "hovertemplate": hover,
            },
        ],
        layout={"xaxis": step_axis(), "yaxis": axis("part of all that rows did", range=[0, 1])},
        columns=["step", "interference", "unintended", "dominant_feature", "run_interference", "run_unintended"],
        table=[
            [step, one.interference, one.unintended, one.dominant_feature, run.interference, run.unintended]
            for (step, one), run in zip(by_account, so_far, strict=True)
        ],
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def health_figures(accounts: Sequence[StepAccount], before: DictionaryHealth | None) -> list[Figure]:
    """Three small pictures of the dictionary's fit over steps; `before` is step 0's on the same probes, if measured."""
    figures = []
    for name, (title, unit, caption) in _HEALTH.items():
        points = [(0, getattr(before, name))] if before else []
        points += [(a.step, getattr(a.health, name)) for a in accounts]
        hover = "step %{x}<br>%{y:.3g}<extra></extra>"
        figures.append(
            Figure(
                id=f"health-{name}",
                title=title,
                caption=caption,
                traces=[_line(None, LINE, [s for s, _ in points], [v for _, v in points], hover)],
                layout={"xaxis": step_axis(), "yaxis": axis(unit, rangemode="tozero")},
                columns=["step", name],
                table=[[step, value] for step, value in points],
                height=260,
            )
        )
    return figures
