"""`smda check` resolves everything on a real, tiny model folder, measures once, and leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml

from smda_monitor.cli import main

KINDS = ("harmful", "lookalike", "benign")


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A configuration file whose model lies in a folder, and what is in it."""
    tiny.tiny_llama().save_pretrained(tmp_path / "model")
    tiny.tiny_tokenizer().save_pretrained(tmp_path / "model")
    config = tiny.tiny_config(tmp_path / "monitor")
    config["model"] = {"name": str(tmp_path / "model")}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path, config


def test_it_says_what_a_run_would_use_and_writes_nothing(
    written: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    path, config = written
    before = sorted(path.parent.rglob("*"))
    assert main(["check", str(path)]) == 0
    shown = capsys.readouterr().out
    for part in ("24 (fingerprint", "12 measured at each step", "gate continuous", "blocks.1.hook_resid_post"):
        assert part in " ".join(shown.split()), part
    for part in ("with intercept", "constant baseline", "FVU", "harmful", "lookalike", "benign", "nothing was trained"):
        assert part in " ".join(shown.split()), part
    assert sorted(path.parent.rglob("*")) == before
    json_file = path.parent / "found.json"
    assert main(["check", str(path), "--json", str(json_file)]) == 0
    found = json.loads(json_file.read_text())
    assert (found["figures"]["probes"], found["figures"]["probes_per_step"]) == (24, 12)
    assert found["figures"]["r2_constant"] <= 0 < found["figures"]["l0"]
    assert set(found["refusal"]) == {f"{r}.{k}" for r in ("mass", "contrast") for k in KINDS}
    assert found["facts"]["read at"].startswith("blocks.1.hook_resid_post")
    assert not Path(config["outputs"]["folder"]).exists()


@pytest.mark.parametrize(
    ("section", "change", "words"),
    [
        ("dictionary", {"hook": "blocks.9.hook_resid_post"}, "layer 9 in a model with 3 decoder blocks"),
        ("model", {"name": "./nowhere"}, "no folder"),
        ("probes", {"file": "./nowhere.jsonl"}, "nowhere.jsonl"),
        ("outputs", {"folder": "{config}"}, "found a file; expected a folder"),
    ],
)
def test_what_is_wrong_is_said(
    written: tuple[Path, dict[str, Any]],
    section: str,
    change: dict[str, str],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, config = written
    config[section] |= {key: value.replace("{config}", str(path)) for key, value in change.items()}
    path.write_text(yaml.safe_dump(config))
    assert main(["check", str(path)]) == 2
    assert words in capsys.readouterr().err
