"""A small monitored training on the tiny model: what the benchmark of faults breaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _bed import Bed
from _settings import Settings, monitor_config

from smda_monitor.callback import SMDACallback

Weights = np.ndarray[Any, Any]
STEPS = 6
BATCH = 2
SAVE_EVERY = 2
PROBES = 8


@dataclass(frozen=True)
class SmallRun:
    """One training in a folder of its own."""

    bed: Bed
    """The tiny model's."""
    folder: Path
    """Checkpoints go to ``trainer`` below it, the monitor's run to ``run``."""
    every: int = 1
    """Steps of an account."""

    @property
    def home(self) -> Path:
        """The monitor's run folder."""
        return self.folder / "run"

    @property
    def checkpoints(self) -> Path:
        """Where the trainer keeps its own."""
        return self.folder / "trainer"

    def config(self, **sections: Any) -> dict[str, Any]:
        """The monitor's, with `sections` in place of its own."""
        base = monitor_config(self.bed.config, Settings(every=self.every, per_step=PROBES), self.home)
        return {**base, **sections}

    def trainer(self, callbacks: Sequence[Any], **arguments: Any) -> Any:
        """LoRA for `STEPS` steps, with a checkpoint every `SAVE_EVERY`, and other `arguments` as they are given."""
        return self.bed.trainer(
            self.bed.model("lora"),
            self.bed.demo_rows().select(range(4 * STEPS * BATCH)),
            callbacks,
            output_dir=str(self.checkpoints),
            max_steps=STEPS,
            per_device_train_batch_size=BATCH,
            learning_rate=1e-3,
            **{"save_strategy": "steps", "save_steps": SAVE_EVERY, **arguments},
        )

    def train(self, callbacks: Sequence[Any] = (), resume: bool = False, **arguments: Any) -> list[Weights]:
        """The trained weights at the end, as arrays, which go from process to process; with `resume` from the last
        whole checkpoint, if there is one."""
        trainer = self.trainer(callbacks, **arguments)
        last = self.last_checkpoint() if resume else None
        trainer.train(resume_from_checkpoint=str(last) if last else None)
        return [w.detach().numpy().copy() for w in trainer.model.parameters() if w.requires_grad]

    def monitored(self, resume: bool = False, **sections: Any) -> list[Weights]:
        """The same under the monitor."""
        callback = SMDACallback(self.config(**sections))
        try:
            return self.train([callback], resume)
        finally:
            callback.close()

    def saved_weights(self, checkpoint: Path) -> list[Weights]:
        """The trained weights in a checkpoint, in the model's order."""
        from safetensors.numpy import load_file

        saved = load_file(checkpoint / "adapter_model.safetensors")
        names = [name for name, w in self.bed.model("lora").named_parameters() if w.requires_grad]
        return [saved[name.replace(".default", "")] for name in names]

    def last_step(self) -> int:
        """Of the last whole checkpoint; 0 without one."""
        last = self.last_checkpoint()
        return 0 if last is None else int(last.name.rpartition("-")[2])

    def last_checkpoint(self) -> Path | None:
        """The trainer writes the state last, so one with a whole one is whole."""
        states = self.checkpoints.glob("checkpoint-*/trainer_state.json")
        whole = [path.parent for path in states if path.read_text("utf-8").rstrip().endswith("}")]
        return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def same(one: Sequence[Weights], two: Sequence[Weights]) -> bool:
    """Bit for bit."""
    return len(one) == len(two) and all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, two, strict=True))
