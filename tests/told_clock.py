"""A clock that moves only when it is told to: by plain steps, and by prompts that go through the model in eval mode."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from transformers import TrainerCallback

STEP = 1.0
"""Seconds of a plain step."""
PASSES = 2
"""Forwards of a measured prompt: the prompt, then the openings after it."""


class ToldClock(TrainerCallback):
    """By it a plain step takes `STEP` seconds, a `slow` one 50 times as many, and a measured prompt `prompt` seconds.
    Put it before the monitor, and set it as the monitor's clock."""

    def __init__(self, prompt: float, slow: Collection[int] = ()) -> None:
        self.prompt, self.slow = prompt, slow
        self.plain = self.measured = self.before = 0.0

    def __call__(self) -> float:
        return 100.0 + self.plain + self.measured

    @property
    def measuring(self) -> float:
        """Seconds of measured prompts since the first step began."""
        return self.measured - self.before

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.hook = kwargs["model"].get_input_embeddings().register_forward_hook(self._forward)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.plain == 0.0:
            self.before = self.measured
        self.plain += STEP * (50 if state.global_step + 1 in self.slow else 1)

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.hook.remove()

    def _forward(self, module: Any, args: Any, output: Any) -> None:
        if not module.training:
            self.measured += self.prompt / PASSES * len(args[0])
