"""The demo's recipe: the monitor never sees a kind, and the closing figures are what they say."""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path

import pytest
import tiny
import yaml

from smda_monitor.callback import SMDACallback

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes"))
import safety_sft


def _scores(folder: Path, rows: list[dict[str, str]]) -> dict[str, float]:
    data = safety_sft.without_kind(rows)
    callback = SMDACallback(tiny.tiny_config(folder / "monitor"), rows=data)
    tiny.tiny_trainer(folder, [callback], rows=data, max_steps=3, per_device_train_batch_size=4).train()
    assert callback.run is not None
    return {row.row_id: row.score for account in callback.run.accounts for row in account.rows}


def test_permuting_the_kinds_changes_no_score(tmp_path: Path) -> None:
    rows = safety_sft.demo_rows()[:12]
    kinds = [row["kind"] for row in rows]
    random.Random(0).shuffle(kinds)
    permuted = [{**row, "kind": kind} for row, kind in zip(rows, kinds, strict=True)]
    assert kinds != [row["kind"] for row in rows]
    first, second = _scores(tmp_path / "a", rows), _scores(tmp_path / "b", permuted)
    assert first == second
    assert set(first) <= {row["id"] for row in rows}, "rows are called by the user's own ids"
    assert len(set(first.values())) > 3


def test_separation_is_auroc_against_all_other_rows() -> None:
    kinds = {"a": "over_refusal", "b": "compliance", "c": "stereotype", "d": "helpful", "e": "refusal"}
    figures = safety_sft.separation({"a": 3.0, "b": 1.0, "c": 2.0, "d": 0.0, "e": -1.0}, kinds)
    assert figures["auroc_planted"] == pytest.approx(5 / 6)  # b stands under c alone
    assert figures["auroc_by_kind"] == {"over_refusal": 1.0, "compliance": 1.0, "stereotype": 1.0}
    reversed_figures = safety_sft.separation({"a": 0.0, "b": 0.0, "c": 1.0, "d": 1.0, "e": 1.0}, kinds)
    assert reversed_figures["auroc_planted"] == 0.0
    without = safety_sft.separation({"a": float("nan"), "c": 1.0, "d": 2.0}, kinds)
    assert math.isnan(without["auroc_planted"]), "a row without a score is not judged, and no row is no figure"
    assert without["auroc_by_kind"]["stereotype"] == 0.0


@pytest.fixture
def tiny_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration of the demo in which everything is tiny; the working directory is the test's."""
    import wandb

    wandb.teardown()  # once started, it writes where the first of the process's tests wanted it
    adapted = tiny.tiny_lora(tiny.tiny_llama())
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.unload().save_pretrained(tmp_path / "model")
    tiny.tiny_tokenizer().save_pretrained(tmp_path / "model")
    config = tiny.tiny_config(tmp_path / "monitor")
    config["outputs"] |= {"folder": "runs/demo", "exists": "move_aside", "wandb": True}
    config["model"] = {"name": str(tmp_path / "model"), "adapter": str(tmp_path / "adapter")}
    path = tmp_path / "demo.yaml"
    path.write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    for name, value in {"MODE": "offline", "DIR": "runs", "SILENT": "true", "PROJECT": "smda-monitor"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of wandb and its own service
def test_the_recipe_ends_with_everything_it_promises(tiny_demo: Path) -> None:
    assert safety_sft.main(["--config", str(tiny_demo), "--batch", "30"]) == 0
    run = tiny_demo.parent / "runs" / "demo"
    for name in ("report.html", "manifest.json", "ledger", "summary.json", "policy", "snapshots"):
        assert (run / name).exists(), name
    summary = json.loads((run / "summary.json").read_text())
    assert {"seconds", "unexplained", "auroc_planted", "auroc_by_kind", "refusal", "policy_r2", "alerts"} <= set(
        summary
    )
    assert {"output", "feature"} <= set(summary["unexplained"])
    assert set(summary["refusal"]) == {"before", "after"}
    assert set(summary["refusal"]["before"]) == {"harmful", "lookalike", "benign"}
    assert set(summary["auroc_by_kind"]) == {"over_refusal", "compliance", "stereotype"}
    assert summary["rows"] == len(safety_sft.demo_rows())
    assert list((tiny_demo.parent / "runs" / "wandb").glob("offline-run-*")), "W&B, offline"


def test_what_is_wrong_is_said_without_a_traceback(tiny_demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert safety_sft.main(["--config", str(tiny_demo.parent / "nowhere.yaml")]) == 2
    assert "nowhere.yaml: found no such file" in capsys.readouterr().err
    assert not (tiny_demo.parent / "runs" / "demo").exists()
