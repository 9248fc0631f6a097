"""Pictures of an audit's rows: which lead, how scores are spread, the two pathways, gradient against replay."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...records.row_audit import RowAudit
from .figure import Cell, Figure, Plot, axis, bars, label, ticks

DRAWN_ROWS = 15
"""Rows in the picture of leading rows."""
KEPT_ROWS = 200
"""Rows behind it."""
DRAWN_POINTS = 2000
"""Rows in a scatter plot: the leading ones and, evenly, of the others."""
BINS = 40
"""Of the scores' histogram."""
THROUGH_X, THROUGH_Y, FLAGGED = "#c98a1b", "#4c7fb8", "#c94f5d"
PATHWAYS = {"S_X": ("ΔX: through features", THROUGH_X), "S_Y": ("ΔY: through outputs", THROUGH_Y)}
"""Name and colour of each pathway's score."""
_COLUMNS = ("row_id", "line", "score", "S", "S_X", "S_Y")

Scores = Sequence[Mapping[str, Any]]
"""Lines of ``scores.parquet``, the most suspicious first."""


def leading_figure(scores: Scores) -> Figure:
    """The leading rows' two pathways, stacked."""
    drawn = scores[:DRAWN_ROWS]
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
        f"zero it erodes it. The numbers behind hold up to {KEPT_ROWS} rows.",
        traces=traces,
        layout={
            "xaxis": axis("pair score S = S_X + S_Y (policy units, Σ ΔW·w)", zeroline=True),
            "yaxis": ticks(names),
            "barmode": "relative",
            "bargap": 0.3,
        },
        columns=["rank", *_COLUMNS],
        table=[[rank, *_cells(row)] for rank, row in enumerate(scores[:KEPT_ROWS], start=1)],
        height=80 + 26 * max(4, len(drawn)),
    )


def _cells(row: Mapping[str, Any]) -> list[Cell]:
    return [row[name] for name in _COLUMNS]


def scores_figure(scores: Scores) -> Figure:
    """The histogram of all scores, counted here: a page cannot hold a million of them."""
    known = sorted(row["score"] for row in scores if math.isfinite(row["score"]))
    low, high = (known[0], known[-1]) if known else (0.0, 0.0)
    width = (high - low) / BINS or 1.0
    edges = [low + i * width for i in range(BINS + 1)] if high > low else [low - 0.5, low + 0.5]
    counts = [0] * (len(edges) - 1)
    for score in known:
        counts[min(int((score - edges[0]) / width), len(counts) - 1)] += 1
    drawn: Plot = {
        "type": "bar",
        "x": [(a + b) / 2 for a, b in zip(edges, edges[1:], strict=False)],
        "y": counts,
        "width": [0.94 * (b - a) for a, b in zip(edges, edges[1:], strict=False)],
        "marker": {"color": THROUGH_Y},
        "hovertemplate": "score %{x:.3g}<br>%{y} rows<extra></extra>",
    }
    return Figure(
        id="scores",
        title="How scores are spread",
        caption=f"{len(known)} rows with a score, {len(scores) - len(known)} without one. Higher is more suspicious: the "
        "row teaches or moves the behaviour against what the policy expects of its prompt.",
        traces=[drawn],
        layout={"xaxis": axis("score", zeroline=True), "yaxis": axis("rows", rangemode="tozero"), "bargap": 0},
        columns=["from", "to", "rows"],
        table=[[a, b, count] for a, b, count in zip(edges, edges[1:], counts, strict=False)],
    )


def pathways_figure(scores: Scores) -> Figure:
    """S_X against S_Y of the rows; the leading ones marked."""
    leading, others = scores[:DRAWN_ROWS], scores[DRAWN_ROWS:]
    step = max(1, -(-len(others) // (DRAWN_POINTS - DRAWN_ROWS)))
    thinned = others[::step]
    groups = [("other rows", THROUGH_Y, 6, thinned), (f"the {len(leading)} leading rows", FLAGGED, 9, leading)]
    traces: list[Plot] = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": [row["S_X"] for row in rows],
            "y": [row["S_Y"] for row in rows],
            "marker": {"color": colour, "size": size, "opacity": 0.75},
            "customdata": [[label(row["row_id"]), row["score"]] for row in rows],
            "hovertemplate": "%{customdata[0]}<br>S_X %{x:.3g}, S_Y %{y:.3g}<br>score %{customdata[1]:.3g}<extra></extra>",
        }
        for name, colour, size, rows in groups
        if rows
    ]
    said = "All rows." if step == 1 else f"The leading rows and every {step}th of the others."
    return Figure(
        id="pathways",
        title="The two pathways",
        caption=f"{said} Above and right of zero a row reinforces the policy.",
        traces=traces,
        layout={
            "xaxis": axis("S_X, through features (policy units)", zeroline=True),
            "yaxis": axis("S_Y, through outputs (policy units)", zeroline=True),
        },
        columns=list(_COLUMNS),
        table=[_cells(row) for row in (*leading, *thinned)],
    )


def replay_figures(pairs: Sequence[tuple[RowAudit, RowAudit]]) -> list[Figure]:
    """Both pathways of the rows that were judged either way."""
    return [_replay_figure(target, pairs) for target in PATHWAYS] if pairs else []


def _replay_figure(target: str, pairs: Sequence[tuple[RowAudit, RowAudit]]) -> Figure:
    name, colour = PATHWAYS[target]
    found = [(cheap.entry.row_id, cheap.line, getattr(cheap, target), getattr(exact, target)) for cheap, exact in pairs]
    figures = [value for _, _, *both in found for value in both]
    ends = [min(figures), max(figures)]
    line: Plot = {
        "type": "scatter",
        "mode": "lines",
        "x": ends,
        "y": ends,
        "line": {"color": "rgba(128,128,128,0.6)", "width": 1.2, "dash": "dot"},
        "hoverinfo": "skip",
    }
    points: Plot = {
        "type": "scatter",
        "mode": "markers",
        "name": "rows",
        "x": [exact for *_, exact in found],
        "y": [cheap for _, _, cheap, _ in found],
        "marker": {"color": colour, "size": 9},
        "customdata": [label(row_id) for row_id, *_ in found],
        "hovertemplate": "%{customdata}<br>replay %{x:.4g}, gradient %{y:.4g}<extra></extra>",
    }
    return Figure(
        id=f"replay-{target.replace('_', '-').lower()}",
        title=f"{target}: {name[4:]}",
        caption="Each point is a row that was judged both ways; on the dotted line the two are equal.",
        traces=[line, points],
        layout={
            "xaxis": axis(f"{target} by replay (exact)", zeroline=True),
            "yaxis": axis(f"{target} by gradient", zeroline=True),
        },
        columns=["row_id", "line", "gradient", "replay", "relative_error"],
        table=[[*facts, cheap, exact, _error(cheap, exact)] for *facts, cheap, exact in found],
        height=320,
    )


def _error(cheap: float, exact: float) -> float:
    return abs(cheap - exact) / abs(exact) if exact != 0 else math.nan
