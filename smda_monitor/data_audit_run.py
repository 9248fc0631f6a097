"""`smda audit DATA`: every row of a data set judged before anything is trained on it. Wiring, no arithmetic.

manifest.json        what was judged, how, with what; status (running until the end)
judged/*.parquet     one line per row, in parts: what a kill leaves is whole, and `resume` goes on from there
checked/*.parquet    rows that were also replayed, to say how close ``gradient`` comes
scores.parquet       every row's score and pair score, the most suspicious first
row_kinds.json       rows by group: harmful against harmless, interference by kind; feature_contrasts.parquet and
                     interference.parquet hold the same as tables
left_out.jsonl       rows that were not judged, and why
rows.jsonl           texts of the leading rows; only where outputs.row_text allows it
summary.json         closing figures
report.html          all of it as a page (`outputs.report`)
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .audit_findings import compare_groups, keep_texts
from .data_audit import DataAudit
from .errors import ConfigError, describe
from .instruments.assemble import Instruments, assemble, open_bench
from .instruments.config_file import load_config
from .instruments.embedded import load_model
from .instruments.row_choice import fitting, token_count, without_probes
from .instruments.row_files import read_rows
from .instruments.row_store import TrainingRows
from .maths.agreement import agreement
from .maths.score import scores
from .outputs.audit_report import LEADING, print_audit
from .outputs.files import read_json, to_json, write_text
from .outputs.ledger import now
from .outputs.left_out import write_left_out
from .outputs.progress import progress
from .outputs.report import write_report
from .outputs.row_audit_tables import judged_numbers, read_judged, read_scores, write_judged, write_scores
from .records.config import MonitorConfig
from .records.row_audit import AuditMethod, RowAudit
from .training import Training, Update, open_training

PORTION = 32
"""Rows of one part: what a kill loses at most."""


@dataclass(frozen=True, slots=True)
class AuditRequest:
    """What the command line asked for."""

    data: str
    """``demo``, a file, a saved folder or a hub id."""
    config: str
    """The configuration's path."""
    out: Path
    """Where the audit is written."""
    method: AuditMethod | None = None
    """In place of ``data_audit.method``."""
    check: int | None = None
    """In place of ``data_audit.check``."""
    resume: bool = False
    """Whether to go on with an audit that was stopped."""
    allow_probes: bool = False
    """Whether rows that are also probes are left out instead of refused."""
    json: Path | None = None
    """Where the closing figures are written too."""


def run_audit(request: AuditRequest) -> int:
    """Judges the rows that `request` names, writes and prints what was found; returns 0.

    Raises `ConfigError` for what cannot be read, for an `out` that holds something else, and for rows that are probes;
    `PrerequisiteError` for a model or a training that is not accounted for.
    """
    began = time.perf_counter()
    config = _configured(request)
    identity = {"data": request.data, "config": config.model_dump(mode="json", exclude={"outputs"})}
    _check_folder(request, identity)
    with _removed_on_error(request):
        rows = read_rows(request.data, request.out / "rows")
        training, instruments, rows = _opened(config, rows, request)
        identity["rows"] = rows.data._fingerprint
        if request.resume:
            _check_same(request.out, identity)
        else:
            write_left_out(request.out / "left_out.jsonl", rows.omitted())
            _manifest(request.out, {**identity, "kind": "audit", "status": "running", "started": now()})
    settings, names = config.data_audit, (rows.data["id"], rows.data["line"])
    portions = [range(first, min(first + PORTION, len(rows))) for first in range(0, len(rows), PORTION)]
    _judge(DataAudit(training, instruments, settings.method, *names), portions, request.out / "judged", "judging")
    if settings.method == "gradient" and settings.check:
        sample = [range(i, i + 1) for i in range(0, len(rows), max(1, -(-len(rows) // settings.check)))]
        _judge(DataAudit(training, instruments, "replay", *names), sample, request.out / "checked", "checking")
    figures = {
        **_figures(request.out, instruments),
        **compare_groups(request.out, request.data),
        "method": settings.method,
        "left_out": len(rows.left_out),
        "seconds": time.perf_counter() - began,
    }
    keep_texts(request.out, rows, config.outputs.row_text)
    for path in (request.out / "summary.json", *([request.json] if request.json else [])):
        write_text(path, to_json(figures, indent=2))
    _manifest(request.out, {**read_json(request.out / "manifest.json", "manifest"), "status": "finished"})
    print_audit(request.out, figures, read_scores(request.out / "scores.parquet", LEADING))
    print(f"report: {write_report(request.out)}")
    return 0


def _configured(request: AuditRequest) -> MonitorConfig:
    config = load_config(request.config)
    asked = {"method": request.method, "check": request.check}
    audit = config.data_audit.model_copy(update={k: v for k, v in asked.items() if v is not None})
    return config.model_copy(update={"data_audit": audit})


def _check_folder(request: AuditRequest, identity: dict[str, Any]) -> None:
    """There must be an empty folder or none; to resume, one that holds the same audit, stopped."""
    if request.resume:
        _check_same(request.out, identity)
    elif request.out.exists() and (not request.out.is_dir() or any(request.out.iterdir())):
        remedy = "name another folder, or --resume an audit of the same data."
        found = "a file" if not request.out.is_dir() else "a folder that is not empty"
        raise ConfigError(describe(f"--out {request.out}", found, "an empty folder, or none", remedy))


def _check_same(folder: Path, identity: dict[str, Any]) -> None:
    known = read_json(folder / "manifest.json", "manifest")
    differing = [key for key, value in identity.items() if known.get(key) != json.loads(to_json(value))]
    if differing:
        remedy = "name another folder, or ask for the same data with the same configuration."
        found = f"an audit with other {' and '.join(differing)}"
        raise ConfigError(describe(f"--out {folder}", found, "the one to resume", remedy))


@contextmanager
def _removed_on_error(request: AuditRequest) -> Iterator[None]:
    """A new audit that cannot be set up leaves nothing behind, so that the next try finds the folder as it was."""
    new = not request.resume
    try:
        yield
    except BaseException:
        if new:
            shutil.rmtree(request.out, ignore_errors=True)
        raise


def _manifest(folder: Path, content: dict[str, Any]) -> None:
    write_text(folder / "manifest.json", to_json(content, indent=2))


def _opened(
    config: MonitorConfig, rows: TrainingRows, request: AuditRequest
) -> tuple[Training, Instruments, TrainingRows]:
    """The model with its policy, fitted before anything moves; then the training, warmed."""
    model, tokenizer = load_model(config.model.name, config.model.adapter, config.model.dtype)
    bench = open_bench(config, model, tokenizer)
    rows = without_probes(rows, bench.probes, request.allow_probes)
    rows = fitting(rows, token_count(tokenizer), config.training.arguments.get("max_length", 1024))
    policy = assemble(bench).policy
    update: Update = config.data_audit.update or config.policy.preset
    data = rows.data.remove_columns(["id", "line"])
    folder = request.out / "trainer"
    training = open_training(config.training, update, config.data_audit.warm_up, model, tokenizer, data, folder)
    instruments = assemble(open_bench(config, training.model, tokenizer), policy)
    return training, instruments.measuring(config.data_audit.probes, 0), rows


def _judge(audit: DataAudit, parts: Sequence[range], folder: Path, what: str) -> None:
    """Judges the rows of all `parts` that are not in `folder` yet; each part is written as soon as it is there."""
    there = judged_numbers(folder)
    with progress(what, sum(map(len, parts))) as advance:
        for part in parts:
            if part.start + 1 not in there:
                write_judged(folder, part.start + 1, audit.judge(part))
            advance(len(part))


def _figures(folder: Path, instruments: Instruments) -> dict[str, Any]:
    """Scores every row beside all others, writes them, and sums up."""
    judged = list(read_judged(folder / "judged"))
    columns = ("own_push", "expected", "answer_reading")
    push, expected, reading = (_column(judged, name) for name in columns)
    taught = None if instruments.policy.answers is None else reading
    found = scores(push, expected, taught)
    write_scores(folder / "scores.parquet", judged, found.tolist())
    replayed = list(read_judged(folder / "checked"))
    by_id = {one.entry.row_id: one for one in judged}
    pairs = [(by_id[one.entry.row_id], one) for one in replayed]
    return {
        "rows": len(judged),
        "scored": int(found.isfinite().sum()),
        "unintended": sum(one.entry.unintended for one in judged) / len(judged),
        "gradient_vs_replay": {
            name: agreement([getattr(a, name) for a, _ in pairs], [getattr(b, name) for _, b in pairs])
            for name in ("S_X", "S_Y")
        }
        if pairs
        else None,
    }


def _column(judged: Sequence[RowAudit], name: str) -> torch.Tensor:
    return torch.tensor([getattr(one.entry, name) for one in judged], dtype=torch.float64)
