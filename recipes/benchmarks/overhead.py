"""What the monitor costs: time and memory of monitored over plain training, and how both grow.

    python recipes/benchmarks/overhead.py [--quick] [--part times memory growth] [--ways NAME …] [--json FILE]

LoRA (r = 8 on all linear layers) in fp32 without checkpointing, 8 rows of 256 tokens, 32 probes. Ways of training take
turns in one process, on the same batches and from the same weights: with freed memory held in the process as the
monitor holds it, with the capture's hooks alone, monitored with an account of every step, of every 8 steps without and
with the rows' own prompts, with history handed on, and with dattri-llm's online scoring of one target where that
library is installed. Each turn stands between two of plain training, and its time is taken over their mean: a machine's
own speed drifts. Seconds are wall time per optimizer step after two of warm-up (with history: as many more): the
median over accounts of the mean over an account's steps.
Peak memory is of a process for each. Growth is the exponent b of the monitor's own seconds = a·sizeᵇ. Let nothing else
run meanwhile: where threads wait for a core, times of any size come out, and the spread (slowest over fastest step)
shows it. The file is written after every part; a later run with the same settings that asks for other parts adds to it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any

from _bed import MODELS, Bed, make_bed, open_bed
from _conditions import Condition, Load, conditions, timed_run
from _growth import Growth, seconds_growth
from _peak import in_own_process, peak_bytes
from _settings import Settings
from _show import number, show
from _wandb_growth import wandb_growth

from smda_monitor.errors import SMDAError
from smda_monitor.outputs.files import read_json
from smda_monitor.outputs.json_file import check_json_file, write_json_file
from smda_monitor.records.config import AccountConfig

PARTS = ("times", "memory", "growth")
"""What can be measured by itself."""
FIGURES = ("wall", "seconds", "spread", "memory", "peak_bytes")
"""Of every way of training; None where it was not measured."""
MEMORY = ("plain", "plain_held", "capture", "interval_1", "interval_8", "interval_8_own_prompt", "history")
"""What gets a process of its own."""
QUICK_MEMORY = ("plain", "interval_1", "history")
SIZES = {"probes": (8, 16, 32, 64), "rows": (2, 4, 8, 16), "features": (4, 16, 64, 256)}
STEPS = (8, 16, 32)
GROWTH_TOKENS = 64
"""Tokens of a row where growth is measured: the trainer's own work is not what is looked at."""
QUICK_SIZES = {"probes": (8, 32), "rows": (2, 8), "features": (4, 32)}
QUICK_STEPS = (4, 8)
WANDB_STEPS = (500, 1000, 2000, 4000)
"""Accounts of a run whose W&B history is weighed: an account again and again, so that there can be many."""
QUICK_WANDB = (50, 100)


@dataclass(frozen=True)
class Times:
    """Of one way of training."""

    steps: list[float] = field(default_factory=list)
    """Seconds of every timed step."""
    walls: list[float] = field(default_factory=list)
    """By turn: the median step over that of plain training just before and just after."""


def times(bed: Bed, ways: Mapping[str, Condition], load: Load, rounds: int) -> dict[str, Times]:
    """All turns, each between two of plain training. Nothing is found of a way that cannot be run here."""
    model, found = bed.model("lora"), {name: Times() for name in ways}

    def run(name: str, turn: str) -> float:
        timing = timed_run(bed, model, ways[name], load, f"{name}-{turn}")
        found[name].steps.extend(timing.steps)
        return timing.step

    for turn in range(rounds):
        before = run("plain", f"{turn}")
        for name in ways:
            if name == "plain" or ways[name].missing is not None:
                continue
            step, after = run(name, f"{turn}"), run("plain", f"{turn}-{name}")
            found[name].walls.append(step / mean([before, after]))
            before = after
    found["plain"].walls.append(1.0)
    return found


def own_process(bed: Bed, name: str, load: Load, args: argparse.Namespace) -> dict[str, Any]:
    """Peak memory, and size of the ledger, of one run in a process of its own."""
    figures = ["--rows", load.batch, "--tokens", load.tokens, "--steps", load.steps, "--probes", args.probes]
    hidden = ["--one", name, "--folder", bed.folder, "--history-steps", args.history_steps]
    return in_own_process(Path(__file__), [str(word) for word in (*hidden, *figures)])


def one(args: argparse.Namespace) -> int:
    """The other side of `own_process`."""
    bed = open_bed(args.folder)
    way = conditions(args.history_steps, args.probes)[args.one]
    load = Load(args.rows, args.tokens, args.steps)
    timing = timed_run(bed, bed.model("lora"), way, load, f"own-process-{args.one}-{args.steps}")
    print(json.dumps({"peak": peak_bytes(), "ledger_bytes": timing.ledger_bytes}))
    return 0


def peaks(bed: Bed, ways: Mapping[str, Condition], load: Load, args: argparse.Namespace) -> dict[str, int | None]:
    """Peak bytes of the ways that get a process; None for one that cannot be run here."""
    names = [n for n in (QUICK_MEMORY if args.quick else MEMORY) if n in ways]
    return {n: None if ways[n].missing else own_process(bed, n, load, args)["peak"] for n in names}


def growth(bed: Bed, args: argparse.Namespace) -> dict[str, Growth]:
    """All factors; with steps the ledger's bytes (``steps``), W&B's (``steps_wandb``) and, unless quick, the peak
    memory (``steps_memory``)."""
    sizes, steps = (QUICK_SIZES, QUICK_STEPS) if args.quick else (SIZES, STEPS)
    tokens = min(args.tokens, GROWTH_TOKENS)
    model = bed.model("lora")
    found = seconds_growth(bed, model, Load(0, tokens, args.steps), sizes, args.rounds)
    loads = [Load(min(sizes["rows"]), tokens, n) for n in steps]
    if args.quick:
        way = Condition("monitor", Settings(per_step=args.probes))
        sized = [timed_run(bed, model, way, load, f"growth-steps-{load.steps}").ledger_bytes for load in loads]
    else:
        runs = [own_process(bed, "interval_1", load, args) for load in loads]
        sized = [run["ledger_bytes"] for run in runs]
        found["steps_memory"] = Growth(steps, tuple(run["peak"] for run in runs), "B")
    found["steps"] = Growth(steps, tuple(sized), "B")
    ledger = bed.folder / (f"growth-steps-{steps[0]}" if args.quick else f"own-process-interval_1-{steps[0]}")
    found["steps_wandb"] = wandb_growth(ledger, bed.folder, QUICK_WANDB if args.quick else WANDB_STEPS)
    return found


def ratio(value: float | None, plain: float | None) -> float | None:
    return None if value is None or plain is None else value / plain


def timed(bed: Bed, ways: Mapping[str, Condition], load: Load, args: argparse.Namespace) -> dict[str, Any]:
    """The part ``times`` as it is written, by way of training."""
    return {
        name: {
            "wall": median(found.walls) if found.walls else None,
            "seconds": median(found.steps) if found.steps else None,
            "spread": max(found.steps) / min(found.steps) if found.steps else None,
        }
        for name, found in times(bed, ways, load, args.rounds).items()
    }


def sized(bed: Bed, ways: Mapping[str, Condition], load: Load, args: argparse.Namespace) -> dict[str, Any]:
    """The part ``memory``."""
    found = peaks(bed, ways, load, args)
    return {n: {"memory": ratio(found.get(n), found["plain"]), "peak_bytes": found.get(n)} for n in ways}


def grown(bed: Bed, ways: Mapping[str, Condition], load: Load, args: argparse.Namespace) -> dict[str, Any]:
    """The part ``growth``, by factor."""
    found = growth(bed, args)
    measured = {name: {"sizes": g.sizes, "costs": g.costs, "unit": g.unit} for name, g in found.items()}
    return {"growth": {name: g.exponent for name, g in found.items()}, "growth_measured": measured}


def report(found: Mapping[str, Any], ways: Mapping[str, Condition]) -> None:
    rows = []
    for name, way in ways.items():
        here = found[name]
        seconds = way.missing or number(here["seconds"])
        gib = number(here["peak_bytes"] / 2**30 if here["peak_bytes"] else None, ".2f")
        ratios = [number(here[key], ".2f") for key in ("wall", "spread", "memory")]
        rows.append([name, seconds, *ratios[:2], gib, ratios[2]])
    columns = ["training", "s per step", "of plain", "spread", "peak GiB", "of plain"]
    show("What it costs", columns, rows, "– : not measured.")
    cells = []
    for name, exponent in found["growth"].items():
        of = found["growth_measured"][name]
        costs = ", ".join(f"{s}: {c:.3g} {of['unit']}" for s, c in zip(of["sizes"], of["costs"], strict=True))
        cells.append([name, f"{exponent:.2f}", costs])
    show("How it grows", ["with", "exponent", "measured"], cells, "1: proportional, 0: does not grow.")


def measured_before(path: Path | None, settings: Mapping[str, Any], ways: Iterable[str]) -> dict[str, Any]:
    """What stands in the file of earlier parts with the same `settings`; else nothing of any of the `ways`."""
    if path is not None and path.is_file():
        found: dict[str, Any] = read_json(path, "earlier parts")
        if found.get("settings") == settings:
            return found
    blank: dict[str, Any] = {name: dict.fromkeys(FIGURES) for name in ways}
    return {**blank, "growth": {}, "growth_measured": {}, "settings": settings}


def measure(bed: Bed, args: argparse.Namespace) -> None:
    """Measures part by part, writes after each, and shows what there is."""
    known = conditions(args.history_steps, args.probes)
    ways = {name: way for name, way in known.items() if name in ("plain", *args.ways)}
    load = Load(args.rows, args.tokens, args.steps)
    settings = {k: v for k, v in vars(args).items() if k not in ("json", "folder", "one", "part", "ways")}
    found = measured_before(args.json, settings, known)
    for part in args.part:
        for name, figures in {"times": timed, "memory": sized, "growth": grown}[part](bed, ways, load, args).items():
            found[name] |= figures
        write_json_file(args.json, found)
    report(found, known)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default=MODELS[0], help="tiny: a random model, for the machinery")
    parser.add_argument("--quick", action="store_true", help="one round, two steps, short rows, few sizes")
    parser.add_argument("--rows", type=int, default=8, help="rows of a step (default 8)")
    parser.add_argument("--tokens", type=int, help="tokens of a row (default 256; quick: 64)")
    parser.add_argument("--probes", type=int, default=32)
    parser.add_argument("--steps", type=int, help="timed steps of a run, at least (default 4; quick: 2)")
    parser.add_argument("--rounds", type=int, help="turns of every way of training (default 2; quick: 1)")
    parser.add_argument(
        "--history-steps",
        type=int,
        default=AccountConfig().history_steps,
        help="earlier steps that history is handed on to (default: the monitor's own)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--folder", type=Path, help="where to work; a test bed there is used again (default: temporary)"
    )
    parser.add_argument("--part", choices=PARTS, nargs="+", default=PARTS, help="what to measure (default: everything)")
    ways = tuple(conditions(1, 1))
    parser.add_argument(
        "--ways", choices=ways, nargs="+", default=ways, help="what to compare with plain (default: all)"
    )
    parser.add_argument("--json", type=Path, help="write the figures there, after every part")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.one:
        return one(args)
    args.tokens = args.tokens or (64 if args.quick else 256)
    args.steps = args.steps or (2 if args.quick else 4)
    args.rounds = args.rounds or (1 if args.quick else 2)
    with tempfile.TemporaryDirectory(prefix="smda-overhead-") as temporary:
        try:
            check_json_file(args.json)
            measure(make_bed(args.model, args.folder or Path(temporary), args.seed), args)
        except SMDAError as error:
            print(f"overhead: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
