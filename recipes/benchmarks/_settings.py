"""The monitor's settings for one benchmark run: the one place that knows under which keys they stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Settings:
    """What a benchmark varies."""

    every: int = 1
    """Optimizer steps that one account covers (``account.every``)."""
    history_steps: int = 0
    """Earlier steps whose rows get momentum's share (``account.history_steps``); 0: none."""
    own_prompts: bool = False
    """Whether rows are read on their own prompts (``probes.own_prompts``)."""
    per_step: int = 32
    """Probes measured for an account (``probes.per_step``)."""
    watched: int = 16
    """Features whose ΔW is in every account (``account.watched_features``)."""
    watched_every: int = 0
    """Accounts from one that splits it among rows to the next (``account.watched_every``); 0: never."""


def monitor_config(base: Mapping[str, Any], settings: Settings, folder: Path) -> dict[str, Any]:
    """`base`, which stays as it is, with `settings`, writing into `folder`: no W&B, no text."""
    wanted: dict[str, dict[str, Any]] = {
        "account": {
            "every": settings.every,
            "history_steps": settings.history_steps,
            "watched_features": settings.watched,
            "watched_every": settings.watched_every,
        },
        # Audits replay steps of their own, now and then: here they would only blur the figures.
        "audit": {"share": 0.0},
        "probes": {"own_prompts": settings.own_prompts, "per_step": settings.per_step},
        "outputs": {"folder": str(folder), "exists": "move_aside", "row_text": "none", "wandb": False},
    }
    return {**base, **{section: {**base.get(section, {}), **values} for section, values in wanted.items()}}
