"""A tiny model on disk with a finished `smda audit`, some rows planted, for the commands that go on from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny
import yaml

from smda_monitor.cli import main

ROWS = 40
PLANTED = range(0, ROWS, 8)
LEFT_OUT = (4, 8)
"""Lines: one is no JSON, one is too long."""


def write_home(folder: Path, **more: Any) -> Path:
    """The model, its configuration (sections of `more` in place of the usual ones) and the rows."""
    tiny.tiny_llama().save_pretrained(folder / "model")  # type: ignore[operator]
    tiny.tiny_tokenizer().save_pretrained(folder / "model")
    config = {
        **tiny.tiny_config(folder),
        "model": {"name": str(folder / "model")},
        "training": {
            "arguments": {"per_device_train_batch_size": 8, "learning_rate": 1e-2, "max_length": 64, "use_cpu": True},
            "lora": {"r": 4, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.1},
        },
        "data_audit": {"probes": 6, "warm_up": 1, "check": 0},
        **more,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    lines = [json.dumps(row) for row in rows()]
    lines[LEFT_OUT[0] - 1] = "{broken"
    lines[LEFT_OUT[1] - 1] = json.dumps({**rows()[LEFT_OUT[1] - 1], "response": "word " * 40})
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def rows() -> list[dict[str, Any]]:
    """The rows as written, before two are spoilt."""
    return [
        {
            "id": row["id"],
            "prompt": row["prompt"][0]["content"],
            "response": "No, no, no, no." if i in PLANTED else row["completion"][0]["content"],
            "kind": "planted" if i in PLANTED else "ordinary",
            "control": f"mine-{i + 1}" if i in PLANTED else None,
        }
        for i, row in enumerate(tiny.tiny_rows(ROWS))
    ]


def audit(home: Path, name: str = "audit") -> Path:
    """The folder of a finished audit."""
    words = ["audit", str(home / "rows.jsonl"), "--config", str(home / "config.yaml"), "--out", str(home / name)]
    assert main(words) == 0
    return home / name


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
