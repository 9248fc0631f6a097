"""The monitor's settings for one benchmark run: the one place that knows which keys `MonitorConfig` has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smda_monitor.records.config import MonitorConfig


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


def knows(section: str, key: str) -> bool:
    """Whether the installed monitor has the key ``section.key``."""
    field = MonitorConfig.model_fields.get(section)
    return field is not None and key in getattr(field.annotation, "model_fields", {})


def supported(settings: Settings) -> bool:
    """Whether the installed monitor can do what `settings` asks."""
    every = settings.every == 1 or knows("account", "every")
    return every and (settings.history_steps == 0 or knows("account", "history_steps"))


def monitor_config(base: Mapping[str, Any], settings: Settings, folder: Path) -> dict[str, Any]:
    """`base` with `settings`, writing into `folder`: no W&B, no text. Keys that the monitor does not have are left out
    where they stand at what it does anyway.

    Raises `ValueError` where the monitor cannot do what `settings` asks.
    """
    if not supported(settings):
        raise ValueError(f"this monitor does not know all of {settings}; ask supported() first")
    config = {section: dict(value) if isinstance(value, Mapping) else value for section, value in base.items()}
    wanted: dict[tuple[str, str], Any] = {
        ("account", "every"): settings.every,
        ("account", "history_steps"): settings.history_steps,
        # Audits replay steps of their own, now and then: here they would only blur the figures.
        ("audit", "share"): 0.0,
        ("probes", "own_prompts"): settings.own_prompts,
        ("probes", "per_step"): settings.per_step,
        ("account", "watched_features"): settings.watched,
        ("account", "watched_every"): settings.watched_every,
        ("outputs", "folder"): str(folder),
        ("outputs", "exists"): "move_aside",
        ("outputs", "row_text"): "none",
        ("outputs", "wandb"): False,
    }
    for (section, key), value in wanted.items():
        if knows(section, key):
            config.setdefault(section, {})[key] = value
    return config
