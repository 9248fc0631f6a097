"""A tiny model on disk with its configuration, for audits from the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tiny
import yaml

from smda_monitor.cli import main

ROWS = 40
TRAINING = {"per_device_train_batch_size": 4, "learning_rate": 1e-3, "max_length": 64, "use_cpu": True}


def make_home(folder: Path, lora: Mapping[str, Any] | None = None, **training: Any) -> Path:
    """Writes ``model/``, ``config.yaml`` and ``rows.jsonl``, of whose rows two cannot be trained on, into `folder`;
    further `training` arguments are SFTConfig's."""
    tiny.tiny_llama().save_pretrained(folder / "model")  # type: ignore[operator]
    tiny.tiny_tokenizer().save_pretrained(folder / "model")
    config = {
        **tiny.tiny_config(folder),
        "model": {"name": str(folder / "model")},
        "training": {
            "arguments": {**TRAINING, **training},
            "lora": {"r": 4, "target_modules": ["q_proj", "v_proj"], **(lora or {})},
        },
        "data_audit": {"probes": 9, "warm_up": 2, "check": 5},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows = [
        {"id": row["id"], "prompt": row["prompt"][0]["content"], "response": row["completion"][0]["content"]}
        for row in tiny.tiny_rows(ROWS)
    ]
    lines = [json.dumps(row) for row in rows]
    lines[3] = "{broken"
    lines[7] = json.dumps({**rows[7], "response": "word " * 40})
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def words(home: Path, out: str, *more: str) -> list[str]:
    """The command line of an audit of the rows in `home`."""
    return ["audit", str(home / "rows.jsonl"), "--config", str(home / "config.yaml"), "--out", str(home / out), *more]


def audit(home: Path, out: str, *more: str) -> tuple[int, Path]:
    """Runs it here; (exit code, the audit's folder)."""
    return main(words(home, out, *more)), home / out


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_lines(path: Path, rows: Sequence[object]) -> None:
    """A JSONL file; a text is written as it is."""
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
