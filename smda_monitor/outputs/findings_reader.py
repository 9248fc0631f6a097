"""What `smda policy` left on disk, read back: the inverse of `findings_folder`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..errors import ConfigError, describe
from ..records.policy_findings import (
    CategoryGap,
    Contribution,
    Estimate,
    HeldoutFidelity,
    Level,
    PolicyFindings,
    RankedCoefficient,
    VariantFidelity,
)
from .files import read_json
from .findings_folder import FINDINGS

_CARD = ("feature", "coefficient", "density", "top_probes", "top_tokens")


def read_findings(folder: str | Path) -> PolicyFindings:
    """The findings in `folder`. Raises `ConfigError` naming the file where it is missing or holds something else."""
    path = Path(folder) / FINDINGS
    value = read_json(path, "findings")
    try:
        return _findings(value)
    except (KeyError, TypeError, ValueError) as error:
        found = f"something else ({error!r:.80})"
        expected, remedy = "what `smda policy` writes there", "run `smda policy` again"
        raise ConfigError(describe(f"findings {path}", found, expected, remedy)) from error


def _findings(value: Mapping[str, Any]) -> PolicyFindings:
    fidelity = value["fidelity"]
    return PolicyFindings(
        facts={str(name): str(fact) for name, fact in value["facts"].items()},
        behaviour=str(value["behaviour"]),
        reading=str(value["reading"]),
        limit=_float(value["limit"]),
        fidelity=HeldoutFidelity(
            int(fidelity["prompts"]),
            _float(fidelity["threshold"]),
            _estimate(fidelity["r2_constant"]),
            _estimate(fidelity["majority"]),
            tuple(
                VariantFidelity(
                    bool(one["intercept"]),
                    bool(one["is_policy"]),
                    *(_estimate(one[name]) for name in ("r2", "accuracy", "over_majority")),
                )
                for one in fidelity["variants"]
            ),
        ),
        coefficients=tuple(
            RankedCoefficient(int(one["feature"]), *(_float(one[f.name]) for f in fields(RankedCoefficient)[1:]))
            for one in value["coefficients"]
        ),
        gaps=tuple(_gap(one) for one in value["gaps"]),
        cards=tuple({name: card[name] for name in _CARD} for card in value["cards"]),
    )


def _gap(value: Mapping[str, Any]) -> CategoryGap:
    return CategoryGap(
        str(value["category"]),
        int(value["n_harmful"]),
        int(value["n_lookalike"]),
        _level(value["harmful"]),
        _level(value["lookalike"]),
        _level(value["difference"]),
        tuple(
            Contribution(int(one["feature"]), *(_float(one[f.name]) for f in fields(Contribution)[1:]))
            for one in value["features"]
        ),
        tuple(map(str, value["flags"])),
    )


def _level(value: Mapping[str, Any]) -> Level:
    return Level(*(_estimate(value[f.name]) for f in fields(Level)))


def _estimate(value: Mapping[str, Any]) -> Estimate:
    return Estimate(*(_float(value[f.name]) for f in fields(Estimate)))


def _float(value: Any) -> float:
    return float("nan") if value is None else float(value)  # null is how JSON says NaN
