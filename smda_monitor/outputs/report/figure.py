"""A picture with the numbers behind it: what plotly draws, and the table that a reader can take away.

Text is hostile. Inside the page Jinja2 escapes it; inside a plot `label` does, because plotly reads ``<b>`` and
``<a href>`` in any text; inside a script element `script_json` does; in a CSV, `csv_text` keeps spreadsheets from
running a cell that begins like a formula.
"""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import unescape
from typing import Any

from ...records.policy_findings import Estimate
from ..files import to_json
from ..text import plain

Cell = str | int | float | bool | None
Plot = dict[str, Any]
"""A plotly trace, axis or layout: JSON values, ``@ink``, ``@panel`` and ``@hole`` for colours of the theme."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One picture of the report."""

    id: str
    """Element id; letters and dashes, ours."""
    title: str
    """Heading."""
    caption: str
    """What is seen, its units, and how to read it; plain text."""
    traces: list[Plot]
    """Plotly traces, the lowest first."""
    layout: Plot
    """Plotly layout without theme colours."""
    columns: list[str]
    """Names of the numbers behind the picture."""
    table: list[list[Cell]] = field(default_factory=list)
    """The numbers, one list per line."""
    height: int = 360
    """Pixels."""

    @property
    def spec(self) -> str:
        """Traces and layout as JSON that is safe inside a script element."""
        return script_json({"data": self.traces, "layout": self.layout})

    @property
    def legend(self) -> list[tuple[str, str, bool]]:
        """Name, CSS colour and whether it is a marker of each named trace, for a legend in HTML: it wraps
        where plotly's own would take the plot's room. A name is as it was before `label`: the template escapes it."""
        named = [t for t in self.traces if "name" in t]
        return [(unescape(t["name"]), _css_colour(t), t["type"] == "scatter" and t["mode"] == "markers") for t in named]

    @property
    def csv_link(self) -> str:
        """A data: link to the numbers as CSV."""
        return data_link("text/csv", csv_text(self.columns, self.table))

    @property
    def json_link(self) -> str:
        """A data: link to the numbers as JSON, one object per line of the table."""
        lines = [dict(zip(self.columns, line, strict=True)) for line in self.table]
        return data_link("application/json", to_json(lines, indent=1))


def _css_colour(trace: Plot) -> str:
    colour = str(trace.get("line", {}).get("color") or trace["marker"]["color"])
    return f"var(--{colour[1:]})" if colour.startswith("@") else colour


def label(text: str, limit: int = 28) -> str:
    """`text` for a plotly label: one line, cut, and with ``& < >`` as entities, which plotly shows, not obeys."""
    return plain(text, limit).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def script_json(value: Any) -> str:
    """Strict JSON that no HTML parser can leave: ``< > &`` are written as ``\\u003c`` and so on."""
    return to_json(value).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def csv_text(columns: Sequence[str], table: Sequence[Sequence[Cell]]) -> str:
    """CSV; NaN is an empty cell, and text that a spreadsheet would take for a formula gets a leading apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([[_csv_cell(cell) for cell in line] for line in table])
    return out.getvalue()


def _csv_cell(cell: Cell) -> Cell:
    if isinstance(cell, float) and cell != cell:
        return None
    if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{cell}"
    return cell


def data_link(mime: str, text: str) -> str:
    """A data: URL that holds `text`; base64 leaves no character that could end an attribute."""
    return f"data:{mime};base64,{base64.b64encode(text.encode('utf-8', 'replace')).decode('ascii')}"


def axis(title: str, **more: Any) -> Plot:
    """A plotly axis with a title that carries its unit; the title never overlaps the ticks."""
    return {"title": {"text": title, "standoff": 10}, "automargin": True, **more}


def step_axis(**more: Any) -> Plot:
    """The common x-axis: optimizer steps, whole numbers."""
    return axis("optimizer step", tickformat="d", **more)


def ticks(names: Sequence[str]) -> Plot:
    """A y-axis with one line per name, the first on top. Positions are numbers, so that equal names stay apart."""
    return {
        "tickmode": "array",
        "tickvals": list(range(len(names))),
        "ticktext": list(names),
        "range": [len(names) - 0.5, -0.5],
        "automargin": True,
        "showgrid": False,
    }


def bars(x: Sequence[float], colour: str | list[str], hover: str) -> Plot:
    """Horizontal bars of lengths `x`, the first on top of `ticks`; `hover` is what plotly shows of one."""
    y = list(range(len(x)))
    return {
        "type": "bar",
        "orientation": "h",
        "x": list(x),
        "y": y,
        "marker": {"color": colour},
        "hovertemplate": f"{hover}<extra></extra>",
    }


def whiskers(values: Sequence[float], lows: Sequence[float], highs: Sequence[float], colour: str = "@ink") -> Plot:
    """Error bars from `lows` to `highs` around `values`; none where one of them is NaN."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - value for value, high in zip(values, highs, strict=True)],
        "arrayminus": [value - low for value, low in zip(values, lows, strict=True)],
        "color": colour,
        "thickness": 1.2,
        "width": 3,
    }


def interval_points(
    name: str, colour: str, found: Sequence[Estimate], y: Sequence[float], hover: str, symbol: str = "circle"
) -> Plot:
    """Figures with their intervals as points with whiskers, at heights `y`; none where a figure is NaN."""
    values = [one.value for one in found]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": values,
        "y": list(y),
        "error_x": whiskers(values, [one.low for one in found], [one.high for one in found], colour),
        "marker": {"color": colour, "size": 8, "symbol": symbol},
        "customdata": [[one.low, one.high] for one in found],
        "hovertemplate": f"{hover}<extra></extra>",
    }


def heatmap(
    x: Sequence[int],
    z: Sequence[Sequence[float | None]],
    facts: Sequence[Sequence[Sequence[Cell]]],
    hover: str,
    unit: str,
) -> Plot:
    """Lines of cells `z` at `x`, the first on top of `ticks`; red above 0, blue below, None a hole, all of one strength
    where they are as far from 0. `facts` of every cell are plotly's ``customdata``; `unit` stands over the scale."""
    limit = max((abs(one) for line in z for one in line if one is not None and math.isfinite(one)), default=0.0) or 1.0
    return {
        "type": "heatmap",
        "x": list(x),
        "y": list(range(len(z))),
        "z": [list(line) for line in z],
        "zmin": -limit,
        "zmax": limit,
        "colorscale": [[0, "#2c6cb5"], [0.5, "@panel"], [1, "#c2413b"]],
        "xgap": 1,
        "ygap": 1,
        "hoverongaps": False,
        "customdata": facts,
        "hovertemplate": f"{hover}<extra></extra>",
        "colorbar": {"title": {"text": unit, "side": "top"}, "thickness": 12},
    }


def dotted(x: float) -> Plot:
    """An upright dotted line at `x`, a plotly shape."""
    line = {"width": 1.4, "dash": "dot", "color": "rgba(128,128,128,0.8)"}
    return {"type": "line", "xref": "x", "yref": "paper", "x0": x, "x1": x, "y0": 0, "y1": 1, "line": line}


WARM_UP_SHADE = "rgba(128,128,128,0.10)"


def warm_up_shade(last_warm_up: int | None) -> list[Plot]:
    """Grey over the warm-up steps, whose figures carry low confidence; empty for None."""
    if last_warm_up is None:
        return []
    band = {"type": "rect", "xref": "x", "yref": "paper", "x0": 0.5, "x1": last_warm_up + 0.5, "y0": 0, "y1": 1}
    return [band | {"fillcolor": WARM_UP_SHADE, "line": {"width": 0}, "layer": "below"}]
