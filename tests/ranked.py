"""Monitored trainings, one after the other, to be started by torchrun or alone: `python ranked.py FOLDER JOBS`, the
settings of each by its name, as JSON. Each has a folder of its name in FOLDER.

    rows      of a step, shared by all processes
    monitor   sections of the monitor's configuration in place of the tiny one's
    model     a mode of `test_row_modes`; the tiny LoRA without it
    drifting  with probes enough for drift alerts, and rows that all refuse
    die       the step at whose end every process is gone
    break     [rank, step]: that rank loses the rows of that step
    plain     without the monitor: weights alone are left

All else is SFTConfig's. Every rank leaves its weights and what it decided in rank-<rank>.pt.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import tiny
import torch
from transformers import TrainerCallback

from smda_monitor.callback import SMDACallback


class Accident(TrainerCallback):
    """What goes wrong."""

    def __init__(self, monitor: SMDACallback, die: int, breaks: int) -> None:
        self.monitor, self.die, self.breaks = monitor, die, breaks

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.breaks:
            assert self.monitor.run is not None
            assert self.monitor.run.accountant.capture is not None
            self.monitor.run.accountant.capture.clear()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.die:
            os._exit(9)


def train(folder: Path, settings: dict[str, Any]) -> None:
    """One training; alone where torchrun has not started this process."""
    settings = dict(settings)
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    mode, rows, resumed = settings.pop("model", None), settings.pop("rows", 4), settings.pop("resume", None)
    broken, die, plain = settings.pop("break", [0, 0]), settings.pop("die", 0), settings.pop("plain", False)
    config = {**tiny.tiny_config(folder / f"files-{rank}"), **settings.pop("monitor", {})}
    config["outputs"] = {**config["outputs"], "folder": str(folder / "run")}
    data = tiny.tiny_rows()
    if settings.pop("drifting", False):
        config["probes"] |= {"file": str(tiny.write_prompts(folder / f"many-{rank}.jsonl", 90, 400))}
        data = data.filter(lambda row: row["completion"][0]["content"].startswith("No"))
    told: list[str] = []
    callback = SMDACallback(config, on_alert=lambda alert: told.append(alert.subject))
    accident = Accident(callback, die, broken[1] if broken[0] == rank else 0)
    known = {"max_steps": 4, "per_device_train_batch_size": rows // ranks, **settings}
    model = None
    if mode is not None:
        from test_row_modes import MODES

        model = MODES[mode]()
    callbacks = [] if plain else [accident, callback]
    trainer = tiny.tiny_trainer(folder, callbacks, rows=data, model=model, **known)
    trainer.train(resume_from_checkpoint=resumed and str(folder / "trainer" / resumed))
    weights = {name: p.detach() for name, p in trainer.model.named_parameters() if p.requires_grad}
    if not callbacks:
        torch.save({"weights": weights}, folder / f"rank-{rank}.pt")
        return
    assert callback.run is not None
    found = {
        "weights": weights,
        "step": trainer.state.global_step,
        "accounts": [(a.step, a.since, a.probe_ids) for a in callback.run.accounts],
        "audited": [(entry.step, entry.row_id) for entry in callback.run.auditor.entries],
        "alerts": [(alert.subject, alert.step) for alert in callback.run.alerts],
        "told": told,
        "error": callback.error,
    }
    torch.save(found, folder / f"rank-{rank}.pt")


if __name__ == "__main__":
    for name, job in json.loads(sys.argv[2]).items():
        train(Path(sys.argv[1]) / name, job)
