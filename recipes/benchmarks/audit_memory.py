"""What `smda audit` costs as the rows grow in number: peak memory, time and disk, and what a million rows would take.

    python recipes/benchmarks/audit_memory.py [--rows 1000 10000] [--method gradient|replay] [--json FILE]

Every size is an audit in a process of its own, of a tiny random model on short made-up rows: what grows with the rows
is the same for any model, and what a model takes for itself does not grow. What a million rows take follows from the
two largest sizes, by a straight line through them. Time is that of this tiny model; for another, take its own seconds
for some hundred rows: it is proportional.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from _peak import in_own_process, peak_bytes
from _show import show
from _tiny import tiny_config, tiny_model, tiny_tokenizer

from smda_monitor.commands.audit import AuditRequest, run_audit
from smda_monitor.errors import SMDAError
from smda_monitor.outputs.files import read_json
from smda_monitor.outputs.json_file import check_json_file, write_json_file

MILLION = 1_000_000
TOPICS = ("a river", "the market", "old maps", "bread", "a bicycle", "the harbour", "tea", "a violin")


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one audit."""

    rows: int
    """Rows judged."""
    bytes: float
    """Peak resident memory of its process."""
    seconds: float
    """From the start of the audit to its last figure, without imports."""
    disk: float
    """Bytes of its folder."""

    def at(self, rows: int, smaller: Cost) -> Cost:
        """On the straight line through this and a `smaller` one, at so many `rows`; what seems to fall is held."""

        def along(ours: float, theirs: float) -> float:
            return ours + max(0.0, ours - theirs) / (self.rows - smaller.rows) * (rows - self.rows)

        pairs = zip(*((one.bytes, one.seconds, one.disk) for one in (self, smaller)), strict=True)
        return Cost(rows, *(along(ours, theirs) for ours, theirs in pairs))


def write_home(folder: Path, rows: int, probes: int) -> None:
    """A model, its configuration and `rows` different rows."""
    tiny_model().save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    config = {
        **tiny_config(folder),
        "model": {"name": str(folder / "model")},
        "training": {
            "arguments": {"per_device_train_batch_size": 8, "max_length": 128, "use_cpu": True},
            "lora": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
        },
        "data_audit": {"probes": probes, "warm_up": 4, "check": 0},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as stream:
        for i in range(rows):
            topic = TOPICS[i % len(TOPICS)]
            prompt, response = f"Tell me of {topic}, {i}", f"Of {topic} I know {i * i}."
            stream.write(json.dumps({"id": f"made-{i:07d}", "prompt": prompt, "response": response}) + "\n")


def one(folder: Path, rows: int, args: argparse.Namespace) -> int:
    """An audit of `rows` rows in this process; its cost is the last line on standard output."""
    write_home(folder, rows, args.probes)
    out = folder / "audit"
    request = AuditRequest(str(folder / "rows.jsonl"), str(folder / "config.yaml"), out, method=args.method)
    run_audit(request)
    seconds = read_json(out / "summary.json", "summary")["seconds"]
    disk = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(json.dumps(asdict(Cost(rows, peak_bytes(), seconds, disk))))
    return 0


def measure(args: argparse.Namespace) -> list[Cost]:
    """One audit for each size, the smallest first."""
    found = []
    for rows in sorted(args.rows):
        with tempfile.TemporaryDirectory(prefix="smda-audit-memory-") as folder:
            words = ["--one", str(rows), "--folder", folder, "--method", args.method, "--probes", str(args.probes)]
            found.append(Cost(**in_own_process(Path(__file__), words)))
    return found


def report(costs: Sequence[Cost], million: Cost) -> None:
    def cells(cost: Cost) -> list[str]:
        hours = f"{cost.seconds / 3600:.1f} h" if cost.seconds > 3600 else f"{cost.seconds:.0f} s"
        return [f"{cost.rows:,}", f"{cost.bytes / 2**20:,.0f}", hours, f"{cost.disk / 2**20:,.0f}"]

    rows = [*map(cells, costs), [f"{cells(million)[0]} by plan", *cells(million)[1:]]]
    columns = ["rows", "peak MiB", "time", "disk MiB"]
    show("An audit by its number of rows", columns, rows, "Tiny model: what grows with the rows is the audit's own.")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000], help="sizes, at least two")
    parser.add_argument("--method", choices=("gradient", "replay"), default="gradient")
    parser.add_argument("--probes", type=int, default=16, help="probes measured (default 16)")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.one:
        return one(args.folder, args.one, args)
    if len(set(args.rows)) < 2 or min(args.rows) < 1:
        parser.error("--rows: give at least two different sizes")
    try:
        check_json_file(args.json)
        costs = measure(args)
        million = costs[-1].at(MILLION, costs[-2])
        report(costs, million)
        write_json_file(args.json, _figures(costs, million, args))
    except (SMDAError, RuntimeError) as error:
        print(f"audit_memory: {error}", file=sys.stderr)
        return 2
    return 0


def _figures(costs: Sequence[Cost], million: Cost, args: argparse.Namespace) -> dict[str, Any]:
    larger, smaller = costs[-1], costs[-2]
    per_row = max(0.0, larger.bytes - smaller.bytes) / (larger.rows - smaller.rows)
    settings = {"rows": args.rows, "method": args.method, "probes": args.probes}
    return {
        "measured": [asdict(cost) for cost in costs],
        "bytes_per_row": per_row,
        "million": asdict(million),
        "settings": settings,
    }


if __name__ == "__main__":
    sys.exit(main())
