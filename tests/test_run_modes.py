"""Whole monitored runs of what people train: what was captured is what the optimizer got, and the accounts close."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from test_row_modes import MODES

from smda_monitor.callback import SMDACallback


@pytest.mark.parametrize(
    "mode",
    ["rsLoRA", "DoRA", "DoRA, GPT-2", "tied embeddings and head", "norms", "every bias", "full, tied", "full, GPT-2"],
)
def test_the_accounts_close(tmp_path: Path, mode: str) -> None:
    callback = SMDACallback(tiny.tiny_config(tmp_path / "monitor"))
    settings = {"max_steps": 2, "gradient_accumulation_steps": 2, "learning_rate": 1e-4}
    tiny.tiny_trainer(tmp_path, [callback], model=MODES[mode](), **settings).train()
    assert callback.run is not None
    for account in callback.run.accounts:
        assert len(account.rows) == 4
        assert account.capture_error < 1e-5
        balance = {b.target: b for b in account.balances}["S_Y"]
        assert balance.absolute_shares > 0
        assert balance.unexplained_fraction < 5e-3
