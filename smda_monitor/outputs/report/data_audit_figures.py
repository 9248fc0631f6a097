"""Pictures of an audit's rows: which lead, how scores are spread, the two pathways, gradient against replay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...maths.agreement import relative_error
from ...records.row_audit import RowAudit
from ..score_table import ScoreTable
from .figure import Cell, Figure, Plot, axis, bars, label, ticks

DRAWN_ROWS = 15
"""Rows in the picture of leading rows."""
BINS = 40
"""Of the scores' histogram."""
THROUGH_X, THROUGH_Y, FLAGGED = "#c98a1b", "#4c7fb8", "#c94f5d"
PATHWAYS = {"S_X": ("ΔX: through features", THROUGH_X), "S_Y": ("ΔY: through outputs", THROUGH_Y)}
"""Name and colour of each pathway's score."""
_COLUMNS = ("row_id", "line", "score", "S", "S_X", "S_Y")


def leading_figure(scores: ScoreTable) -> Figure:
    """The leading rows' two pathways, stacked."""
    drawn = scores.leading[:DRAWN_ROWS]
    names = [label(row["row_id"]) for row in drawn]
    traces = []
    for target, (name, colour) in PATHWAYS.items():
        hover = f"%{{customdata[0]}}, line %{{customdata[1]}}<br>{target} %{{x:.3g}}<br>score %{{customdata[2]:.3g}}"
        facts = [[names[i], row["line"], row["score"]] for i, row in enumerate(drawn)]
        traces.append(bars([row[target] for row in drawn], colour, hover) | {"name": name, "customdata": facts})
    return Figure(
        id="leading",
        title="What a step on each leading row would do to the policy",
        caption=f"The {len(drawn)} rows with the highest score. Right of zero the row reinforces the policy, left of "
        f"zero it erodes it. The numbers behind hold up to {len(scores.leading)} rows.",
        traces=traces,
        layout={
            "xaxis": axis("pair score S = S_X + S_Y (policy units, Σ ΔW·w)", zeroline=True),
            "yaxis": ticks(names),
            "barmode": "relative",
            "bargap": 0.3,
        },
        columns=["rank", *_COLUMNS],
        table=[[rank, *_cells(row)] for rank, row in enumerate(scores.leading, start=1)],
        height=80 + 26 * max(4, len(drawn)),
    )


def _cells(row: Mapping[str, Any]) -> list[Cell]:
    return [row[name] for name in _COLUMNS]


def scores_figure(scores: ScoreTable) -> Figure:
    """The histogram of all scores, counted here: a page cannot hold a million of them."""
    known = scores.known
    low, high = (float(known[0]), float(known[-1])) if len(known) else (0.0, 0.0)
    if high <= low:
        low, high = low - 0.5, low + 0.5
    edges = torch.linspace(low, high, BINS + 1, dtype=torch.float64)
    # Every score into the bin whose lower edge it reaches; the highest into the last.
    places = (torch.searchsorted(edges, known, right=True) - 1).clamp(0, BINS - 1)
    counts = torch.bincount(places, minlength=BINS).tolist()
    bins = list(zip(edges[:-1].tolist(), edges[1:].tolist(), counts, strict=True))
    drawn: Plot = {
        "type": "bar",
        "x": [(a + b) / 2 for a, b, _ in bins],
        "y": counts,
        "width": [0.94 * (b - a) for a, b, _ in bins],
        "marker": {"color": THROUGH_Y},
        "hovertemplate": "score %{x:.3g}<br>%{y} rows<extra></extra>",
    }
    return Figure(
        id="scores",
        title="How scores are spread",
        caption=f"{len(known)} rows with a score, {scores.unscored} without one. Higher is more suspicious: the row "
        "teaches or moves the behaviour against what is expected on its prompt.",
        traces=[drawn],
        layout={"xaxis": axis("score", zeroline=True), "yaxis": axis("rows", rangemode="tozero"), "bargap": 0},
        columns=["from", "to", "rows"],
        table=[list(one) for one in bins],
    )


def pathways_figure(scores: ScoreTable) -> Figure:
    """S_X against S_Y of the rows; the leading ones marked."""
    leading = scores.leading[:DRAWN_ROWS]
    others = [*scores.leading[DRAWN_ROWS:], *scores.spread]
    groups = [("other rows", THROUGH_Y, 6, others), (f"the {len(leading)} leading rows", FLAGGED, 9, leading)]
    hover = "%{customdata[0]}<br>S_X %{x:.3g}, S_Y %{y:.3g}<br>score %{customdata[1]:.3g}<extra></extra>"
    traces: list[Plot] = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": [row["S_X"] for row in rows],
            "y": [row["S_Y"] for row in rows],
            "marker": {"color": colour, "size": size, "opacity": 0.75},
            "customdata": [[label(row["row_id"]), row["score"]] for row in rows],
            "hovertemplate": hover,
        }
        for name, colour, size, rows in groups
        if rows
    ]
    said = "All rows." if scores.every == 1 else f"The leading rows and one in {scores.every} of the others."
    return Figure(
        id="pathways",
        title="The two pathways",
        caption=f"{said} Right of zero a row reinforces the policy through features, above zero through outputs.",
        traces=traces,
        layout={
            "xaxis": axis("S_X, through features (policy units)", zeroline=True),
            "yaxis": axis("S_Y, through outputs (policy units)", zeroline=True),
        },
        columns=list(_COLUMNS),
        table=[_cells(row) for row in (*leading, *others)],
    )


def replay_figures(pairs: Sequence[tuple[RowAudit, RowAudit]]) -> list[Figure]:
    """Both pathways of the rows that were judged either way, (by gradient, by replay), and what they do to each watched
    feature."""
    if not pairs:
        return []
    watched = [_watched_figure(pairs)] if any(one.watched for one, _ in pairs) else []
    return [*(_replay_figure(target, pairs) for target in PATHWAYS), *watched]


def _replay_figure(target: str, pairs: Sequence[tuple[RowAudit, RowAudit]]) -> Figure:
    name, colour = PATHWAYS[target]
    names, lines = [one.entry.row_id for one, _ in pairs], [one.line for one, _ in pairs]
    estimates: list[float] = [getattr(one, target) for one, _ in pairs]
    exact: list[float] = [getattr(other, target) for _, other in pairs]
    points = _points("rows", colour, exact, estimates, [label(row_id) for row_id in names])
    errors = map(relative_error, estimates, exact)
    return Figure(
        id=f"replay-{target.replace('_', '-').lower()}",
        title=f"{target} ({name[4:]})",
        caption="Each point is a row that was judged both ways; on the dotted line the two are equal.",
        traces=[_equal([*estimates, *exact]), points],
        layout={
            "xaxis": axis(f"{target} by replay (exact)", zeroline=True),
            "yaxis": axis(f"{target} by gradient", zeroline=True),
        },
        columns=["row_id", "line", "gradient", "replay", "relative_error"],
        table=[list(one) for one in zip(names, lines, estimates, exact, errors, strict=True)],
        height=320,
    )


def _watched_figure(pairs: Sequence[tuple[RowAudit, RowAudit]]) -> Figure:
    """ΔW_k w_k of every watched feature and replayed row, either way."""
    facts: list[tuple[str, int]] = []
    figures: list[list[float]] = []
    for estimate, exact in pairs:
        for a, b in zip(estimate.watched, exact.watched, strict=True):
            facts.append((estimate.entry.row_id, a.feature))
            figures.append([a.coefficient * x for x in (a.shift_X, b.shift_X, a.shift_Y, b.shift_Y)])
    names = [label(f"{row_id}, feature {feature}") for row_id, feature in facts]
    traces = []
    for at, (name, colour) in zip((0, 2), PATHWAYS.values(), strict=True):
        traces.append(_points(name, colour, [f[at + 1] for f in figures], [f[at] for f in figures], names))
    return Figure(
        id="replay-watched",
        title="Every watched feature",
        caption="ΔW_k w_k of each row that was judged both ways, feature by feature, in both pathways.",
        traces=[_equal([x for one in figures for x in one]), *traces],
        layout={
            "xaxis": axis("ΔW_k w_k by replay", zeroline=True),
            "yaxis": axis("ΔW_k w_k by gradient", zeroline=True),
        },
        columns=["row_id", "feature", "gradient_X", "replay_X", "gradient_Y", "replay_Y"],
        table=[[*fact, *figure] for fact, figure in zip(facts, figures, strict=True)],
        height=320,
    )


def _equal(figures: Sequence[float]) -> Plot:
    """The dotted line on which both figures are equal."""
    ends = [min(figures), max(figures)]
    grey = {"color": "rgba(128,128,128,0.6)", "width": 1.2, "dash": "dot"}
    return {"type": "scatter", "mode": "lines", "x": ends, "y": ends, "line": grey, "hoverinfo": "skip"}


def _points(name: str, colour: str, exact: Sequence[float], estimates: Sequence[float], names: Sequence[str]) -> Plot:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": list(exact),
        "y": list(estimates),
        "marker": {"color": colour, "size": 8, "opacity": 0.8},
        "customdata": list(names),
        "hovertemplate": "%{customdata}<br>replay %{x:.4g}, gradient %{y:.4g}<extra></extra>",
    }
