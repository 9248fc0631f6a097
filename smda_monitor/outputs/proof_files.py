"""Finished trainings of a proof on disk, one JSON file each, and the figures that are made of them all.

arms/random-2-0.json    one `ArmRun`: written as soon as it is there, so that a kill loses one training at most
proof.json              the figures
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ..errors import ConfigError, describe
from ..records.policy_findings import Estimate
from ..records.proof import Arm, ArmRun, ProofFigures
from .files import read_json, to_json, write_text

ARMS = "arms"
"""The trainings' folder, inside the proof's."""
_LISTS = ("left_out", "readings", "said", "shows")


def write_arm(folder: Path, run: ArmRun) -> None:
    """Writes one training, atomically."""
    write_text(_path(folder, Arm(run.name, run.seed, run.draw, ())), to_json(asdict(run), indent=1))


def read_arm(folder: Path, arm: Arm) -> ArmRun | None:
    """The training of `arm`, or None where it was not finished. Raises `ConfigError` naming a damaged file."""
    path = _path(folder, arm)
    if not path.exists():
        return None
    found = read_json(path, "training")
    known = {field.name for field in fields(ArmRun)}
    if not isinstance(found, dict) or set(found) != known:
        remedy = "delete it and resume the proof: it is then trained again"
        raise ConfigError(describe(str(path), "another content", "one finished training", remedy))
    values: dict[str, Any] = {name: tuple(value) if name in _LISTS else value for name, value in found.items()}
    return ArmRun(**values)


def as_json(figures: ProofFigures) -> dict[str, Any]:
    """The figures for a JSON file: an estimate is ``[estimate, low, high]``; ``kinds`` by arm, then kind."""
    recovery = figures.recovery
    kinds: dict[str, dict[str, Any]] = {}
    for one in figures.kinds:
        parts = {name: _triples(getattr(one, name)) for name in ("level", "change", "beyond_random")}
        kinds.setdefault(one.arm, {})[one.kind or "every"] = {"prompts": one.prompts, **parts}
    return {
        "finding": figures.finding,
        "recovered": {
            "flagged": None if recovery is None else _triple(recovery.flagged),
            "random": None if recovery is None else _triple(recovery.random),
        },
        "recovered_across_seeds": {
            "flagged": None if recovery is None else recovery.flagged_apart,
            "random": None if recovery is None else recovery.random_apart,
        },
        "effects": kinds,
    }


def _triples(found: Mapping[str, Estimate]) -> dict[str, list[float]]:
    return {name: _triple(one) for name, one in found.items()}


def _triple(found: Estimate) -> list[float]:
    return [found.value, found.low, found.high]


def _path(folder: Path, arm: Arm) -> Path:
    return folder / ARMS / f"{arm.key}.json"
