"""Rows packed into one sequence, or free of padding, are told apart: a run has the figures of the padded one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
from datasets import Dataset

from smda_monitor.callback import SMDACallback
from smda_monitor.instruments.row_layout import prepared_rows
from smda_monitor.records.account import StepAccount

SETTINGS = {"max_steps": 3, "adam_epsilon": 1e-3, "train_sampling_strategy": "sequential"}


def run(folder: Path, rows: Any, **settings: Any) -> tuple[list[StepAccount], Any]:
    callback = SMDACallback(tiny.tiny_config(folder / "monitor"), rows=tiny.tiny_rows())
    trainer = tiny.tiny_trainer(folder, [callback], rows=rows, **{**SETTINGS, **settings})
    trainer.train()
    assert callback.run is not None
    return callback.run.accounts, trainer


def same(one: list[StepAccount], two: list[StepAccount]) -> None:
    assert [a.step for a in one] == [b.step for b in two]
    for a, b in zip(one, two, strict=True):
        assert b.capture_error < 1e-5
        assert [row.row_hash for row in a.rows] == [row.row_hash for row in b.rows]
        for mine, other in zip(a.rows, b.rows, strict=True):
            assert mine.row_id == other.row_id
            assert (mine.tokens, mine.loss) == (other.tokens, pytest.approx(other.loss, rel=1e-5))
            assert mine.answer_reading == pytest.approx(other.answer_reading, rel=1e-4, nan_ok=True)
            assert mine.own_push == pytest.approx(other.own_push, rel=1e-3, abs=1e-5)
            for figures, theirs in ((mine.share, other.share), (mine.push, other.push)):
                assert figures == pytest.approx(theirs, rel=1e-4, abs=1e-4 * max(map(abs, figures.values())))


@pytest.mark.parametrize("form", [{}, {"completion_only_loss": False}], ids=["answers", "all tokens"])
def test_free_of_padding(tmp_path: Path, form: dict[str, Any]) -> None:
    rows = tiny.tiny_rows()
    padded, _ = run(tmp_path / "padded", rows, **form)
    free, _ = run(tmp_path / "free", rows, padding_free=True, max_length=None, **form)
    same(padded, free)
    assert any(len(a.rows) > 1 and a.rows[0].tokens != a.rows[1].tokens for a in padded), "padding was needed"


def test_packed(tmp_path: Path) -> None:
    """Two rows to a sequence: the padded run has them two to a batch, in the same order."""
    rows = tiny.tiny_rows()
    packed, trainer = run(tmp_path / "packed", rows, packing=True, max_length=90, per_device_train_batch_size=1)
    sequences = [len(row["seq_lengths"]) for row in trainer.train_dataset]
    assert set(sequences[:3]) == {2}, "or the batches are not the same"
    by_tokens = {tuple(row["input_ids"]): i for i, row in enumerate(prepared(tmp_path / "plain", rows))}
    order = [by_tokens[tuple(row["input_ids"])] for row in prepared_rows(trainer.train_dataset)]
    padded, _ = run(tmp_path / "padded", rows.select(order))
    same(padded, packed)
    assert {row.row_id for a in packed for row in a.rows} <= {f"mine-{i}" for i in range(24)}


def prepared(folder: Path, rows: Any) -> Dataset:
    found: Dataset = tiny.tiny_trainer(folder, [], rows=rows).train_dataset
    return found
