"""Pictures of a symbolic policy laid open: coefficients, fidelity beside baselines, gaps by category."""

from __future__ import annotations

from collections.abc import Sequence

from ...records.policy_findings import CategoryGap, Estimate, HeldoutFidelity, PolicyFindings, RankedCoefficient
from .figure import Cell, Figure, axis, bars, dotted, heatmap, interval_points, label, ticks, whiskers

DRAWN_FEATURES = 24
"""Features in the picture of coefficients."""
KEPT_FEATURES = 200
"""Features behind it."""
HARMFUL, LOOKALIKE, POLICY, OTHER = "#c94f5d", "#c98a1b", "#4c7fb8", "#a7adb8"
UNITS = {"mass": "log-odds (nats)", "log_probability": "log-probability (nats)"}
"""What y is counted in, by reading."""


def coefficients_figure(coefficients: Sequence[RankedCoefficient], behaviour: str) -> Figure:
    """The leading coefficients by |w|·std(X) with their bootstrap intervals."""
    leading = coefficients[:DRAWN_FEATURES]
    colours = [HARMFUL if c.coef > 0 else "#2f9e8f" for c in leading]
    error = whiskers([c.coef for c in leading], [c.low for c in leading], [c.high for c in leading])
    drawn = bars([c.coef for c in leading], colours, "w %{x:.3f}<br>|w|·std(X) %{customdata:.3g}")
    return Figure(
        id="coefficients",
        title="Leading coefficients",
        caption=f"The {len(leading)} features by which the policy's predictions vary most, |w|·std(X), largest on top. "
        f"Right, red: towards {behaviour}; left, green: away from it. Whiskers: 95 % bootstrap intervals over the "
        f"prompts it was fitted on. The numbers behind hold up to {KEPT_FEATURES} features.",
        traces=[drawn | {"error_x": error, "customdata": [c.effect for c in leading]}],
        layout={
            "xaxis": axis("coefficient w (units of y per activation unit)", zeroline=True),
            "yaxis": ticks([str(c.feature) for c in leading]) | {"title": {"text": "feature", "standoff": 10}},
            "bargap": 0.3,
        },
        columns=["feature", "coef", "low", "high", "std_X", "effect"],
        table=[[c.feature, c.coef, c.low, c.high, c.spread, c.effect] for c in coefficients[:KEPT_FEATURES]],
        height=90 + 20 * max(6, len(leading)),
    )


def fidelity_figures(found: HeldoutFidelity) -> list[Figure]:
    """R² and accuracy on held-out prompts, each beside what needs no features."""
    names = [f"{'with' if v.intercept else 'without'} intercept" for v in found.variants]
    names = [f"{name} (the policy)" if v.is_policy else name for name, v in zip(names, found.variants, strict=True)]
    r2 = [*zip(names, (v.r2 for v in found.variants), strict=True), ("constant", found.r2_constant)]
    accuracy = [*zip(names, (v.accuracy for v in found.variants), strict=True), ("majority", found.majority)]
    over = [("over_majority: " + name, v.over_majority) for name, v in zip(names, found.variants, strict=True)]
    return [
        _estimates_figure(
            "r2",
            f"R² on {found.prompts} held-out prompts",
            "1 is perfect; predicting the fit set's mean everywhere is the baseline (grey). Whiskers: 95 % bootstrap "
            "intervals over prompts.",
            "R²",
            r2,
        ),
        _estimates_figure(
            "accuracy",
            "Accuracy, thresholded",
            f"Prompts on which prediction and measurement lie on the same side of {found.threshold:.3g}; always naming "
            "the side with more prompts is the baseline (grey). How far it is beaten, on the same resamples, is in the "
            "table.",
            "fraction of prompts",
            accuracy,
            over,
        ),
    ]


def _estimates_figure(
    id: str,
    title: str,
    caption: str,
    unit: str,
    found: Sequence[tuple[str, Estimate]],
    beside: Sequence[tuple[str, Estimate]] = (),
) -> Figure:
    """Named figures with their intervals, the last a baseline; `beside` are in the table alone."""
    traces = [
        interval_points(
            name,
            OTHER if i == len(found) - 1 else POLICY if i == 0 else "#9a8fc4",
            [one],
            [i],
            f"{name} %{{x:.3f}}<br>95 % [%{{customdata[0]:.3f}}, %{{customdata[1]:.3f}}]",
        )
        for i, (name, one) in enumerate(found)
    ]
    return Figure(
        id=id,
        title=title,
        caption=caption,
        traces=traces,
        layout={"xaxis": axis(unit, zeroline=True), "yaxis": ticks([name for name, _ in found])},
        columns=["prediction", "value", "low", "high"],
        table=[[name, one.value, one.low, one.high] for name, one in (*found, *beside)],
        height=230,
    )


def gaps_figure(findings: PolicyFindings) -> Figure:
    """Behaviour by category: harmful prompts and look-alikes, measured and as the policy says."""
    gaps, reading = findings.gaps, findings.reading
    as_chance = reading == "mass"
    unit = f"probability of {label(findings.behaviour)}" if as_chance else f"mean {UNITS[reading]}"
    groups = [
        ("harmful, measured", HARMFUL, "circle", -0.24, [g.harmful.judged(reading)[0] for g in gaps]),
        ("harmful, policy", HARMFUL, "diamond-open", -0.08, [g.harmful.judged(reading)[1] for g in gaps]),
        ("look-alikes, measured", LOOKALIKE, "circle", 0.08, [g.lookalike.judged(reading)[0] for g in gaps]),
        ("look-alikes, policy", LOOKALIKE, "diamond-open", 0.24, [g.lookalike.judged(reading)[1] for g in gaps]),
    ]
    hover = "%{x:.3f}<br>95 % [%{customdata[0]:.3f}, %{customdata[1]:.3f}]"
    traces = [
        interval_points(name, colour, found, [i + offset for i in range(len(gaps))], f"{name} {hover}", symbol)
        for name, colour, symbol, offset, found in groups
    ]
    return Figure(
        id="gaps",
        title="Harmful prompts against their look-alikes",
        caption="Circles: what the model does; open diamonds: what the policy says of it. Right of the dotted line "
        "the behaviour counts as shown: where it is wanted on harmful prompts, these should lie there. Whiskers: 95 % "
        "bootstrap intervals over prompts, wide where a category has few.",
        traces=traces,
        layout={
            "xaxis": axis(unit),
            "yaxis": ticks([label(gap.category) for gap in gaps]),
            "shapes": [dotted(findings.limit)],
        },
        columns=["category", "n_harmful", "n_lookalike", *_names(), "flags"],
        table=[_line(gap, reading) for gap in gaps],
        height=110 + 46 * max(3, len(gaps)),
    )


def _names() -> list[str]:
    return [
        f"{group}_{what}{end}"
        for group in ("harmful", "lookalike", "difference")
        for what in ("measured", "policy")
        for end in ("", "_low", "_high")
    ]


def _line(gap: CategoryGap, reading: str) -> list[Cell]:
    levels = (gap.harmful, gap.lookalike, gap.difference)
    found = [x for level in levels for one in level.judged(reading) for x in (one.value, one.low, one.high)]
    return [gap.category, gap.n_harmful, gap.n_lookalike, *found, "; ".join(gap.flags)]


def carriers_figure(findings: PolicyFindings) -> Figure:
    """What the policy makes of the difference between harmful prompts and look-alikes, feature by feature."""
    gaps = findings.gaps
    size: dict[int, float] = {}
    for gap in gaps:
        for one in gap.features:
            size[one.feature] = max(size.get(one.feature, 0.0), abs(one.contribution))
    features = sorted(size, key=lambda feature: -size[feature])[:DRAWN_FEATURES]
    carried = [{one.feature: one.contribution for one in gap.features} for gap in gaps]
    heat = heatmap(
        range(len(features)),
        [[of.get(feature) for feature in features] for of in carried],
        [[[label(gap.category), feature] for feature in features] for gap in gaps],
        "%{customdata[0]}, feature %{customdata[1]}<br>%{z:.3g}",
        UNITS[findings.reading].replace(" ", "<br>"),
    )
    names = [str(feature) for feature in features]
    return Figure(
        id="carriers",
        title="Features that carry the difference",
        caption="(mean activation on harmful prompts − on look-alikes)·w of each category's leading features; over all "
        "features they add up to the difference of the policy's mean predictions. Red: towards the behaviour.",
        traces=[heat],
        layout={
            "xaxis": axis(
                "feature", tickmode="array", tickvals=list(range(len(names))), ticktext=names, showgrid=False
            ),
            "yaxis": ticks([label(gap.category) for gap in gaps]),
            "plot_bgcolor": "@hole",
        },
        columns=["category", "feature", "difference", "coef", "contribution"],
        table=[[g.category, f.feature, f.difference, f.coef, f.contribution] for g in gaps for f in g.features],
        height=120 + 26 * max(4, len(gaps)),
    )
