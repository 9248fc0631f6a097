"""Audits to an Arrow table and back, by the rules of `tables`: one line per row that was replayed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError, describe
from ..records.account import FeatureShift, StepAccount
from ..records.audit import AuditEntry
from . import parts
from .tables import dict_columns, feature_column, prefixed, scalar_columns

_SCALARS = (
    ("step", "int"),
    ("row_id", "text"),
    ("row_hash", "text"),
    ("warm_up", "bool"),
    ("reason", "text"),
    ("refit_remainder", "float"),
    ("seconds", "float"),
)
_BY_TARGET = ("push", "replayed", "noise")


def audits_to_table(audits: Sequence[AuditEntry]) -> Any:
    """Scalars, then ``push.<target>``, ``replayed.<target>``, ``noise.<target>``, and ``features`` (a list of
    structs)."""
    import pyarrow as pa

    columns = scalar_columns(audits, _SCALARS)
    for name in _BY_TARGET:
        columns |= dict_columns(name, [getattr(a, name) for a in audits])
    columns["features"] = feature_column([a.features for a in audits])
    return pa.table(columns)


def table_to_audits(table: Any) -> list[AuditEntry]:
    """The inverse of `audits_to_table`. Raises `KeyError` where a column is missing."""
    return [
        AuditEntry(
            **{name: line[name] for name, _ in _SCALARS},
            push=prefixed(line, "push"),
            replayed=prefixed(line, "replayed"),
            noise=prefixed(line, "noise"),
            features=tuple(FeatureShift(**feature) for feature in line["features"]),
        )
        for line in table.to_pylist()
    ]


def read_audits(folder: Path, accounts: Iterable[StepAccount]) -> list[AuditEntry]:
    """The audits of the run in `folder` of steps that have one of its `accounts`, in order; the others are of the
    account in progress when the run was killed. Raises `ConfigError` naming a corrupt part."""
    home, known = folder / "ledger", {step for a in accounts for step in range(a.since + 1, a.step + 1)}
    try:
        table = parts.read_parts(home, "audits")
        found = [] if table is None else table_to_audits(table)
    except (KeyError, TypeError) as error:
        remedy = "restore it from a copy"
        raise ConfigError(
            describe(str(home), f"audits without the column {error}", "what the ledger writes there", remedy)
        ) from error
    return sorted((a for a in found if a.step in known), key=lambda audit: audit.step)
