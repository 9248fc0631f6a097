"""The demo's recipe: the monitor never sees a kind, and the closing figures are what they say."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
import tiny

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
