"""The figures of the detection benchmark as one page of pictures that opens without a server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from _detection_figures import OURS


def pictures(found: Mapping[str, Any]) -> str:
    """HTML of what `detection` writes: AUROC by kind and score against matched controls and all clean rows; the part of
    made runs with a drift alert, by drift and, where there is none, beside the bound."""
    from plotly.subplots import make_subplots

    titles = ("against matched controls", "against all clean rows", "power", "false alarms without a drift")
    figure = make_subplots(rows=2, cols=2, subplot_titles=titles)
    for at, name in enumerate((OURS, *found["mean"]["rivals"])):
        scores = {kind: one if name == OURS else one["rivals"][name] for kind, one in found["kinds"].items()}
        for column, of in enumerate(("auroc_controls", "auroc"), start=1):
            trace = _points(scores, of) | {"name": name, "legendgroup": name, "showlegend": column == 1}
            figure.add_scatter(**trace, marker={"symbol": at, "size": 13 if name == OURS else 8}, row=1, col=column)
    for column, part in enumerate(("power", "false_alarm"), start=1):
        mode = "lines+markers" if part == "power" else "markers"
        figure.add_scatter(**_rates(found[part]), mode=mode, showlegend=False, row=2, col=column)
    bounds = [float(bound) for bound in found["false_alarm"]]
    figure.add_scatter(x=bounds, y=bounds, mode="lines", name="bound", row=2, col=2)
    figure.update_yaxes(title="AUROC", range=[0, 1.05], row=1)
    figure.update_yaxes(title="runs with a drift alert", rangemode="tozero", row=2)
    figure.update_xaxes(title="drift at the end of the run, tolerances", row=2, col=1)
    figure.update_xaxes(title="false_alarm", row=2, col=2)
    figure.update_layout(title="Planted rows and alerts; bars are 95 % intervals", height=900, template="simple_white")
    return str(figure.to_html(include_plotlyjs=True))


def _points(scores: Mapping[str, Mapping[str, Any]], of: str) -> dict[str, Any]:
    """A trace of the figure `of` by kind, with its interval over seeds; kinds without one are left out."""
    known = {kind: one["intervals"][of] for kind, one in scores.items() if one[of] is not None}
    return {"x": list(known), "y": [mean for mean, _, _ in known.values()], "mode": "markers"} | _bars(known)


def _rates(made: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A trace of the part of made runs that alerted, with its interval."""
    known = {float(size): (one["rate"], *one["interval"]) for size, one in made.items()}
    return {"x": list(known), "y": [rate for rate, _, _ in known.values()]} | _bars(known)


def _bars(known: Mapping[Any, Any]) -> dict[str, Any]:
    above = [0.0 if high is None else high - mean for mean, _, high in known.values()]
    below = [0.0 if low is None else mean - low for mean, low, _ in known.values()]
    return {"error_y": {"type": "data", "symmetric": False, "array": above, "arrayminus": below}}
