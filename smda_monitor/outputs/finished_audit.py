"""Reads the folder of a finished `smda audit`, for the commands that go on from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, describe
from ..records.curation import RowFigures
from .files import read_json, read_json_lines
from .row_audit_tables import read_judged, read_scores


@dataclass(frozen=True, slots=True)
class FinishedAudit:
    """An audit that was run to its end."""

    folder: Path
    """Where it lies."""
    data: str
    """The data that was audited, as the user named it."""
    config: dict[str, Any]
    """Its configuration, without ``outputs``."""
    rows: str
    """Fingerprint of the rows that were judged."""
    started: str
    """When; with the fingerprint it tells one audit from another."""

    @property
    def identity(self) -> dict[str, str]:
        """What a file that was made from this audit says of it."""
        return {"rows": self.rows, "started": self.started}


def read_audit(folder: Path) -> FinishedAudit:
    """The audit in `folder`. Raises `ConfigError` where there is none, or one that was not finished."""
    if not (folder / "manifest.json").is_file():
        found = "a folder without manifest.json" if folder.is_dir() else "no such folder"
        raise _no_audit(folder, found, "run `smda audit` first, and name its --out")
    manifest = read_json(folder / "manifest.json", "manifest")
    if not isinstance(manifest, dict) or manifest.get("kind") != "audit":
        raise _no_audit(folder, "the folder of another command", "name the --out of an `smda audit`")
    if manifest.get("status") != "finished":
        raise _no_audit(folder, "an audit that was stopped", "finish it: `smda audit … --resume`")
    names = ("data", "config", "rows", "started")
    if missing := [name for name in names if name not in manifest]:
        raise _no_audit(folder, f"a manifest without {missing[0]!r}", "restore it from a copy, or run the audit anew")
    return FinishedAudit(folder, *(manifest[name] for name in names))


def read_figures(audit: FinishedAudit) -> list[RowFigures]:
    """What was found of every judged row, in their order.

    Raises `ConfigError` where the scores are not those of the judged rows.
    """
    path = audit.folder / "scores.parquet"
    if not path.is_file():
        raise _no_audit(audit.folder, f"no {path.name}", "restore it from a copy, or run the audit anew")
    summary = read_json(audit.folder / "summary.json", "summary")
    scored = {line["row_id"]: line for line in read_scores(path, int(summary["rows"]))}
    found = []
    for one in read_judged(audit.folder / "judged"):
        entry, line = one.entry, scored.get(one.entry.row_id)
        if line is None:
            found_text, remedy = f"no row {entry.row_id!r:.80}", "run `smda audit` anew, into another folder"
            raise ConfigError(describe(str(path), found_text, "the scores of all judged rows", remedy))
        found.append(
            RowFigures(
                row_id=entry.row_id,
                line=one.line,
                score=line["score"],
                S_X=one.S_X,
                S_Y=one.S_Y,
                own_push=entry.own_push,
                answer_reading=entry.answer_reading,
                expected=entry.expected,
                interference=entry.interference,
                dominant_feature=entry.dominant_feature,
                unintended=entry.unintended,
            )
        )
    return found


def left_out_reasons(audit: FinishedAudit) -> dict[int, str]:
    """Why each row was left out that the audit did not judge, by line."""
    return {one["line"]: one["reason"] for one in read_json_lines(audit.folder / "left_out.jsonl", "left-out rows")}


def _no_audit(folder: Path, found: str, remedy: str) -> ConfigError:
    return ConfigError(describe(f"RUN {folder}", found, "the folder of a finished audit", remedy))
