"""The report's sections on what followed an audit: curation and proof by retraining, from their own closing figures.

Both files are read as they are: every figure in them is listed, under the path of its keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...records.policy_findings import Estimate
from .figure import Cell, Figure, axis, interval_points, label, ticks

LISTED = 200
"""Figures listed of one file."""
_COLOURS = {"flagged": "#c94f5d", "random": "#a7adb8"}
_ELSE = "#4c7fb8"


def listed(value: Mapping[str, Any]) -> list[tuple[str, Cell, Cell, Cell]]:
    """(path, figure, low, high) of every figure in a JSON object, in its order; a list of three numbers is an estimate
    with its interval, of another list only the length is said."""
    return list(_listed(value, ""))[:LISTED]


def _listed(value: Any, path: str) -> Iterator[tuple[str, Cell, Cell, Cell]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _listed(inner, f"{path}.{key}" if path else str(key))
    elif (estimate := _estimate(value)) is not None:
        yield path, estimate.value, estimate.low, estimate.high
    elif isinstance(value, Sequence) and not isinstance(value, str):
        yield path, f"{len(value)} entries", None, None
    else:
        yield path, value if value is None or isinstance(value, str | int | float | bool) else str(value), None, None


def _estimate(value: Any) -> Estimate | None:
    """An estimate, [figure, low, high]; null is NaN."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 3:
        return None
    if not all(one is None or (isinstance(one, int | float) and not isinstance(one, bool)) for one in value):
        return None
    return Estimate(*(float("nan") if one is None else float(one) for one in value))


def proof_figures(proof: Mapping[str, Any]) -> list[Figure]:
    """How much of the planted rows' effect is undone, and the other estimates of the proof, each group by itself."""
    recovered = proof.get("recovered")
    found = []
    if isinstance(recovered, Mapping):
        found.append(
            _figure(
                "recovered",
                "Recovered by taking rows out",
                "⟨d, d_P⟩ / ‖d_P‖²: how much of the change that taking out exactly the planted rows makes on held-out "
                "prompts is made by taking out these. 1 is all of it, 0 none (dotted). Whiskers: 95 % intervals.",
                "part of the planted rows' effect",
                {str(name): one for name, value in recovered.items() if (one := _estimate(value)) is not None},
            )
        )
    effects = {path: Estimate(*map(_number, rest)) for path, *rest in listed(proof) if rest[1] is not None}
    others = {path: one for path, one in effects.items() if not path.startswith("recovered.")}
    if others:
        found.append(
            _figure(
                "effects",
                "Effects of taking rows out",
                "Every other estimate of the proof with its interval, under the name that it has in proof.json.",
                "units of the figure (log-odds in nats, rates as fractions)",
                others,
            )
        )
    return [figure for figure in found if figure.table]


def _number(value: Cell) -> float:
    return float("nan") if value is None or isinstance(value, str) else float(value)


def _figure(id: str, title: str, caption: str, unit: str, found: Mapping[str, Estimate]) -> Figure:
    traces = [
        interval_points(
            name,
            _COLOURS.get(name.split(".")[-1], _ELSE),
            [one],
            [i],
            f"{label(name, 60)} %{{x:.3f}}<br>[%{{customdata[0]:.3f}}, %{{customdata[1]:.3f}}]",
        )
        for i, (name, one) in enumerate(found.items())
    ]
    for trace in traces:
        del trace["name"]  # the axis names them; a legend would name them twice
    zero = {"type": "line", "xref": "x", "yref": "paper", "x0": 0, "x1": 0, "y0": 0, "y1": 1}
    return Figure(
        id=id,
        title=title,
        caption=caption,
        traces=traces,
        layout={
            "xaxis": axis(unit, zeroline=True),
            "yaxis": ticks([label(name, 44) for name in found]),
            "shapes": [zero | {"line": {"width": 1.4, "dash": "dot", "color": "rgba(128,128,128,0.8)"}}],
        },
        columns=["name", "value", "low", "high"],
        table=[[name, one.value, one.low, one.high] for name, one in found.items()],
        height=110 + 24 * max(3, len(found)),
    )
