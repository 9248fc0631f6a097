"""Pictures of an audit's rows by group: harmful against harmless, and interference by kind."""

from __future__ import annotations

from ...records.row_kinds import FeatureContrast, Pathway, RowKinds
from .figure import Cell, Figure, Plot, axis, label, ticks

HARMFUL, HARMLESS = "#c94f5d", "#2f9e8f"
_TITLES: dict[Pathway, tuple[str, str]] = {
    "X": ("Through features", "ΔW_X,k w_k"),
    "Y": ("Through outputs", "ΔW_Y,k w_k"),
}
_QUANTILES = ("p5", "q1", "median", "q3", "p95")
_TESTED = ("auroc", "rank_biserial", "p", "p_adjusted", "U")


def contrast_figures(found: RowKinds) -> list[Figure]:
    """One picture for each pathway, to stand side by side."""
    return [_contrast_figure(found, pathway) for pathway in _TITLES]


def _contrast_figure(found: RowKinds, pathway: Pathway) -> Figure:
    title, unit = _TITLES[pathway]
    contrasts = [one for one in found.contrasts if one.pathway == pathway]
    traces = [_boxes(contrasts, group, colour) for group, colour in (("harmful", HARMFUL), ("harmless", HARMLESS))]
    return Figure(
        id=f"contrast-{pathway.lower()}",
        title=title,
        caption=f"{unit} over rows, by watched feature, the policy's leading one on top: boxes from quartile to "
        "quartile with the median, whiskers from 5 % to 95 %. Right of zero rows strengthen the coefficient. * behind "
        "a feature: the groups differ at a false-discovery rate of 5 %.",
        traces=traces,
        layout={
            "xaxis": axis(f"{unit} (policy units)", zeroline=True),
            "yaxis": ticks([f"{one.feature}{' *' if one.p_adjusted < 0.05 else ''}" for one in contrasts])
            | {"title": {"text": "feature", "standoff": 10}},
            "boxmode": "group",
            "boxgap": 0.25,
            "boxgroupgap": 0.1,
        },
        columns=[
            "feature",
            "w",
            *_TESTED,
            *(f"{group}_{name}" for group in ("harmful", "harmless") for name in ("rows", *_QUANTILES)),
        ],
        table=[_line(one) for one in contrasts],
        height=110 + 34 * max(4, len(contrasts)),
    )


def _boxes(contrasts: list[FeatureContrast], group: str, colour: str) -> Plot:
    found = [getattr(one, group) for one in contrasts]
    return {
        "type": "box",
        "orientation": "h",
        "name": f"{group} rows",
        "y": list(range(len(found))),
        "q1": [one.q1 for one in found],
        "median": [one.median for one in found],
        "q3": [one.q3 for one in found],
        "lowerfence": [one.p5 for one in found],
        "upperfence": [one.p95 for one in found],
        "marker": {"color": colour},
        "line": {"color": colour, "width": 1.4},
    }


def _line(one: FeatureContrast) -> list[Cell]:
    groups = [getattr(group, name) for group in (one.harmful, one.harmless) for name in ("rows", *_QUANTILES)]
    return [one.feature, one.coefficient, *(getattr(one, name) for name in _TESTED), *groups]


def interference_figure(found: RowKinds) -> Figure:
    """The matrix of features and kinds of rows: where unintended effects fall."""
    names = [f"{one.kind} ({one.rows})" for one in found.kinds]
    drawn = [label(name) for name in names]
    heat: Plot = {
        "type": "heatmap",
        "x": list(range(len(drawn))),
        "y": list(range(len(found.features))),
        "z": [[one.by_feature[k] for one in found.kinds] for k in range(len(found.features))],
        "zmin": 0,
        "zmax": max((part for one in found.kinds for part in one.by_feature), default=0.0) or 1.0,
        "colorscale": [[0, "@panel"], [1, "#c2413b"]],
        "xgap": 1,
        "ygap": 1,
        "customdata": [[[name, feature] for name in drawn] for feature in found.features],
        "hovertemplate": "%{customdata[0]}, feature %{customdata[1]}<br>%{z:.3f} of the effect<extra></extra>",
        "colorbar": {"title": {"text": "part of<br>the effect", "side": "top"}, "thickness": 12},
    }
    kinds = "the data's own kinds" if found.named else "how the rows' prompts read"
    return Figure(
        id="interference",
        title="Cross-feature interference by kind of row",
        caption=f"Mean part of a row's effect on the watched features that falls on feature k although the row's own "
        f"prompt does not call for it. A column adds up to the mean interference of its kind. Kinds: {kinds}; in "
        "brackets how many rows.",
        traces=[heat],
        layout={
            "xaxis": axis(
                "kind of row", tickmode="array", tickvals=list(range(len(drawn))), ticktext=drawn, showgrid=False
            ),
            "yaxis": ticks([str(feature) for feature in found.features])
            | {"title": {"text": "watched feature", "standoff": 10}},
            "plot_bgcolor": "@hole",
        },
        columns=["feature", *(f"kind.{one.kind}" for one in found.kinds)],
        table=[[feature, *(one.by_feature[k] for one in found.kinds)] for k, feature in enumerate(found.features)],
        height=150 + 22 * max(6, len(found.features)),
    )


def kinds_figure(found: RowKinds) -> Figure:
    """Which kinds of rows act mainly on features that their prompts did not call for."""
    drawn = [label(f"{one.kind} ({one.rows})") for one in found.kinds]
    groups = (("dominant effect unintended", "unintended", "#c94f5d"), ("mean interference", "interference", "#9a8fc4"))
    traces: list[Plot] = [
        {
            "type": "bar",
            "orientation": "h",
            "name": name,
            "x": [getattr(one, figure) for one in found.kinds],
            "y": list(range(len(drawn))),
            "marker": {"color": colour},
            "hovertemplate": f"{name} %{{x:.3f}}<extra></extra>",
        }
        for name, figure, colour in groups
    ]
    return Figure(
        id="kinds",
        title="Unintended effects by kind of row",
        caption="The share of a kind's rows whose dominant watched feature is not one that their own prompts call for, "
        "and their mean interference.",
        traces=traces,
        layout={
            "xaxis": axis("share of rows; part of the effect", range=[0, 1]),
            "yaxis": ticks(drawn),
            "barmode": "group",
            "bargap": 0.3,
        },
        columns=["kind", "rows", "unintended", "interference"],
        table=[[one.kind, one.rows, one.unintended, one.interference] for one in found.kinds],
        height=110 + 40 * max(3, len(drawn)),
    )
