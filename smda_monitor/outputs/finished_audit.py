"""Reads the folder of a finished `smda audit`, for the commands that go on from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, describe
from ..records.curation import RowFigures
from .files import read_json, read_json_lines
from .job_folder import MANIFEST
from .row_audit_tables import judged_columns

_SAME = ("row_id", "line", "own_push", "answer_reading", "expected", "interference", "dominant_feature", "unintended")
"""Columns of judged rows that are fields of `RowFigures` too."""
_PATHWAYS = {"S_X": "push.S_X", "S_Y": "push.S_Y"}
"""Fields whose columns have another name."""


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

    @property
    def split(self) -> bool:
        """Whether conversations were judged as their last answers: by the paper's update."""
        return bool((self.config["data_audit"]["update"] or self.config["policy"]["preset"]) == "paper")


def read_audit(folder: Path) -> FinishedAudit:
    """The audit in `folder`. Raises `ConfigError` where there is none, or one that was not finished."""
    inside = sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST}"))
    one = f"name one in it: {', '.join(inside)}" if inside else None
    if not (folder / MANIFEST).is_file():
        found = f"a folder without {MANIFEST}" if folder.is_dir() else "no such folder"
        raise _no_audit(folder, found, one or "run `smda audit` first, and name its --out")
    manifest = read_json(folder / MANIFEST, "manifest")
    kind = manifest.get("kind") if isinstance(manifest, dict) else None
    if kind == "audits":
        raise _no_audit(folder, "audits of several behaviours", one or "run the audits anew")
    if kind != "audit":
        raise _no_audit(folder, "the folder of another command", "name the --out of an `smda audit`")
    if manifest.get("status") != "finished":
        raise _no_audit(folder, "an audit that was stopped", "finish it: `smda audit … --resume`")
    names = ("data", "config", "rows", "started")
    if missing := [name for name in names if name not in manifest]:
        raise _no_audit(folder, f"a manifest without {missing[0]!r}", "restore it from a copy, or run the audit anew")
    return FinishedAudit(folder, *(manifest[name] for name in names))


def read_figures(audit: FinishedAudit) -> list[RowFigures]:
    """What was found of every judged row, in their order.

    Raises `ConfigError` where a file of the audit is not there, damaged, or not of the judged rows.
    """
    judged = judged_columns(audit.folder / "judged", (*_SAME, *_PATHWAYS.values()))
    scored = _scores(audit)
    names = judged["row_id"].to_pylist() if judged is not None else []
    if set(names) != set(scored):
        found, expected = f"{len(names)} judged rows and {len(scored)} scores", "a score's line for every judged row"
        raise _no_audit(audit.folder, found, "run `smda audit` anew, into another folder", expected)
    columns = {name: judged[name].to_pylist() for name in _SAME}
    columns |= {name: judged[column].to_pylist() for name, column in _PATHWAYS.items()}
    columns["score"] = [scored[name] for name in names]
    return [RowFigures(**dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)]


def _scores(audit: FinishedAudit) -> dict[str, float]:
    """By the row's id; NaN where it has none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = audit.folder / "scores.parquet"
    try:
        with path.open("rb") as handle:
            table = pq.ParquetFile(handle).read(columns=["row_id", "score"])
    except (pa.ArrowException, OSError) as error:
        raise _no_audit(audit.folder, f"no {path.name} that can be read ({error})", "run the audit anew") from error
    scores = (float("nan") if one is None else one for one in table["score"].to_pylist())
    return dict(zip(table["row_id"].to_pylist(), scores, strict=True))


def left_out_reasons(audit: FinishedAudit) -> dict[int, str]:
    """Why each row was left out that the audit did not judge, by line."""
    return {one["line"]: one["reason"] for one in read_json_lines(audit.folder / "left_out.jsonl", "left-out rows")}


def _no_audit(folder: Path, found: str, remedy: str, expected: str = "the folder of a finished audit") -> ConfigError:
    return ConfigError(describe(f"RUN {folder}", found, expected, remedy))
