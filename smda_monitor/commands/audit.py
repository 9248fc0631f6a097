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

Under torchrun every rank opens the same training, warms it alike and judges its share of the parts; the first one
writes and prints all else. What is found does not depend on the number of ranks, nor on where an audit was resumed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..instruments.assemble import Instruments, assemble, open_bench
from ..instruments.config_file import load_config
from ..instruments.embedded import load_model
from ..instruments.planted import planted_rows
from ..instruments.ranks import Ranks
from ..instruments.row_choice import fitting, token_count, without_probes
from ..instruments.row_files import read_rows
from ..instruments.row_labels import row_labels
from ..instruments.row_store import TrainingRows
from ..maths.portions import portions, spacing
from ..outputs.audit_folder import KIND, begin_audit
from ..outputs.audit_report import LEADING, print_audit
from ..outputs.files import to_json, write_text
from ..outputs.job_folder import add_to_manifest, check_same_job, removed_on_error
from ..outputs.json_file import check_json_file, write_json_file
from ..outputs.ledger import now
from ..outputs.left_out import write_left_out
from ..outputs.progress import progress
from ..outputs.report import renew_report
from ..outputs.row_audit_tables import judged_parts, read_scores, write_judged
from ..records.config import MonitorConfig
from ..records.row_audit import AuditMethod
from .audit_figures import audit_figures
from .audit_findings import compare_groups, keep_texts
from .audit_rows import DataAudit
from .training import Training, Update, open_training

PORTION = 32
"""Rows of one part: what a kill loses at most, of every rank."""


@dataclass(frozen=True, slots=True)
class AuditRequest:
    """What the command line asked for."""

    data: str
    """``demo``, a file, a saved folder or a hub id."""
    config: str | MonitorConfig
    """The configuration, or its path."""
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


def run_audit(request: AuditRequest, ranks: Ranks | None = None) -> int:
    """Judges the rows that `request` names, writes and prints what was found; returns 0. Several audits in one process
    share its `ranks`.

    Raises `ConfigError` for what cannot be read, for an `out` that holds something else, and for rows that are probes;
    `PrerequisiteError` for a model or a training that is not accounted for, and where another rank has failed.
    """
    began = time.perf_counter()
    check_json_file(request.json)
    ranks = ranks or Ranks.joined()
    with ranks.together():
        config = _configured(request)
        training, instruments, rows = _set_up(request, config, ranks)
        settings = config.data_audit
        parts = portions(len(rows), PORTION)
        _judge(_audit(training, instruments, rows, settings.method), parts, request.out / "judged", ranks)
        if settings.method == "gradient" and settings.check:
            sample = [range(i, i + 1) for i in range(0, len(rows), spacing(len(rows), settings.check))]
            _judge(_audit(training, instruments, rows, "replay"), sample, request.out / "checked", ranks)
        ranks.meet("judged")
        if ranks.first:
            _finish(request, config, instruments, rows, {"ranks": ranks.count, "seconds": time.perf_counter() - began})
    return 0


def _configured(request: AuditRequest) -> MonitorConfig:
    config = load_config(request.config)
    asked = {"method": request.method, "check": request.check}
    audit = config.data_audit.model_copy(update={k: v for k, v in asked.items() if v is not None})
    return config.model_copy(update={"data_audit": audit})


def _set_up(request: AuditRequest, config: MonitorConfig, ranks: Ranks) -> tuple[Training, Instruments, TrainingRows]:
    """The folder, the rows and the training; with the manifest written, every rank knows that it judges the same."""
    identity = {"data": request.data, "config": config.model_dump(mode="json", exclude={"outputs"})}
    new = ranks.first and begin_audit(request.out, identity, request.resume)
    with removed_on_error(request.out, new):
        with ranks.first_alone("rows"):
            # The paper's update is one on the answer: of a conversation, on its last.
            rows = read_rows(request.data, request.out / "rows", split=_update(config) == "paper")
        training, instruments, rows = _opened(config, rows, request)
        identity["rows"] = rows.data._fingerprint
        if new:
            write_left_out(request.out / "left_out.jsonl", rows.omitted())
            add_to_manifest(request.out, {**identity, "status": "running", "started": now()})
        ranks.meet("set up")
    check_same_job(request.out, KIND, identity)
    return training, instruments, rows


def _update(config: MonitorConfig) -> Update:
    return config.data_audit.update or config.policy.preset


def _opened(
    config: MonitorConfig, rows: TrainingRows, request: AuditRequest
) -> tuple[Training, Instruments, TrainingRows]:
    """The model with its policy, fitted before anything moves; then the training, warmed."""
    model, tokenizer = load_model(config.model.name, config.model.adapter, config.model.dtype)
    bench = open_bench(config, model, tokenizer)
    rows = without_probes(rows, bench.probes, request.allow_probes)
    rows = fitting(rows, token_count(tokenizer), config.training.arguments.get("max_length", 1024))
    policy = assemble(bench).policy
    data, folder = rows.data.remove_columns(["id", "line"]), request.out / "trainer"
    warm_up = config.data_audit.warm_up
    training = open_training(config.training, _update(config), warm_up, model, tokenizer, data, folder)
    instruments = assemble(open_bench(config, training.model, tokenizer), policy)
    return training, instruments.measuring(config.data_audit.probes, 0), rows


def _audit(training: Training, instruments: Instruments, rows: TrainingRows, method: AuditMethod) -> DataAudit:
    return DataAudit(training, instruments, method, rows.data["id"], rows.data["line"])


def _judge(audit: DataAudit, parts: Sequence[range], folder: Path, ranks: Ranks) -> None:
    """Judges the rows of this rank's share of `parts` that are not in `folder` yet; each part is written as soon as it
    is there."""
    there = {rows.start for rows in judged_parts(folder)}
    share, what = ranks.share(parts), f"{folder.name} on {ranks.count} ranks" if ranks.count > 1 else folder.name
    with progress(what, sum(map(len, share)), hidden=not ranks.first) as advance:
        for part in share:
            if part.start + 1 not in there:
                # Dropout's masks are those of the rows, whoever judged others before.
                torch.manual_seed(audit.instruments.bench.config.seed + part.start)
                write_judged(folder, part.start + 1, audit.judge(part))
            advance(len(part))


def _finish(
    request: AuditRequest, config: MonitorConfig, instruments: Instruments, rows: TrainingRows, more: dict[str, Any]
) -> None:
    """Sums up, writes and prints."""
    figures = {
        **audit_figures(request.out, instruments.policy.answers is not None, planted_rows(rows), config.behaviour.name),
        **compare_groups(request.out, row_labels(rows), config.behaviour.wanted_on),
        "method": config.data_audit.method,
        "left_out": len(rows.left_out),
        **more,
    }
    keep_texts(request.out, rows, config.outputs.row_text)
    write_text(request.out / "summary.json", to_json(figures, indent=2))
    write_json_file(request.json, figures)
    add_to_manifest(request.out, {"status": "finished"})
    print_audit(request.out, figures, read_scores(request.out / "scores.parquet", LEADING))
    renew_report(request.out)
