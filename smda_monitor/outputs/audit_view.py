"""An audit read back from its folder alone: all that its report needs, nothing that needs a model or the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, describe
from ..records.row_audit import RowAudit
from ..records.row_kinds import RowKinds
from . import parts
from .files import read_json, read_json_lines
from .ledger_reader import RowText, read_row_texts
from .row_audit_tables import STEM, read_judged, table_to_judged
from .row_kinds_files import read_row_kinds
from .score_table import ScoreTable, read_score_table

SHOWN_ROWS = 25
"""Leading rows whose every figure is read."""
LISTED = 50
"""Rows that were left out, removed or put up for review that are listed."""


@dataclass(frozen=True, slots=True)
class Curation:
    """What `smda curate` decided."""

    figures: Mapping[str, Any]
    """Its closing figures, ``curation.json``."""
    rows: Mapping[str, Sequence[Mapping[str, Any]]]
    """By decision (``remove``, ``review``): the first rows, ``id``, ``line`` and ``reasons`` alone."""


@dataclass(frozen=True, slots=True)
class AuditView:
    """One audit of data."""

    folder: Path
    """Where it lies."""
    manifest: Mapping[str, Any]
    """What was judged, how, and whether it is finished."""
    summary: Mapping[str, Any]
    """The closing figures; empty for an audit that has not finished."""
    scores: ScoreTable
    """Every row by score."""
    leading: Sequence[RowAudit]
    """The first of them, with every figure."""
    replayed: Sequence[tuple[RowAudit, RowAudit]]
    """Rows judged by gradient that were also replayed: (by gradient, by replay)."""
    left_out: Sequence[Mapping[str, Any]]
    """The first rows that were not judged: line, id, reason."""
    omitted: int
    """How many were not judged."""
    kinds: RowKinds | None
    """Rows by group; None where no own prompt was read or nothing was watched."""
    texts: Mapping[str, RowText]
    """By row hash; empty where row text is not allowed."""
    curation: Curation | None
    """None where the audit was not curated."""
    proof: Mapping[str, Any] | None
    """What retraining without the flagged rows showed, ``proof.json``; None where it was not tried."""


def read_audit_view(folder: str | Path) -> AuditView:
    """Reads the audit in `folder`. Raises `ConfigError` naming the file that is missing, corrupt or something else."""
    path = Path(folder)
    manifest = _object(path / "manifest.json", "manifest")
    summary, proof = path / "summary.json", path / "proof" / "proof.json"
    scores, left_out = read_score_table(path / "scores.parquet"), _lines(path / "left_out.jsonl")
    return AuditView(
        folder=path,
        manifest=manifest,
        summary=_object(summary, "summary") if summary.is_file() else {},
        scores=scores,
        leading=_judged_at(path / "judged", [line["line"] for line in scores.leading[:SHOWN_ROWS]]),
        replayed=_replayed(path),
        left_out=left_out[:LISTED],
        omitted=len(left_out),
        kinds=read_row_kinds(path),
        texts=read_row_texts(path),
        curation=_curation(path / "curation"),
        proof=_object(proof, "proof") if proof.is_file() else None,
    )


def _judged_at(folder: Path, lines: Sequence[int]) -> list[RowAudit]:
    """The judged rows at `lines`, in that order; those that are not there are left out."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = pa.array(lines, pa.int64())
    found: dict[int, RowAudit] = {}
    for part in parts.live_parts(folder, STEM) if lines else ():
        try:
            inside = pc.is_in(parts.read_part(part.path, ["line"])["line"], value_set=wanted)
            if pc.any(inside).as_py():
                found |= {one.line: one for one in table_to_judged(parts.read_part(part.path).filter(inside))}
        except (KeyError, TypeError) as error:
            raise _unreadable(part.path, f"no column {error}") from error
    return [found[line] for line in lines if line in found]


def _replayed(folder: Path) -> list[tuple[RowAudit, RowAudit]]:
    exact = list(read_judged(folder / "checked"))
    estimates = {one.line: one for one in _judged_at(folder / "judged", [one.line for one in exact])}
    return [(estimates[one.line], one) for one in exact if one.line in estimates]


def _curation(folder: Path) -> Curation | None:
    path = folder / "curation.json"
    if not path.is_file():
        return None
    rows = {decision: _reasons(folder / f"{decision}.jsonl") for decision in ("remove", "review")}
    return Curation(_object(path, "curation"), rows)


def _reasons(path: Path) -> list[dict[str, Any]]:
    """The first rows of a bucket, without their own columns: their text stays where it is."""
    return [{key: row.get(key) for key in ("id", "line", "reasons")} for row in _lines(path)[:LISTED]]


def _lines(path: Path) -> list[dict[str, Any]]:
    found = read_json_lines(path, "file")
    if any(not isinstance(line, dict) for line in found):
        raise _unreadable(path, "a line that is no object")
    return found


def _object(path: Path, what: str) -> dict[str, Any]:
    found = read_json(path, what)
    if not isinstance(found, dict):
        raise _unreadable(path, "not a JSON object")
    return found


def _unreadable(path: Path, found: str) -> ConfigError:
    return ConfigError(describe(str(path), found, "what the audit writes there", "restore it from a copy"))
