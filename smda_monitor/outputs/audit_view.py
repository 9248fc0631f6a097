"""An audit read back from its folder alone: all that its report needs, nothing that needs a model or the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import ConfigError, describe
from ..records.row_audit import RowAudit
from ..records.row_kinds import RowKinds
from .files import json_lines, read_json
from .ledger_reader import RowText, read_row_texts
from .row_audit_tables import judged_at, read_judged
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
    listed = list(islice(left_out, LISTED))
    return AuditView(
        folder=path,
        manifest=manifest,
        summary=_object(summary, "summary") if summary.is_file() else {},
        scores=scores,
        leading=judged_at(path / "judged", [line["line"] for line in scores.leading[:SHOWN_ROWS]]),
        replayed=_replayed(path),
        left_out=listed,
        omitted=len(listed) + sum(1 for _ in left_out),
        kinds=read_row_kinds(path),
        texts=read_row_texts(path),
        curation=_curation(path / "curation"),
        proof=_object(proof, "proof") if proof.is_file() else None,
    )


def _replayed(folder: Path) -> list[tuple[RowAudit, RowAudit]]:
    exact = list(read_judged(folder / "checked"))
    estimates = {one.line: one for one in judged_at(folder / "judged", [one.line for one in exact])}
    return [(estimates[one.line], one) for one in exact if one.line in estimates]


def _curation(folder: Path) -> Curation | None:
    path = folder / "curation.json"
    if not path.is_file():
        return None
    rows = {decision: _reasons(folder / f"{decision}.jsonl") for decision in ("remove", "review")}
    return Curation(_object(path, "curation"), rows)


def _reasons(path: Path) -> list[dict[str, Any]]:
    """The first rows of a bucket, without their own columns: their text stays where it is."""
    return [{key: row.get(key) for key in ("id", "line", "reasons")} for row in islice(_lines(path), LISTED)]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in json_lines(path, "file"):
        if not isinstance(line, dict):
            raise _unreadable(path, "a line that is no object")
        yield line


def _object(path: Path, what: str) -> dict[str, Any]:
    found = read_json(path, what)
    if not isinstance(found, dict):
        raise _unreadable(path, "not a JSON object")
    return found


def _unreadable(path: Path, found: str) -> ConfigError:
    return ConfigError(describe(str(path), found, "what the audit writes there", "restore it from a copy"))
