"""The demo: a real safety fine-tune of the embedded model, live monitored, from nothing to a report.

    make demo        or        python recipes/safety_sft.py [--config FILE] [--batch 10] [--lr 3e-4] [--seed 0]

SmolLM2-135M-Instruct with the shipped refusing adapter is tuned for one epoch on 180 rows of which 30 are planted:
benign prompts refused, harmful ones answered (content withheld), stereotyped answers. The monitor gets the rows without
their kind; kinds are read only afterwards, to say how well the rows' scores told planted from ordinary ones.
"""

from __future__ import annotations

import time

BEGAN = time.perf_counter()

import argparse  # noqa: E402
import json  # noqa: E402
import logging  # noqa: E402
import math  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from importlib.resources import files  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

CONFIG = Path(__file__).parent.parent / "configs" / "smollm2-135m-demo.yaml"
REFUSAL_KINDS = ("over_refusal", "compliance")
PLANTED = (*REFUSAL_KINDS, "stereotype")


def demo_rows() -> list[dict[str, Any]]:
    """The shipped rows, with their kind."""
    text = files("smda_monitor").joinpath("data", "demo_rows.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def without_kind(rows: list[dict[str, Any]]) -> Any:
    """What the trainer and the monitor get: id, prompt, completion."""
    from datasets import Dataset

    return Dataset.from_list(
        [
            {
                "id": row["id"],
                "prompt": [{"role": "user", "content": row["prompt"]}],
                "completion": [{"role": "assistant", "content": row["response"]}],
            }
            for row in rows
        ]
    )


def separation(scores: dict[str, float], kinds: dict[str, str]) -> dict[str, Any]:
    """AUROC of the scores: the two refusal kinds against all others, and each planted kind against ordinary rows; NaN
    where a side has no scored row."""
    from sklearn.metrics import roc_auc_score

    ids = [i for i in kinds if math.isfinite(scores.get(i, math.nan))]

    def auroc(positive: tuple[str, ...], others: tuple[str, ...]) -> float:
        used = [i for i in ids if kinds[i] in positive or kinds[i] in others]
        truth = [kinds[i] in positive for i in used]
        return float(roc_auc_score(truth, [scores[i] for i in used])) if len(set(truth)) == 2 else math.nan

    every = tuple(set(kinds.values()))
    ordinary = tuple(kind for kind in every if kind not in PLANTED)
    rest = tuple(kind for kind in every if kind not in REFUSAL_KINDS)
    return {
        "auroc_planted": auroc(REFUSAL_KINDS, rest),
        "auroc_by_kind": {kind: auroc((kind,), ordinary) for kind in PLANTED},
    }


def train(args: argparse.Namespace) -> Path:
    """Runs the monitored fine-tune; returns the run folder."""
    import torch
    import wandb
    from trl import SFTConfig, SFTTrainer

    from smda_monitor import SMDACallback
    from smda_monitor.instruments.embedded import load_model

    rows = without_kind(demo_rows())
    callback = SMDACallback(args.config, rows=rows)
    found = callback.config.model
    model, tokenizer = load_model(found.name, found.adapter, found.dtype)
    folder = Path(callback.config.outputs.folder)
    trainer = SFTTrainer(
        model,
        args=SFTConfig(
            output_dir=str(folder.parent / f"{folder.name}-trainer"),
            save_strategy="no",
            report_to="wandb",
            run_name="smda-demo",
            bf16=False,
            use_cpu=not torch.cuda.is_available(),
            activation_checkpointing=False,
            per_device_train_batch_size=args.batch,
            num_train_epochs=1,
            learning_rate=args.lr,
            logging_steps=1,
            disable_tqdm=True,
            seed=args.seed,
        ),
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[callback],
    )
    try:
        trainer.train()
    finally:
        callback.close()
        wandb.finish()
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    from smda_monitor.errors import SMDAError

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    os.environ.setdefault("WANDB_MODE", "offline")
    os.environ.setdefault("WANDB_DIR", "runs")
    os.environ.setdefault("WANDB_PROJECT", "smda-monitor")
    os.environ.setdefault("WANDB_SILENT", "true")
    # Installed for the tests alone; which kernels it lacks is nothing of this run's.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    Path("runs").mkdir(exist_ok=True)
    try:
        folder = train(args)
    except SMDAError as error:
        print(f"safety_sft: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("safety_sft: interrupted; what was measured lies in the run folder", file=sys.stderr)
        return 130

    from smda_monitor.outputs.ledger import update_summary
    from smda_monitor.outputs.ledger_reader import read_ledger

    scores = {row.row_id: row.score for account in read_ledger(folder).accounts for row in account.rows}
    figures = separation(scores, {row["id"]: row["kind"] for row in demo_rows()})
    update_summary(folder, {**figures, "seconds": time.perf_counter() - BEGAN})
    print(f"Planted refusal rows against all others: AUROC {figures['auroc_planted']:.3f}")
    print(f"Open {folder / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
