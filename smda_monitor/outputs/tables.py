"""Records to Arrow tables and back. One row per account in one table, one per example and step in the other.

Every float is a double and keeps NaN and the infinities. A target that an account does not have is null in its column,
so accounts with different targets share one table; null and NaN are two things.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from ..records.account import FeatureShift, RowEntry, StepAccount, TargetBalance
from ..records.snapshot import DictionaryHealth
from .text import storable

_ROW_SCALARS = (
    ("step", "int"),
    ("row_id", "text"),
    ("row_hash", "text"),
    ("tokens", "int"),
    ("loss", "float"),
    ("gradient_norm", "float"),
    ("own_push", "float"),
    ("own_mass", "float"),
    ("own_predicted", "float"),
    ("interference", "float"),
    ("dominant_feature", "int"),
    ("unintended", "bool"),
    ("answer_reading", "float"),
    ("score", "float"),
)
_ACCOUNT_SCALARS = (
    ("step", "int"),
    ("warm_up", "bool"),
    ("learning_rate", "float"),
    ("clip_factor", "float"),
    ("capture_error", "float"),
    ("refit_remainder", "float"),
    ("seconds", "float"),
    ("method", "text"),
)
_BALANCE = ("measured", "shares", "history", "decay", "absolute_shares")
_HEALTH = tuple(f.name for f in fields(DictionaryHealth))
_FEATURE = (
    ("feature", "int"),
    ("coefficient", "float"),
    ("shift_X", "float"),
    ("shift_Y", "float"),
    ("refit", "float"),
)


def _type(word: str) -> Any:
    import pyarrow as pa

    return {"int": pa.int64(), "float": pa.float64(), "text": pa.string(), "bool": pa.bool_()}[word]


def _keys(maps: Iterable[dict[str, float]]) -> list[str]:
    """Every key of `maps`, in the order of first sight."""
    return list(dict.fromkeys(key for one in maps for key in one))


def _floats(values: Iterable[float | None]) -> Any:
    import pyarrow as pa

    # from_pandas=False keeps NaN apart from null
    return pa.array([None if v is None else float(v) for v in values], pa.float64(), from_pandas=False)


def dict_columns(prefix: str, maps: Sequence[dict[str, float]]) -> dict[str, Any]:
    """One column ``<prefix>.<key>`` for every key of `maps`, null where a map does not have it."""
    return {f"{prefix}.{storable(key)}": _floats(one.get(key) for one in maps) for key in _keys(maps)}


def scalar_columns(records: Sequence[Any], scalars: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The fields named by `scalars`, each with the word for its type."""
    import pyarrow as pa

    columns = {}
    for name, word in scalars:
        values = [getattr(record, name) for record in records]
        values = [storable(v) for v in values] if word == "text" else values
        columns[name] = _floats(values) if word == "float" else pa.array(values, _type(word))
    return columns


def feature_column(features: Sequence[Sequence[FeatureShift]]) -> Any:
    """A list of structs on every line."""
    import pyarrow as pa

    struct = pa.struct([(name, _type(word)) for name, word in _FEATURE])
    return pa.array(
        [[{name: getattr(f, name) for name, _ in _FEATURE} for f in one] for one in features], pa.list_(struct)
    )


def rows_to_table(rows: Sequence[RowEntry]) -> Any:
    """One line per `RowEntry`: its scalars, then ``share.<target>`` and ``push.<target>``."""
    import pyarrow as pa

    columns = scalar_columns(rows, _ROW_SCALARS)
    columns |= dict_columns("share", [r.share for r in rows])
    columns |= dict_columns("push", [r.push for r in rows])
    return pa.table(columns)


def accounts_to_table(accounts: Sequence[StepAccount]) -> Any:
    """One line per `StepAccount`, rows left out: scalars, ``health.<field>``, ``refusal.<reading>.<kind>``,
    ``standard_error.…``, ``targets`` (their order), ``balance.<target>.<field>``, ``features`` (a list of structs),
    ``drift`` (one float32 per feature of the policy)."""
    import pyarrow as pa

    columns = scalar_columns(accounts, _ACCOUNT_SCALARS)
    for name in _HEALTH:
        columns[f"health.{name}"] = _floats(getattr(a.health, name) for a in accounts)
    columns |= dict_columns("refusal", [a.refusal for a in accounts])
    columns |= dict_columns("standard_error", [a.standard_error for a in accounts])
    columns["targets"] = pa.array([[storable(b.target) for b in a.balances] for a in accounts], pa.list_(pa.string()))
    by_target = [{b.target: b for b in a.balances} for a in accounts]
    for target in dict.fromkeys(name for one in by_target for name in one):
        for name in _BALANCE:
            values = (getattr(one[target], name) if target in one else None for one in by_target)
            columns[f"balance.{storable(target)}.{name}"] = _floats(values)
    columns["features"] = feature_column([a.features for a in accounts])
    columns["drift"] = pa.array([a.drift for a in accounts], pa.list_(pa.float32()))
    return pa.table(columns)


def prefixed(line: dict[str, Any], prefix: str) -> dict[str, float]:
    """The columns under `prefix` that hold a value on this line, without the prefix."""
    start = f"{prefix}."
    return {key[len(start) :]: value for key, value in line.items() if key.startswith(start) and value is not None}


def table_to_rows(table: Any) -> list[RowEntry]:
    """The inverse of `rows_to_table`. Raises `KeyError` where a column is missing."""
    return [
        RowEntry(
            **{name: line[name] for name, _ in _ROW_SCALARS},
            share=prefixed(line, "share"),
            push=prefixed(line, "push"),
        )
        for line in table.to_pylist()
    ]


def table_to_accounts(table: Any, rows: Iterable[RowEntry]) -> list[StepAccount]:
    """The inverse of `accounts_to_table`, with each account's rows put back, ordered by step.

    Rows of a step that has no account are left out: they are the step in progress when the run was killed. Raises
    `KeyError` where a column is missing.
    """
    by_step: dict[int, list[RowEntry]] = {}
    for row in rows:
        by_step.setdefault(row.step, []).append(row)
    accounts = [
        StepAccount(
            **{name: line[name] for name, _ in _ACCOUNT_SCALARS},
            balances=tuple(
                TargetBalance(target, **{name: line[f"balance.{target}.{name}"] for name in _BALANCE})
                for target in line["targets"]
            ),
            rows=tuple(by_step.get(line["step"], ())),
            features=tuple(FeatureShift(**feature) for feature in line["features"]),
            drift=tuple(line["drift"]),
            refusal=prefixed(line, "refusal"),
            standard_error=prefixed(line, "standard_error"),
            health=DictionaryHealth(**{name: line[f"health.{name}"] for name in _HEALTH}),
        )
        for line in table.to_pylist()
    ]
    return sorted(accounts, key=lambda account: account.step)
