"""The report's sections on what followed an audit: curation and proof by retraining, from their own closing figures.

Every figure of such a file is listed under the path of its keys, so that nothing of it is lost on the page; the
estimates with intervals among them are drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...records.policy_findings import Estimate
from ..proof_finding import finding_sentence
from .figure import Cell, Figure, axis, dotted, interval_points, label, ticks

LISTED = 400
"""Figures listed of one file."""
DRAWN = 24
"""Estimates in one picture; the numbers behind it hold all."""
ESTIMATES = ("recovered", "effects")
"""Keys of a proof under which a list of three numbers is [estimate, low, high]."""
UNITS = {
    "log_odds": "change of the mean log-odds (nats)",
    "scorer": "change of the rate by the scorer (fraction)",
    "decoding": "change of the rate by what is decoded (fraction)",
}
"""What a change is counted in, by the last key of its path."""
_COLOURS = {"flagged": "#c94f5d", "random": "#a7adb8", "planted": "#9a8fc4"}
_ELSE = "#4c7fb8"

Listed = tuple[str, Cell, Cell, Cell]
"""(path, figure, low, high); low and high are None for a figure without interval."""


def listed(value: Mapping[str, Any]) -> list[Listed]:
    """Every figure in a JSON object, in its order."""
    return list(_listed(value, ()))[:LISTED]


def _listed(value: Any, path: tuple[str, ...]) -> Iterator[Listed]:
    name = ".".join(path)
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _listed(inner, (*path, str(key)))
    elif (estimate := _estimate(value, path)) is not None:
        yield name, estimate.value, estimate.low, estimate.high
    elif isinstance(value, Sequence) and not isinstance(value, str):
        few = len(value) <= 8 and all(isinstance(one, str | int | float) for one in value)
        yield name, ", ".join(map(str, value)) if few else f"{len(value)} entries", None, None
    else:
        yield name, value if value is None or isinstance(value, str | int | float) else str(value), None, None


def _estimate(value: Any, path: Sequence[str]) -> Estimate | None:
    """[figure, low, high] where an estimate may stand; null is NaN."""
    if not path or path[0] not in ESTIMATES or not isinstance(value, Sequence) or len(value) != 3:
        return None
    if not all(one is None or isinstance(one, int | float) for one in value):
        return None
    return Estimate(*(float("nan") if one is None else float(one) for one in value))


def sentences(curation: Mapping[str, Any] | None, proof: Mapping[str, Any] | None) -> list[str]:
    """What was curated and what was proved, in a sentence each, as far as the files say."""
    found = []
    buckets = (curation or {}).get("rows")
    if isinstance(buckets, Mapping) and {"remove", "review"} <= set(buckets):
        found.append(f"Curation: {buckets['remove']} rows to remove, {buckets['review']} to review.")
    estimates = dict(_estimates(proof or {}, ()))
    flagged, random = (estimates.get(("recovered", name)) for name in ("flagged", "random"))
    if flagged is not None and random is not None:
        found.append(
            f"Trained again without the flagged rows: {_said(flagged)} of the planted rows' effect is recovered; "
            f"without as many random rows {_said(random)}."
        )
    if isinstance(finding := (proof or {}).get("finding"), str):
        found.append(finding_sentence(finding, flagged is not None))
    if _of_another(curation, proof):
        found.append("The proof is of rows that another curation flagged: `smda prove` has not been run on this one.")
    return found


def _of_another(curation: Mapping[str, Any] | None, proof: Mapping[str, Any] | None) -> bool:
    """Whether the proof names another rule, or another line drawn by it, than the curation that lies beside it."""
    rule = (proof or {}).get("curation")
    return curation is not None and isinstance(rule, Mapping) and any(curation.get(k) != v for k, v in rule.items())


def _said(one: Estimate) -> str:
    return f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"


def proof_figures(proof: Mapping[str, Any]) -> list[Figure]:
    """How much of the planted rows' effect is undone, and what taking rows out changed, by arm and kind of prompt."""
    estimates = dict(_estimates(proof, ()))
    recovered = {path[1]: one for path, one in estimates.items() if path[0] == "recovered" and len(path) == 2}
    found = []
    if recovered:
        found.append(
            _figure(
                "recovered",
                "Recovered by taking rows out",
                "⟨d, d_P⟩ / ‖d_P‖²: how much of the change that taking out exactly the planted rows makes on held-out "
                "prompts is made by taking out these. 1 is all of it, 0 none (dotted). Whiskers: 95 % intervals.",
                "part of the planted rows' effect",
                recovered,
            )
        )
    for figure, unit in UNITS.items():
        changes = {
            ".".join(path[1:-2]): one
            for path, one in estimates.items()
            if path[0] == "effects" and path[-2:] == ("change", figure)
        }
        if changes:
            found.append(
                _figure(
                    f"change-{figure.replace('_', '-')}",
                    f"What taking rows out changed: {figure.replace('_', ' ')}",
                    "Against the model trained on all rows, by what was taken out and kind of held-out prompt. "
                    "Whiskers: 95 % intervals.",
                    unit,
                    changes,
                )
            )
    return found


def _estimates(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Estimate]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _estimates(inner, (*path, str(key)))
    elif (estimate := _estimate(value, path)) is not None:
        yield path, estimate


def _figure(id: str, title: str, caption: str, unit: str, found: Mapping[str, Estimate]) -> Figure:
    drawn = list(found.items())[:DRAWN]
    traces = []
    for i, (name, one) in enumerate(drawn):
        hover = f"{label(name, 60)} %{{x:.3f}}<br>[%{{customdata[0]:.3f}}, %{{customdata[1]:.3f}}]"
        trace = interval_points(name, _COLOURS.get(name.split(".")[0], _ELSE), [one], [i], hover)
        del trace["name"]  # the axis names them; a legend would name them twice
        traces.append(trace)
    return Figure(
        id=id,
        title=title,
        caption=caption,
        traces=traces,
        layout={
            "xaxis": axis(unit, zeroline=True),
            "yaxis": ticks([label(name, 44) for name, _ in drawn]),
            "shapes": [dotted(0)],
        },
        columns=["name", "value", "low", "high"],
        table=[[name, one.value, one.low, one.high] for name, one in found.items()],
        height=110 + 24 * max(3, len(drawn)),
    )
