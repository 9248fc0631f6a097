"""The index of audits for several behaviours: their figures and leading rows side by side, a link to each page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..behaviour_scores import NAMES, column_name
from ..behaviours_view import BehavioursView, read_behaviours_view
from ..files import to_json
from ..text import plain
from .figure import Cell, Figure, Plot, axis, csv_text, data_link, label, ticks
from .proof import listed
from .rendering import PAGE, render_page

DRAWN_ROWS = 8
"""Rows drawn for each behaviour."""
NAMED_ROWS = 5
"""Rows named at the top."""
COLOURS = ("#c94f5d", "#4c7fb8", "#c98a1b", "#2f9e8f", "#9a8fc4")
"""Of the behaviours, in their order; a sixth has the first one's again."""
FIGURES = ("rows", "scored", "left_out", "unintended", "auroc_controls", "S_X", "S_Y", "seconds")
"""Leading figures of each behaviour; S_X and S_Y are the rank correlations of gradient and replay."""


def behaviours_page(folder: str | Path) -> str:
    """The index of the audits in `folder`. No text of a row is on it. Raises `ConfigError` as `read_behaviours_view`
    does."""
    view = read_behaviours_view(folder)
    context: dict[str, Any] = {
        "view": view,
        "headline": f"{view.rows} rows, each judged for {len(view.behaviours)} behaviours.",
        "sentences": [_sentence(name, rows) for name, rows in view.leading.items()],
        "lines": [(name, _page(view.folder, name), _figures(found)) for name, found in view.behaviours.items()],
        "downloads": _downloads(view),
        "figures": [*_told_apart(view), _leading(view)],
        "listed": {name: listed(found) for name, found in view.behaviours.items()},
        "manifest_json": to_json(view.manifest, indent=2),
    }
    return render_page("behaviours.html", context)


def _sentence(behaviour: str, rows: Sequence[Mapping[str, Any]]) -> str:
    scored = [row for row in rows if row[column_name(behaviour)] is not None]
    if not scored:
        return f"For {plain(behaviour, 40)} no row has a score."
    names = ", ".join(plain(row["row_id"], 32) for row in scored[:NAMED_ROWS])
    return f"Most suspicious for {plain(behaviour, 40)}: {names}."


def _page(folder: Path, behaviour: str) -> str | None:
    """Where the page of a behaviour lies, from this one; None where there is none. A name that is no folder's, which
    only a file that was tampered with has, leads nowhere."""
    inside = Path(behaviour).name == behaviour and (folder / behaviour / PAGE).is_file()
    return f"{quote(behaviour, safe='')}/{PAGE}" if inside else None


def _figures(found: Mapping[str, Any]) -> dict[str, Cell]:
    """`FIGURES` of one behaviour; None where it has none."""
    closeness = _mapping(found.get("gradient_vs_replay"))
    ranks = {name: closeness.get(name) for name in ("S_X", "S_Y")}
    return {name: ranks[name] if name in ranks else found.get(name) for name in FIGURES}


def _downloads(view: BehavioursView) -> dict[str, str]:
    """Links to the leading figures of all behaviours, by ending."""
    lines = [{"behaviour": name, **_figures(found)} for name, found in view.behaviours.items()]
    table = csv_text(list(lines[0]), [list(line.values()) for line in lines])
    return {"csv": data_link("text/csv", table), "json": data_link("application/json", to_json(lines, indent=1))}


def _told_apart(view: BehavioursView) -> list[Figure]:
    """How well each behaviour's score tells planted rows of each kind from their controls; none without such rows."""
    found = {name: _mapping(figures.get("auroc_controls_by_kind")) for name, figures in view.behaviours.items()}
    kinds = list(dict.fromkeys(kind for by_kind in found.values() for kind in by_kind))
    if not kinds:
        return []
    about = _mapping(view.summary.get("kinds_about"))
    values = {name: [_number(by_kind.get(kind)) for kind in kinds] for name, by_kind in found.items()}
    return [
        Figure(
            id="told-apart",
            title="Planted rows against their controls",
            caption="AUROC of each behaviour's score by kind of planted row: 1 tells them apart, 0.5 is chance. A kind "
            "is to be told by the behaviour that it is about (in the numbers); any other knows nothing of it.",
            traces=_dots(values, [label(kind) for kind in kinds], "AUROC %{x:.3f}"),
            layout={"xaxis": axis("AUROC", range=[-0.02, 1.02]), "yaxis": ticks([label(kind) for kind in kinds])},
            columns=["kind", "about", *(f"auroc.{name}" for name in values)],
            table=[[kind, about.get(kind), *(one[i] for one in values.values())] for i, kind in enumerate(kinds)],
            height=110 + 30 * max(3, len(kinds)),
        )
    ]


def _leading(view: BehavioursView) -> Figure:
    """The rows that lead for any behaviour, with their scores for all."""
    drawn = _each_once(rows[:DRAWN_ROWS] for rows in view.leading.values())
    kept = _each_once(view.leading.values())
    names = [label(row["row_id"]) for row in drawn]
    values = {name: [_number(row[column_name(name)]) for row in drawn] for name in view.behaviours}
    columns = ["row_id", "line", *map(column_name, view.behaviours)]
    return Figure(
        id="leading",
        title="Rows that lead for any behaviour",
        caption=f"The {DRAWN_ROWS} rows with the highest score for each behaviour, with their scores for all of them. "
        "Higher is more suspicious; a score is one among those of its own behaviour. "
        f"The numbers behind hold {len(kept)} rows, scores.parquet all.",
        traces=_dots(values, names, "score %{x:.3g}"),
        layout={"xaxis": axis("score", zeroline=True), "yaxis": ticks(names)},
        columns=columns,
        table=[[row[name] for name in columns] for row in kept],
        height=110 + 24 * max(4, len(drawn)),
    )


def _each_once(groups: Iterable[Sequence[Mapping[str, Any]]]) -> list[Mapping[str, Any]]:
    return list({tuple(row[name] for name in NAMES): row for rows in groups for row in rows}.values())


def _dots(values: Mapping[str, Sequence[float]], names: Sequence[str], hover: str) -> list[Plot]:
    """One point for each of `names` and behaviour."""
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": label(behaviour, 40),
            "x": list(x),
            "y": list(range(len(x))),
            "marker": {"color": COLOURS[i % len(COLOURS)], "size": 9, "opacity": 0.85},
            "customdata": [[name, label(behaviour, 40)] for name in names],
            "hovertemplate": f"%{{customdata[0]}}<br>%{{customdata[1]}}: {hover}<extra></extra>",
        }
        for i, (behaviour, x) in enumerate(values.items())
    ]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
