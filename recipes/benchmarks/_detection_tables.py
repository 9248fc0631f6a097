"""The figures of the detection benchmark as tables."""

from __future__ import annotations

from typing import Any

from _detection_figures import FIGURES, OURS
from _show import number, show


def report(found: dict[str, Any]) -> None:
    """The tables: every score on every kind, alerts, made runs."""
    rivals = list(found["mean"]["rivals"])
    parts = {**found["kinds"], "mean": found["mean"]}

    def cells(name: str, figure: str) -> list[str]:
        by_score = [part if name == OURS else part["rivals"][name] for part in parts.values()]
        return [number(one[figure], ".3f") for one in by_score]

    for figure in FIGURES:
        lines = [[name, *cells(name, figure)] for name in (OURS, *rivals)]
        show(figure, ["score", *parts], lines, "Mean over seeds; a dash where there are no controls.")
    by_part = {**found["kinds"], "any": found}
    steps = [[kind, *(number(step, ".0f") for step in one["steps_to_alert"])] for kind, one in by_part.items()]
    for name in ("first_named", "false_alerts"):
        steps.append([name.replace("_", " "), *(str(count) for count in found[name])])
    note = "To the first right drift alert; planted rows among the first five that row alerts name; drift alerts that "
    note += f"are not right. In {found['clean_runs']} clean runs: {number(found['clean_alerts'], '.0f')} drift alerts, "
    note += f"rows named by row alerts {found['clean_named']}."
    seeds = [str(run["seed"]) for run in found["runs"] if run["sort"] == "planted"]
    show("steps to alert", ["seed", *seeds], steps, note)
    for name in ("false_alarm", "power"):
        lines = [
            [size, str(one["alerts"]), str(one["runs"]), f"{one['interval'][0]:.3f} to {one['interval'][1]:.3f}",
             number(one["median_step"], ".0f")]
            for size, one in found[name].items()
        ]  # fmt: skip
        show(
            name, ["rate" if name == "false_alarm" else "drift/tolerance", "alerts", "runs", "95 %", "step"], lines, ""
        )
