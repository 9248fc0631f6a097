"""How true the monitor's figures are: every row's push and share against the step taken again without the row, exactly.

    python recipes/benchmarks/fidelity.py [--part lora|full|both] [--clipping one|all] [--json FILE]

Two parts: LoRA (r = 8 on all linear layers, at a rate of 1e-3) and full fine-tuning (2e-5), both with fp32 AdamW
at a constant rate on the demo's rows. The first steps (`--warm-up`) are trained without the monitor, whose policy is
fitted after them. Before each of the last steps every row is left out on a copy of the optimizer's
state: gradient G − g_i, clipping redone, the step taken, the probes measured; with minus without is the truth. Beside
the monitor stand other methods' maps on the same gradients. Effects within the rounding of a measurement are left out
and counted: one state is measured again with another library's products, and the floor is three times the root mean
square of the differences. A part that the monitor refuses is written as null and makes the exit status 2; the other is
measured all the same.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from _agreement import Agreement, Collected, TargetFigures
from _bed import MODELS, Bed, make_bed
from _rivals import RIVALS
from _settings import Settings, monitor_config
from _show import number, show

from smda_monitor.errors import PrerequisiteError, SMDAError
from smda_monitor.outputs.json_file import check_json_file, write_json_file

LEARNING_RATE = {"lora": 1e-3, "full": 2e-5}
CLIPPING = {"off": 0.0, "idle": 1e3, "biting": 0.1}
"""Gradient norms at which training does not clip, clips but never has to, and has to at nearly every step."""


def replayed(bed: Bed, part: str, max_grad_norm: float, args: argparse.Namespace) -> Collected:
    """One training run whose last steps are replayed. Raises `PrerequisiteError` where the monitor refuses it."""
    from _replay import LateMonitor, Replayer

    rows = bed.demo_rows()
    config = monitor_config(bed.config, Settings(per_step=args.probes), bed.folder / f"{part}-{max_grad_norm:g}")
    monitor = LateMonitor(config, rows, after=args.warm_up)
    replayer = Replayer(monitor)
    trainer = bed.trainer(
        bed.model(part),
        rows,
        [monitor, replayer],
        max_steps=args.warm_up + args.steps,
        per_device_train_batch_size=args.batch,
        learning_rate=args.lr or LEARNING_RATE[part],
        max_grad_norm=max_grad_norm,
    )
    try:
        trainer.train()
    finally:
        monitor.close()
    return replayer.collected


def as_json(figures: dict[str, TargetFigures]) -> dict[str, Any]:
    """The part's figures under the names of its targets."""

    def both(found: Agreement) -> dict[str, Any]:
        return {"spearman": found.spearman, "relative_error": found.relative_error}

    return {
        name: {
            "push": {**both(found.by_method["push"]), "worst": found.by_method["push"].worst},
            "share": both(found.by_method["share"]),
            "unexplained": found.unexplained,
            "rivals": {rival: both(found.by_method[rival]) for rival in RIVALS},
            "noise_floor": found.floor,
            "rows": found.rows,
            "left_out": found.left_out,
        }
        for name, found in figures.items()
    }


def report(title: str, figures: dict[str, TargetFigures]) -> None:
    """The table of one part: rank correlation and median relative error of every method."""
    methods = ("push", "share", *RIVALS)
    rows = []
    for name, found in figures.items():
        by = [found.by_method[method] for method in methods]
        cells = [f"{number(a.spearman, '.3f')} / {number(a.relative_error, '.2g')}" for a in by]
        unexplained, judged = number(found.unexplained, ".2g"), f"{found.rows} (−{found.left_out})"
        rows.append([name, *cells, number(by[0].worst, ".2g"), unexplained, judged])
    note = "Spearman, mean of steps / median relative error, against exact leave-one-out; rows (− within rounding)."
    show(title, ["target", *methods, "worst push", "unexplained", "rows"], rows, note)


def run_part(bed: Bed, part: str, args: argparse.Namespace) -> dict[str, Any] | None:
    """Figures of one part, or None where this monitor refuses that kind of training."""
    # All clippings are LoRA's alone: a fully tuned run is long.
    norms = CLIPPING if args.clipping == "all" and part == "lora" else {"": args.max_grad_norm}
    pooled, single = Collected(), {}
    for name, norm in norms.items():
        try:
            found = replayed(bed, part, norm, args)
        except PrerequisiteError as error:
            print(f"fidelity, {part}: not accounted for. {error}", file=sys.stderr)
            return None
        pooled.extend(found)
        if name:
            single[name] = as_json(found.judged())
            report(f"{part}, clipping {name} ({norm:g})", found.judged())
    figures = pooled.judged()
    report(f"{part}, {'all clippings together' if single else f'max_grad_norm {args.max_grad_norm:g}'}", figures)
    return {"targets": as_json(figures), **({"clipping": single} if single else {})}


def _norm(text: str) -> float:
    """A gradient norm, by its word or as a number ≥ 0."""
    value = CLIPPING[text] if text in CLIPPING else float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text}: expected off, idle, biting or a number of at least 0")
    return value


def main(arguments: Sequence[str] | None = None, bed_of: Callable[[str, Path, int], Bed] = make_bed) -> int:
    """`bed_of` gives the test bed of a model, a folder and a seed. 0, or 2 where any part is refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("lora", "full", "both"), default="both")
    parser.add_argument("--model", choices=MODELS, default=MODELS[0], help="tiny: a random model, for the machinery")
    parser.add_argument("--steps", type=int, default=8, help="replayed steps (default 8)")
    parser.add_argument("--warm-up", type=int, default=12, help="unmonitored steps before them (default 12)")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--probes", type=int, default=32, help="probes measured (default 32)")
    parser.add_argument("--max-grad-norm", type=_norm, default=1.0, help="off, idle, biting or a number (default 1.0)")
    parser.add_argument("--clipping", choices=("one", "all"), default="one", help="all: LoRA off, idle and biting")
    parser.add_argument("--lr", type=float, help="learning rate (default: LoRA 1e-3, full 2e-5)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--folder", type=Path, help="where to work; a test bed there is used again (default: temporary)"
    )
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args(arguments)
    parts = ("lora", "full") if args.part == "both" else (args.part,)
    with tempfile.TemporaryDirectory(prefix="smda-fidelity-") as temporary:
        try:
            check_json_file(args.json)
            bed = bed_of(args.model, args.folder or Path(temporary), args.seed)
            found = {part: run_part(bed, part, args) for part in parts}
            settings = {k: v for k, v in vars(args).items() if k not in ("json", "folder")}
            write_json_file(args.json, {**found, "settings": settings})
        except SMDAError as error:
            print(f"fidelity: {error}", file=sys.stderr)
            return 2
    return 0 if all(found.values()) else 2


if __name__ == "__main__":
    sys.exit(main())
