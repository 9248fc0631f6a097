"""How well planted rows are found while a model trains, beside what one would reach for instead, and how early.

    python recipes/benchmarks/detection.py [--quick] [--data FILE] [--seeds N] [--json FILE] [--pictures FILE]

LoRA on the demo's clean rows, with rows of every planted kind among them after twelve steps; refusal and a second,
two-choice behaviour (guessing by a stereotype) are watched. The model has learnt the warm-up's rows before, for three
epochs: their wordings are new to it and move refusal at first, a true drift that has nothing to do with planted rows.
One run for each seed scores all rows by every method. Then as many clean runs, and runs made of their accounts by
resampling in which the truth is known: nulls, whose false alarms are counted, and drifts of growing size. --quick: one
seed, fewer rows, no clean run (made runs are of the planted one's accounts, about their mean); policies are fitted to
half of the further prompts, and half as many probes are measured. --data plants the rows of a JSONL file with prompt,
response and kind instead of the demo's; those whose kind begins with "control" are right. Clean rows move a behaviour,
too, with some seeds further than the tolerance: so drift is alerted where rows that stand out themselves are behind it
(--drift-by any: all drift). Every run is kept in --folder: a benchmark that was stopped goes on from there. Runs differ
in which planted rows are drawn, in the order of all rows and in LoRA's start; the model, the probes and the policies
are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from _bed import MODELS, Bed, make_bed
from _detection_figures import (
    false_alerts,
    first_named,
    kind_figures,
    mean_figures,
    named,
    plain,
    steps_to_alert,
)
from _detection_pictures import pictures
from _detection_tables import report
from _null_runs import drifting_runs, null_runs, scatter_paths
from _planted_rows import (
    Row,
    as_dataset,
    clean_order,
    demo_rows,
    fewer,
    kinds,
    planted_order,
    rows_to_plant,
    warm_up_rows,
)
from _planted_run import RunFound, planted_run
from _tiny import short
from _two_behaviours import behaviours, text_scores

import smda_monitor
from smda_monitor.errors import ConfigError, SMDAError, describe
from smda_monitor.outputs.files import to_json, write_text
from smda_monitor.outputs.json_file import check_json_file, write_asked_file, write_json_file
from smda_monitor.outputs.ledger_reader import read_ledger
from smda_monitor.records.account import WARM_UP_STEPS
from smda_monitor.records.alerts_config import AlertsConfig
from smda_monitor.records.config import REFUSAL

CODE = sorted([*Path(smda_monitor.__file__).parent.rglob("*.py"), *Path(__file__).parent.glob("*.py")])
"""What runs are made with."""
MOST = 0.15
"""Part of a run's rows that may be planted."""
RATES = (0.05, 0.01)
"""At which null runs are judged."""
SIZES = (1.25, 1.5, 2.0, 3.0, 4.0)
"""Of the power curve, in tolerances."""
KEPT = ("model", "quick", "each", "batch", "lr", "probes", "tolerance", "false_alarm", "drift_by")
"""Settings by which a kept run is known, beside the data and the code."""


class Study:
    """All runs of one benchmark, each kept in its folder."""

    def __init__(self, bed: Bed, rows: Sequence[Row], args: argparse.Namespace) -> None:
        self._bed, self._rows, self._args = bed, rows, args
        self._folder = bed.folder / "detection"
        self._check_settings()
        alerts = {"tolerance": args.tolerance, "false_alarm": args.false_alarm, "drift_by": args.drift_by}
        self.configs = behaviours(bed, args.probes, alerts, args.quick)
        self._texts: dict[str, dict[str, dict[str, float]]] | None = None

    def run(self, sort: str, seed: int) -> RunFound:
        """The run of `seed` with planted rows (``planted``) or without (``clean``)."""
        folder = self._folder / f"{sort}-{seed}"
        kept = folder / "run.json"
        if not kept.is_file():
            args, order = self._args, clean_order if sort == "clean" else planted_order
            before = WARM_UP_STEPS * args.batch
            if self._texts is None:
                never = {row.id for row in warm_up_rows(self._rows, before)}
                judged = [row for row in self._rows if row.id not in never]
                self._texts = text_scores(self._bed, self.configs, judged)
            chosen = order(self._rows, args.each, seed, before)
            bed = replace(self._bed, seed=seed)
            found = planted_run(bed, self.configs, chosen, folder, args.batch, args.lr, self._texts)
            write_text(kept, to_json(found.as_json()))
        return RunFound.of_json(json.loads(kept.read_text(encoding="utf-8")))

    def made_runs(self, sort: str, seeds: Sequence[int]) -> dict[str, Any]:
        """Null runs at every rate and the power curve, by the accounts of refusal in the runs of that `sort`."""
        args = self._args
        paths = scatter_paths([read_ledger(self._folder / f"{sort}-{seed}" / REFUSAL) for seed in seeds])

        def alerts(rate: float) -> AlertsConfig:
            return AlertsConfig(false_alarm=rate, tolerance=args.tolerance)

        nulls = {rate: null_runs(paths, args.null_runs, args.probes, alerts(rate), args.seed) for rate in RATES}
        made = max(1, args.null_runs // 5)
        power = {size: drifting_runs(paths, size, made, args.probes, alerts(min(RATES)), args.seed) for size in SIZES}
        return {
            "false_alarm": {f"{rate:g}": found.as_json() for rate, found in nulls.items()},
            "power": {f"{size:g}": found.as_json() for size, found in power.items()},
        }

    def _check_settings(self) -> None:
        """Raises `ConfigError` where the folder keeps runs with other settings."""
        settings, path = {name: str(getattr(self._args, name)) for name in KEPT}, self._folder / "settings.json"
        settings |= {"data": _digest([self._args.data] if self._args.data else []), "code": _digest(CODE)}
        if path.is_file() and (there := json.loads(path.read_text(encoding="utf-8"))) != settings:
            other = ", ".join(f"{name} {there.get(name)}" for name in settings if there.get(name) != settings[name])
            raise ConfigError(
                describe(f"runs in {self._folder}", f"made with {other}", "these settings", "take another --folder")
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        write_text(path, to_json(settings))


def measured(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything that is written."""
    began = time.perf_counter()
    clean = [row for row in demo_rows() if args.data is None or not row.planted]
    rows = [*clean, *(rows_to_plant(args.data, folder / "rows") if args.data is not None else ())]
    if args.model == "tiny":
        rows = [replace(row, prompt=short(row.prompt), response=short(row.response)) for row in rows]
    warm_up = WARM_UP_STEPS * args.batch
    if args.quick:
        rows = fewer(rows, args.each, warm_up)
    _check_share(rows, args.each)
    learnt = as_dataset(warm_up_rows(rows, warm_up))
    bed = make_bed(args.model, folder / "bed", learnt=learnt, quick=args.quick)
    study = Study(bed, rows, args)
    seeds = range(args.seed, args.seed + args.seeds)
    runs = [study.run("planted", seed) for seed in seeds]
    clean_runs = [] if args.quick else [study.run("clean", seed) for seed in seeds]
    named_kinds = kinds(rows)
    made = study.made_runs("planted" if args.quick else "clean", seeds)
    alarms = sum(alert.kind == "drift" for run in clean_runs for alert in run.alerts)
    return {
        "kinds": {kind: kind_figures(runs, kind) for kind in named_kinds},
        "mean": mean_figures(runs, named_kinds),
        "steps_to_alert": [plain(steps_to_alert(run)) for run in runs],
        "first_named": [first_named(run) for run in runs],
        "false_alerts": [false_alerts(run) for run in runs],
        "clean_runs": len(clean_runs),
        "clean_alerts": alarms if clean_runs else None,
        "clean_named": [len(named(run)) for run in clean_runs],
        "null_runs": args.null_runs,
        "null_alerts": made["false_alarm"][f"{max(RATES):g}"]["alerts"],
        **made,
        "runs": [
            {"sort": sort, "seed": seed, **_told(run)}
            for sort, found in (("planted", runs), ("clean", clean_runs))
            for seed, run in zip(seeds, found, strict=False)
        ],
        "seconds": time.perf_counter() - began,
        "settings": {name: getattr(args, name) for name in (*KEPT, "seed", "seeds", "null_runs")},
    }


def _told(run: RunFound) -> dict[str, Any]:
    """What is written of one run."""
    alerts = [{**asdict(alert), "rows": len(alert.rows)} for alert in run.alerts]
    counts = {"judged": len(run.rows), "planted": sum(row.planted for row in run.rows)}
    return {**counts, "drift": run.drift, "alerts": alerts, "seconds": run.seconds}


def _digest(paths: Sequence[Path]) -> str:
    """Of the contents of files."""
    found = hashlib.sha256()
    for path in paths:
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def _check_share(rows: Sequence[Row], each: int) -> None:
    planted = sum(min(each, sum(row.planted and row.kind == kind for row in rows)) for kind in kinds(rows))
    share = planted / (planted + sum(not row.planted for row in rows))
    if not 0 < share <= MOST:
        expected = f"some, and {MOST:.0%} at most"
        raise ConfigError(describe("planted rows", f"{share:.1%} of a run", expected, "set --each"))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, no clean run, 100 null runs")
    parser.add_argument("--model", choices=MODELS, default=MODELS[0], help="tiny: a random model, for the machinery")
    parser.add_argument("--data", type=Path, help="rows to plant instead of the demo's")
    parser.add_argument("--seeds", type=int, help="planted runs, and as many clean ones (default 3)")
    parser.add_argument("--seed", type=int, default=11, help="the first (default 11; 0 to 10 are for development)")
    parser.add_argument("--each", type=int, help="planted rows of every kind in a run (default 8; 6 with --quick)")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3, help="learning rate after a linear warm-up (default 1e-3)")
    parser.add_argument("--probes", type=int, help="of refusal, measured at a step (default 16; 8 with --quick)")
    parser.add_argument("--tolerance", type=float, default=0.15, help="of the drift alerts, nats (default 0.15)")
    parser.add_argument("--false-alarm", type=float, default=0.05, help="bound in each run's monitors (default 0.05)")
    parser.add_argument("--drift-by", choices=("outstanding", "any"), default="outstanding", help="alerts.drift_by")
    parser.add_argument("--null-runs", type=int, help="made runs without a drift, at each rate (default 300)")
    parser.add_argument("--folder", type=Path, help="where to work; what is there is used again (default: temporary)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--pictures", type=Path, help="write a page of pictures there, as HTML")
    args = parser.parse_args(arguments)
    args.seeds = args.seeds or (1 if args.quick else 3)
    args.null_runs = args.null_runs or (100 if args.quick else 300)
    args.probes = args.probes or (8 if args.quick else 16)
    args.each = args.each or (6 if args.quick else 8)
    with tempfile.TemporaryDirectory(prefix="smda-detection-") as temporary:
        try:
            check_json_file(args.json)
            check_json_file(args.pictures, "--pictures")
            found = measured(args, args.folder or Path(temporary))
            report(found)
            write_json_file(args.json, found)
            if args.pictures is not None:
                write_asked_file(args.pictures, pictures(found), "--pictures")
        except SMDAError as error:
            print(f"detection: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
