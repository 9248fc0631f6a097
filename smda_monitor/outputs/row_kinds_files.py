"""Rows of an audit by group, on disk: read from the judged rows, column by column; written beside them.

row_kinds.json             everything (`RowKinds`), NaN as null
feature_contrasts.parquet  one line per watched feature and pathway: ``harmful.<figure>`` and ``harmless.<figure>`` of
                           `Distribution`, U, auroc, rank_biserial, p, p_adjusted
interference.parquet       one line per watched feature: its id, ``coefficient``, and ``kind.<kind>`` for every kind
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, describe
from ..records.row_kinds import Distribution, FeatureContrast, KindInterference, RowKinds
from .files import read_json, to_json, write_atomic, write_text
from .row_audit_tables import column_parts
from .text import storable

NAME = "row_kinds.json"
"""The file that holds everything."""
LEVEL = 0.05
"""False-discovery rate at which features are counted in the summary."""
_COLUMNS = ("line", "expected", "watched_shifts", "intended", "watched_interference", "watched_dominant")


@dataclass(frozen=True, slots=True)
class WatchedRows:
    """The n judged rows whose own prompts were read, on the K watched features; some 17·K bytes a row."""

    lines: tuple[int, ...]
    """Their lines in the data."""
    expected: Tensor
    """(n,) what is expected on the own prompt: 1 the behaviour, −1 not (`RowEntry.expected`)."""
    features: tuple[int, ...]
    """K feature ids."""
    coef: Tensor
    """(K,) w_k."""
    shift_X: Tensor
    """(n, K) ΔW_X,k."""
    shift_Y: Tensor
    """(n, K) ΔW_Y,k."""
    intended: Tensor
    """(n, K) whether k lies in the row's I."""
    unintended: Tensor
    """(n,) whether the dominant watched feature does not."""


def read_watched(folder: Path) -> WatchedRows | None:
    """Of the judged rows in `folder`, a part at a time; None where nothing is watched or no own prompt was read. All
    rows of an audit have the same watched features. Raises `ConfigError` as `row_audit_tables.column_parts`."""
    found = [part for part in map(_watched, column_parts(folder, _COLUMNS)) if part is not None]
    if not found:
        return None
    tensors = ("expected", "shift_X", "shift_Y", "intended", "unintended")
    return WatchedRows(
        lines=tuple(line for part in found for line in part.lines),
        features=found[0].features,
        coef=found[0].coef,
        **{name: torch.cat([getattr(part, name) for part in found]) for name in tensors},
    )


def _watched(table: Any) -> WatchedRows | None:
    """Of the rows of one part; None where none was read."""
    import pyarrow.compute as pc

    table = table.filter(pc.is_finite(table["watched_interference"]))
    if not len(table):
        return None
    flat, n = table["watched_shifts"].combine_chunks().flatten(), len(table)
    columns = {
        name: torch.tensor(flat.field(name).to_numpy(zero_copy_only=False)).reshape(n, -1)
        for name in ("feature", "coefficient", "shift_X", "shift_Y")
    }
    features = tuple(columns["feature"][0].tolist())
    intended = [set(ids) for ids in table["intended"].to_pylist()]
    dominant = table["watched_dominant"].to_pylist()
    return WatchedRows(
        lines=tuple(table["line"].to_pylist()),
        expected=torch.tensor(table["expected"].to_numpy(), dtype=torch.float64),
        features=features,
        coef=columns["coefficient"][0],
        shift_X=columns["shift_X"],
        shift_Y=columns["shift_Y"],
        intended=torch.tensor([[feature in ids for feature in features] for ids in intended]),
        unintended=torch.tensor([d >= 0 and d not in ids for d, ids in zip(dominant, intended, strict=True)]),
    )


def write_row_kinds(folder: Path, found: RowKinds) -> None:
    """Writes the three files, each atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    contrasts = [
        {
            "feature": one.feature,
            "coefficient": one.coefficient,
            "pathway": one.pathway,
            **{f"{group}.{k}": v for group in ("harmful", "harmless") for k, v in asdict(getattr(one, group)).items()},
            **{name: getattr(one, name) for name in ("U", "auroc", "rank_biserial", "p", "p_adjusted")},
        }
        for one in found.contrasts
    ]
    coef = {one.feature: one.coefficient for one in found.contrasts}
    matrix = {"feature": list(found.features), "coefficient": [coef[feature] for feature in found.features]}
    matrix |= {f"kind.{storable(one.kind)}": list(one.by_feature) for one in found.kinds}
    for name, table in (
        ("feature_contrasts.parquet", pa.Table.from_pylist(contrasts)),
        ("interference.parquet", pa.table(matrix)),
    ):
        write_atomic(folder / name, partial(pq.write_table, table, compression="zstd"))
    write_text(folder / NAME, to_json(asdict(found), indent=1))


def read_row_kinds(folder: Path) -> RowKinds | None:
    """What `write_row_kinds` wrote; None where nothing was. Raises `ConfigError` for a file of something else."""
    path = folder / NAME
    if not path.is_file():
        return None
    value = read_json(path, "rows by group")
    try:
        return RowKinds(
            named=bool(value["named"]),
            features=tuple(value["features"]),
            contrasts=tuple(_contrast(one) for one in value["contrasts"]),
            kinds=tuple(
                KindInterference(
                    str(one["kind"]),
                    int(one["rows"]),
                    _float(one["unintended"]),
                    _float(one["interference"]),
                    tuple(map(_float, one["by_feature"])),
                )
                for one in value["kinds"]
            ),
        )
    except (KeyError, TypeError, ValueError) as error:
        found = f"something else ({error!r:.80})"
        raise ConfigError(describe(str(path), found, "what the audit writes there", "resume the audit")) from error


def summarise(found: RowKinds | None) -> dict[str, Any]:
    """The figures for the audit's summary: ``harmful_vs_harmless`` (rows of each group, and by pathway how
    many features differ at a false-discovery rate of `LEVEL`) and ``kinds``; both null where there are none."""
    if found is None:
        return {"harmful_vs_harmless": None, "kinds": None}
    first = found.contrasts[0]
    differing = {
        pathway: sum(one.p_adjusted < LEVEL for one in found.contrasts if one.pathway == pathway) for pathway in "XY"
    }
    groups: Mapping[str, Any] = {
        "harmful": first.harmful.rows,
        "harmless": first.harmless.rows,
        "features": len(found.features),
        "differing": differing,
    }
    kinds = {
        one.kind: {name: getattr(one, name) for name in ("rows", "unintended", "interference")} for one in found.kinds
    }
    return {"harmful_vs_harmless": groups, "kinds": kinds}


def _contrast(value: Mapping[str, Any]) -> FeatureContrast:
    def group(found: Mapping[str, Any]) -> Distribution:
        return Distribution(int(found["rows"]), *(_float(found[f.name]) for f in fields(Distribution)[1:]))

    if value["pathway"] not in ("X", "Y"):
        raise ValueError(f"pathway {value['pathway']!r}")
    return FeatureContrast(
        int(value["feature"]),
        _float(value["coefficient"]),
        value["pathway"],
        group(value["harmful"]),
        group(value["harmless"]),
        *(_float(value[name]) for name in ("U", "auroc", "p", "p_adjusted")),
    )


def _float(value: Any) -> float:
    return float("nan") if value is None else float(value)  # null is how JSON says NaN
