"""The paper's protocol on any pairs, end to end: what a step on each pair does to the symbolic policy of refusal.

    python recipes/paper_protocol.py PAIRS [--config FILE] [--out DIR] [--rows N] [--resume] [--json FILE]

PAIRS is JSONL, CSV or Parquet with prompt and response (or conversations), and a column ``kind`` or ``label`` that
says which pairs are harmful. Two audits of the same rows on one model, side by side: by the paper's preset (plain SGD,
lr 1e-4, all parameters, answer-only loss, eval mode; alpha 5 without intercept, log-probability, ReLU proxy, last user
token: arXiv 2606.29171) and by the robust one (the configured training's optimizer and adapters; intercept, alpha by
cross-validation, log-odds, continuous gate, last prompt token). Each is printed as a table: pair scores of harmful and
harmless pairs, interference (our formula: the paper states none), the share whose dominant effect is unintended, and
what the paper's median rule would remove; then how the two agree.

A run that was stopped goes on with --resume. On N processes: torchrun --standalone --nproc-per-node N
recipes/paper_protocol.py PAIRS …
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from _pairs import sides, write_part
from _protocol_figures import SCORES, Judged, compared, figures, table_rows

from smda_monitor.commands.audit import AuditRequest, run_audit
from smda_monitor.errors import SMDAError
from smda_monitor.instruments.config_file import load_config
from smda_monitor.instruments.ranks import Ranks
from smda_monitor.instruments.row_files import read_rows
from smda_monitor.outputs.files import read_json
from smda_monitor.outputs.json_file import check_json_file, write_json_file
from smda_monitor.records.config import MonitorConfig

CONFIG = Path(__file__).parent.parent / "configs" / "smollm2-135m-demo.yaml"
Preset = Literal["paper", "robust"]
PRESETS: tuple[Preset, ...] = ("paper", "robust")
COLUMNS = ("pairs", "rows", *(f"{name}: median [quartiles]" for name in SCORES), "S > 0", "interference", "unintended",
           "keep", "remove")  # fmt: skip


def preset_config(config: MonitorConfig, preset: Preset) -> MonitorConfig:
    """`config` under `preset` throughout: update, policy, gate and read position. A saved policy is one of its own
    preset; under the other it is fitted anew."""
    path = config.policy.path if config.policy.preset == preset else "fit"
    policy = config.policy.model_copy(update={"preset": preset, "path": path, "feature_contrast": None})
    dictionary = config.dictionary.model_copy(update={"gate": None, "position": None})
    audit = config.data_audit.model_copy(update={"update": preset})
    return config.model_copy(update={"policy": policy, "dictionary": dictionary, "data_audit": audit})


def audited(args: argparse.Namespace, config: MonitorConfig, data: str, preset: Preset, ranks: Ranks) -> Path:
    """The finished audit under `preset`: its folder."""
    folder: Path = args.out / preset
    known = args.resume and (folder / "manifest.json").is_file()
    asked = {"method": args.method, "check": args.check, "allow_probes": args.allow_probes}
    run_audit(AuditRequest(data, preset_config(config, preset), folder, resume=known, **asked), ranks)
    return folder


def protocol(args: argparse.Namespace, ranks: Ranks) -> dict[str, Any]:
    """Both audits and what they found; {} on all ranks but the first."""
    began = time.perf_counter()
    config, data, part = load_config(args.config), args.pairs, args.out / "pairs.jsonl"
    with ranks.first_alone("pairs"):
        rows = read_rows(args.pairs, args.out / "rows")
        if args.rows is not None:
            data = str(part)
            if ranks.first:
                write_part(rows, args.rows, part)
    side_of = sides(rows, args.kind)
    folders = {preset: audited(args, config, data, preset, ranks) for preset in PRESETS}
    if not ranks.first:
        return {}
    judged = {preset: Judged.read(folder, side_of) for preset, folder in folders.items()}
    return {
        "presets": {preset: figures(one) for preset, one in judged.items()},
        "agreement": compared(judged["paper"], judged["robust"]),
        "audits": {preset: read_json(folder / "summary.json", "summary") for preset, folder in folders.items()},
        "seconds": time.perf_counter() - began,
    }


def show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(width=200, highlight=False, markup=False)
    for preset, groups in found["presets"].items():
        table = Table(*COLUMNS, title=f"{preset} preset", title_justify="left")
        for cells in table_rows(groups):
            table.add_row(*cells)
        console.print(table)
        if len(groups) < 3:
            console.print("The file does not name both harmful and harmless pairs, which the median rule needs.")
    agreement = found["agreement"]
    ranks = ", ".join(f"{name} {value:.3f}" for name, value in agreement["spearman"].items())
    console.print(f"The presets agree: Spearman {ranks}.")
    console.print(f"Of {agreement['either']} pairs that either would remove, both would remove {agreement['both']}.")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", metavar="PAIRS", help="a JSONL, CSV or Parquet file, a saved data set or a hub id")
    parser.add_argument("--config", type=Path, default=CONFIG, help="model, dictionary, probes, training (the demo's)")
    parser.add_argument("--out", type=Path, default=Path("runs/paper-protocol"), help="a new folder (%(default)s)")
    parser.add_argument("--rows", type=int, metavar="N", help="only so many pairs, evenly spread over the file")
    parser.add_argument("--kind", metavar="COLUMN", help="says which pairs are harmful (kind, else label)")
    parser.add_argument("--method", choices=("gradient", "replay"), help="in place of the file's data_audit.method")
    parser.add_argument("--check", type=int, metavar="N", help="pairs that gradient also replays (data_audit.check)")
    parser.add_argument("--allow-probes", action="store_true", help="leave pairs out that are also probes, and go on")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args(arguments)
    if args.rows is not None and args.rows < 1:
        parser.error("--rows: at least 1")
    try:
        check_json_file(args.json)
        ranks = Ranks.joined()
        with ranks.together():
            found = protocol(args, ranks)
        if ranks.first:
            show(found)
            write_json_file(args.json, found)
    except SMDAError as error:
        print(f"paper_protocol: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
