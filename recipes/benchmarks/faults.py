"""Whether the monitor can be broken, and what is lost: kills, faults around a run, and hostile files.

    python recipes/benchmarks/faults.py [--part kills faults inputs] [--kills N] [--inputs N] [--json FILE]

Small trainings of a tiny random model. Kills: monitored runs are sent SIGKILL at random moments of the start, of
training, of a pass over the probes, of a write to the ledger, of a checkpoint, of the report, some again as they go on;
what is left is read, the run is gone on with, and its ledger and weights are held against those of the unbroken run.
Faults: one thing goes wrong in a run each (a sink, W&B, the disk, the folder, memory, a NaN, an alert function, Ctrl-C,
a checkpoint made without the monitor). Inputs: damaged probe files,
answers, configurations, policies, dictionaries, rows and ledgers are read. Exits with 1 where anything broke. Needs
the extra `test` (hypothesis), and a system that can fork (Linux, macOS).
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a fork must not happen beside threads
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

import argparse
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from _bed import Bed, make_bed, open_bed
from _faults import FAULTS
from _forked import Untyped, in_child
from _hostile import specimens, tried
from _kills import NONE, WAYS, Left, killed_runs
from _promises import Broken
from _show import show
from _small_run import SmallRun

from smda_monitor.errors import SMDAError
from smda_monitor.outputs.json_file import check_json_file, write_json_file

BROKEN = ("rows_lost_beyond_open_step", "duplicates", "training_changed", "untyped_errors")
"""Figures that must be 0."""
PARTS = ("kills", "faults", "inputs")


def kills(bed: Bed, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    left = killed_runs(bed, folder / "kills", args.kills, args.seed, args.workers)
    by_way = Counter(one.way for one in left)
    rows = [[way, *_kill_cells([one for one in left if one.way == way])] for way in (*WAYS, NONE)]
    columns = ["killed in", "runs", "rows lost", "rows missing", "duplicates", "changed", "errors"]
    note = f"{NONE}: the run had ended before its turn, no kill. Missing, duplicates, changed: once resumed."
    show("Killed runs", columns, rows, note)
    for error in sorted({one.untyped for one in left if one.untyped}):
        print(f"  {error}")
    return {
        "kills": sum(one.way != NONE for one in left),
        "kills_by_way": dict(by_way),
        "rows_lost_beyond_open_step": sum(one.lost + one.missing for one in left),
        "duplicates": sum(one.duplicates for one in left),
        "changed": sum(one.changed for one in left),
        "untyped": [one.untyped for one in left if one.untyped],
    }


def _kill_cells(left: Sequence[Left]) -> list[str]:
    sums = (sum(getattr(one, name) for one in left) for name in ("lost", "missing", "duplicates", "changed"))
    return [str(len(left)), *map(str, sums), str(sum(bool(one.untyped) for one in left))]


def faults(bed: Bed, folder: Path) -> dict[str, Any]:
    plain = in_child(SmallRun(bed, folder / "plain").train)
    found: dict[str, str] = {}
    for number, (name, fault) in enumerate(FAULTS.items()):
        try:
            in_child(partial(fault, SmallRun(bed, folder / f"fault-{number}"), plain))
            found[name] = ""
        except Untyped as error:
            found[name] = str(error)
    show("Faults", ["fault", "broken"], [[name, told or "–"] for name, told in found.items()], "One run each.")
    broken = [told for told in found.values() if told]
    weights = [told for told in broken if told == f"{Broken.__name__}: weights"]
    return {"faults": found, "changed": len(weights), "untyped": [told for told in broken if told not in weights]}


def inputs(bed: Bed, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    run = SmallRun(bed, folder / "run")
    in_child(run.monitored)
    found = {}
    for specimen in specimens(bed, run.home, folder / "whole"):
        count = max(1, round(specimen.share * args.inputs))
        found[specimen.kind] = tried(specimen, count, folder / "damaged" / specimen.kind.replace(" ", "-"), args.seed)
    rows = [
        [kind, *(f"{n:,}" for n in (one.inputs, one.read, one.refused, one.untyped.total()))]
        for kind, one in found.items()
    ]
    show("Damaged files", ["kind", "inputs", "read", "refused", "other errors"], rows, "Refused: in our own words.")
    for kind, one in found.items():
        for error, count in one.untyped.most_common(10):
            print(f"  {kind}: {count} × {error}")
    return {
        "inputs": sum(one.inputs for one in found.values()),
        "untyped": [f"{kind}: {error}" for kind, one in found.items() for error in one.untyped.elements()],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS, help="some alone")
    parser.add_argument("--kills", type=int, default=200, metavar="N", help="killed runs (%(default)s)")
    parser.add_argument("--inputs", type=int, default=100_000, metavar="N", help="damaged files (%(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="killed runs at a time (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args(arguments)
    if args.kills < 1 or args.inputs < 1 or args.workers < 1:
        parser.error("--kills, --inputs and --workers: at least 1")
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    try:
        check_json_file(args.json)
        with tempfile.TemporaryDirectory(prefix="smda-faults-") as home:
            folder = Path(home)
            in_child(partial(make_bed, "tiny", folder / "bed"))
            bed = open_bed(folder / "bed")
            found: dict[str, dict[str, Any]] = {}
            if "kills" in args.part:
                found["kills"] = kills(bed, folder, args)
            if "faults" in args.part:
                found["faults"] = faults(bed, folder / "faults")
            if "inputs" in args.part:
                found["inputs"] = inputs(bed, folder / "inputs", args)
            figures = _figures(found)
            write_json_file(args.json, figures)
    except SMDAError as error:
        print(f"faults: {error}", file=sys.stderr)
        return 2
    return int(any(figures.get(name, 0) for name in BROKEN))


def _figures(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One object: sums over the parts, and what they are made of."""
    told = {
        name: value for part in found.values() for name, value in part.items() if name not in ("changed", "untyped")
    }
    return {
        **told,
        "training_changed": sum(part.get("changed", 0) for part in found.values()),
        "untyped_errors": sum(len(part["untyped"]) for part in found.values()),
        "errors": [error for part in found.values() for error in part["untyped"]][:100],
    }


if __name__ == "__main__":
    sys.exit(main())
