"""Records to Arrow tables and back: one line per account, one per row and step, one per earlier row of an account.

Every float is a double and keeps NaN and the infinities. A target that an account does not have is null in its column,
so accounts with different targets share one table; null and NaN are two things.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from ..records.account import FeatureShift, PastShare, RowEntry, StepAccount, TargetBalance
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
    ("expected", "float"),
    ("interference", "float"),
    ("absolute_shift", "float"),
    ("dominant_feature", "int"),
    ("unintended", "bool"),
    ("answer_reading", "float"),
    ("score", "float"),
)
_PAST_SCALARS = (("row_id", "text"), ("row_hash", "text"))
_ACCOUNT_SCALARS = (
    ("step", "int"),
    ("since", "int"),
    ("warm_up", "bool"),
    ("learning_rate", "float"),
    ("clip_factor", "float"),
    ("capture_error", "float"),
    ("refit_remainder", "float"),
    ("seconds", "float"),
    ("method", "text"),
    ("watched_by", "text"),
    ("outside", "bool"),
    ("rows_kept", "text"),
)
_BALANCE = ("measured", "shares", "history", "decay", "absolute_shares", "handed", "absolute_handed")
_HEALTH = tuple(f.name for f in fields(DictionaryHealth))
_FEATURE = (
    ("feature", "int"),
    ("coefficient", "float"),
    ("shift_X", "float"),
    ("shift_Y", "float"),
    ("refit", "float"),
)
_WATCHED = (("feature", "int"), ("push_X", "float"), ("push_Y", "float"))


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


def list_columns(prefix: str, maps: Sequence[dict[str, tuple[float, ...]]]) -> dict[str, Any]:
    """``<prefix>.<key>`` for every key of `maps`, a float32 list on every line."""
    import pyarrow as pa

    keys = dict.fromkeys(key for one in maps for key in one)
    kind = pa.list_(pa.float32())
    return {f"{prefix}.{key}": pa.array([one.get(key) for one in maps], kind) for key in keys}


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
    return _structs(_FEATURE, [[tuple(getattr(f, name) for name, _ in _FEATURE) for f in one] for one in features])


def _structs(types: Sequence[tuple[str, str]], lines: Sequence[Sequence[tuple[float, ...]]]) -> Any:
    import pyarrow as pa

    struct = pa.struct([(name, _type(word)) for name, word in types])
    names = [name for name, _ in types]
    return pa.array([[dict(zip(names, one, strict=True)) for one in line] for line in lines], pa.list_(struct))


def rows_to_table(rows: Sequence[RowEntry]) -> Any:
    """One line per `RowEntry`: its scalars, ``share.<target>``, ``push.<target>``, ``probe_share.<reading>`` and
    ``probe_push.<reading>`` as lists over the measured probes (float32), and ``watched`` (a list of structs)."""
    import pyarrow as pa

    columns = scalar_columns(rows, _ROW_SCALARS)
    columns |= dict_columns("share", [r.share for r in rows])
    columns |= dict_columns("push", [r.push for r in rows])
    columns |= list_columns("probe_share", [r.probe_share for r in rows])
    columns |= list_columns("probe_push", [r.probe_push for r in rows])
    columns["watched"] = _structs(_WATCHED, [[(k, *pushes) for k, pushes in r.watched.items()] for r in rows])
    return pa.table(columns)


def past_to_table(step: int, past: Sequence[PastShare]) -> Any:
    """One line per `PastShare` of the account of `step`: ``step`` (the account's), ``row_step`` (the row's own), its
    names and ``share.<target>``."""
    import pyarrow as pa

    columns: dict[str, Any] = {
        "step": pa.array([step] * len(past), pa.int64()),
        "row_step": pa.array([one.step for one in past], pa.int64()),
    }
    columns |= scalar_columns(past, _PAST_SCALARS)
    columns |= dict_columns("share", [one.share for one in past])
    return pa.table(columns)


def accounts_to_table(accounts: Sequence[StepAccount]) -> Any:
    """One line per `StepAccount`, rows left out: scalars, ``health.<field>``, ``refusal.<reading>.<kind>``,
    ``standard_error.…``, ``targets`` (their order), ``balance.<target>.<field>``, ``features`` and ``watched``
    (lists of structs), ``drift`` (one float32 per feature of the policy), ``probe_ids`` (the measured probes, a list of
    strings) and ``probes.<reading>.<part>`` (one float32 for each of them)."""
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
    columns["watched"] = feature_column([a.watched for a in accounts])
    columns |= list_columns("probes", [a.probes for a in accounts])
    columns["probe_ids"] = pa.array([[storable(i) for i in a.probe_ids] for a in accounts], pa.list_(pa.string()))
    columns["drift"] = pa.array([a.drift for a in accounts], pa.list_(pa.float32()))
    return pa.table(columns)


def prefixed(line: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The columns under `prefix` that hold a value on this line, without the prefix."""
    start = f"{prefix}."
    return {key[len(start) :]: value for key, value in line.items() if key.startswith(start) and value is not None}


def _lists(line: dict[str, Any], prefix: str) -> dict[str, tuple[float, ...]]:
    return {key: tuple(values) for key, values in prefixed(line, prefix).items()}


def table_to_rows(table: Any) -> list[RowEntry]:
    """The inverse of `rows_to_table`. Raises `KeyError` where a column is missing."""
    return [
        RowEntry(
            **{name: line[name] for name, _ in _ROW_SCALARS},
            share=prefixed(line, "share"),
            push=prefixed(line, "push"),
            probe_share=_lists(line, "probe_share"),
            probe_push=_lists(line, "probe_push"),
            watched={one["feature"]: (one["push_X"], one["push_Y"]) for one in line["watched"]},
        )
        for line in table.to_pylist()
    ]


def table_to_past(table: Any) -> dict[int, list[PastShare]]:
    """The inverse of `past_to_table`, by the account's step. Raises `KeyError` where a column is missing."""
    found: dict[int, list[PastShare]] = {}
    for line in table.to_pylist():
        share = prefixed(line, "share")
        past = PastShare(**{name: line[name] for name, _ in _PAST_SCALARS}, step=line["row_step"], share=share)
        found.setdefault(line["step"], []).append(past)
    return found


def table_to_accounts(
    table: Any, rows: Iterable[RowEntry], past: Mapping[int, Sequence[PastShare]]
) -> list[StepAccount]:
    """The inverse of `accounts_to_table`, with each account's rows and earlier rows put back, ordered by step.

    Rows of a step that no account covers are left out: they are the steps in progress when the run was killed. Raises
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
            rows=tuple(row for step in range(line["since"] + 1, line["step"] + 1) for row in by_step.get(step, ())),
            past=tuple(past.get(line["step"], ())),
            probes=_lists(line, "probes"),
            features=tuple(FeatureShift(**feature) for feature in line["features"]),
            watched=tuple(FeatureShift(**feature) for feature in line["watched"]),
            drift=tuple(line["drift"]),
            refusal=prefixed(line, "refusal"),
            standard_error=prefixed(line, "standard_error"),
            probe_ids=tuple(line.get("probe_ids") or ()),
            health=DictionaryHealth(**{name: line[f"health.{name}"] for name in _HEALTH}),
        )
        for line in table.to_pylist()
    ]
    return sorted(accounts, key=lambda account: account.step)
