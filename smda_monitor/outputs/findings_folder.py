"""What `smda policy` leaves on disk.

symbolic_policy.json   everything, NaN as null        coefficients.parquet   one line per feature, largest effect first
gaps.parquet           one line per category: ``<group>.<figure>`` with ``.low`` and ``.high``; group harmful,
                       lookalike or difference, figure a field of `Level`; flags and features are lists
manifest.json          ``kind`` policy, when it was written      report.html  the same as a page (`report`)
"""

from __future__ import annotations

from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import ConfigError, describe
from ..records.policy_findings import CategoryGap, Level, PolicyFindings, RankedCoefficient
from .files import is_temporary, to_json, write_atomic, write_text
from .json_file import check_json_file
from .ledger import now
from .tables import scalar_columns
from .text import storable

FINDINGS = "symbolic_policy.json"
"""The file that holds everything."""
FILES = (FINDINGS, "coefficients.parquet", "gaps.parquet", "manifest.json", "report.html")
"""All that belongs in the folder."""


def check_findings_folder(folder: str | Path, json_file: str | Path | None = None) -> None:
    """Raises `ConfigError` where `write_findings` should not write, and touches nothing: where `folder` is a file or
    holds anything but earlier findings, which are replaced, or where `json_file` is a folder."""
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise ConfigError(describe(f"--out {path}", "a file", "a folder", "name another folder"))
    others = (
        sorted(p.name for p in path.iterdir() if p.name not in FILES and not is_temporary(p)) if path.exists() else []
    )
    if others:
        found = f"a folder with other files ({', '.join(others[:5])})"
        expected = "an empty folder, none, or one with earlier findings"
        raise ConfigError(describe(f"--out {path}", found, expected, "name another folder, or empty this one yourself"))
    check_json_file(json_file)


def write_findings(findings: PolicyFindings, folder: str | Path, json_file: str | Path | None = None) -> list[Path]:
    """Writes the files, each atomically, and returns their paths; `json_file` is a second copy of the JSON.

    Raises `ConfigError` as `check_findings_folder`, and where the disk refuses.
    """
    check_findings_folder(folder, json_file)
    home, text = Path(folder), to_json(asdict(findings), indent=1)
    tables = {"coefficients.parquet": _coefficients(findings.coefficients), "gaps.parquet": _gaps(findings.gaps)}
    try:
        for name, table in tables.items():
            write_atomic(home / name, partial(_write, table))
        texts = [home / FINDINGS, *([Path(json_file)] if json_file is not None else [])]
        for path in texts:
            write_text(path, text)
        write_text(home / "manifest.json", to_json({"kind": "policy", "written": now()}, indent=2))
    except OSError as error:
        remedy = "check the path, its rights and the free space"
        raise ConfigError(describe(f"findings in {home}", error, "files that can be written", remedy)) from error
    return [*texts, *(home / name for name in tables), home / "manifest.json"]


def _coefficients(coefficients: tuple[RankedCoefficient, ...]) -> Any:
    import pyarrow as pa

    scalars = [(f.name, "int" if f.name == "feature" else "float") for f in fields(RankedCoefficient)]
    return pa.table(scalar_columns(coefficients, scalars))


def _gaps(gaps: tuple[CategoryGap, ...]) -> Any:
    import pyarrow as pa

    columns: dict[str, Any] = {
        "category": pa.array([storable(gap.category) for gap in gaps], pa.string()),
        "n_harmful": pa.array([gap.n_harmful for gap in gaps], pa.int64()),
        "n_lookalike": pa.array([gap.n_lookalike for gap in gaps], pa.int64()),
    }
    for group in ("harmful", "lookalike", "difference"):
        for figure in (f.name for f in fields(Level)):
            estimates = [getattr(getattr(gap, group), figure) for gap in gaps]
            for part, end in (("value", ""), ("low", ".low"), ("high", ".high")):
                values = [getattr(one, part) for one in estimates]
                columns[f"{group}.{figure}{end}"] = pa.array(values, pa.float64(), from_pandas=False)
    columns["flags"] = pa.array([list(gap.flags) for gap in gaps], pa.list_(pa.string()))
    parts = [("feature", pa.int64()), *((name, pa.float64()) for name in ("difference", "coef", "contribution"))]
    features = [[asdict(one) for one in gap.features] for gap in gaps]
    columns["features"] = pa.array(features, pa.list_(pa.struct(parts)))
    return pa.table(columns)


def _write(table: Any, path: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(table, path, compression="zstd")
