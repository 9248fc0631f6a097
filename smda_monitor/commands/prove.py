"""`smda prove RUN`: does taking the flagged rows out bring the behaviour back? Trained again, and measured. Wiring.

manifest.json        what is proved, with what; status (running until the end)
arms/*.json          one file per training, as soon as it is there: `resume` goes on from these
proof.json           closing figures
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, describe
from ..instruments.config_file import load_config
from ..instruments.planted import planted_rows
from ..maths.arms import plan_arms
from ..maths.proof import measured, proof_figures
from ..outputs.curation_files import HEAD, read_curation
from ..outputs.files import to_json, write_text
from ..outputs.finished_audit import FinishedAudit, read_audit, read_figures
from ..outputs.job_folder import add_to_manifest, begin_job, begin_set_up, check_job_folder, removed_on_error
from ..outputs.json_file import check_json_file, write_json_file
from ..outputs.progress import progress
from ..outputs.proof_files import as_json, read_arm, write_arm
from ..outputs.proof_report import print_proof
from ..outputs.report import renew_report_with
from ..records.config import MonitorConfig
from ..records.proof import ARMS, Arm, ArmRun
from .curate import FOLDER as CURATION
from .curate import CurateRequest, audited_rows, run_curate
from .retraining import Retraining

FOLDER = "proof"
"""Inside the audit's folder, where none is named."""


@dataclass(frozen=True, slots=True)
class ProveRequest:
    """What the command line asked for."""

    run: Path
    """The folder of a finished audit."""
    config: str | None = None
    """The configuration's path; None: the audit's own."""
    out: Path | None = None
    """Where the proof is written; None: `FOLDER` in `run`."""
    seeds: int = 3
    """Trainings of each arm, under so many seeds."""
    random: int = 1
    """Random draws under each seed."""
    max_steps: int | None = None
    """Optimizer steps of every training; None: those of the configured training on all rows."""
    json: Path | None = None
    """Where the closing figures are written too."""
    resume: bool = False
    """Whether to go on with a proof that was stopped."""


def run_prove(request: ProveRequest) -> int:
    """Trains every arm that is not there yet, measures it, writes and prints what that shows, and writes the
    audit's page again; returns 0.

    Raises `ConfigError` where there is no finished audit or no flagged row, for data or a curation that are not the
    audit's, and for what cannot be set up; `PrerequisiteError` for a model or a mode that is not accounted for.
    """
    began = time.perf_counter()
    if request.max_steps is not None and request.max_steps < 1:
        raise ConfigError(describe("--max-steps", request.max_steps, "at least 1", "leave it out"))
    check_json_file(request.json)
    audit = read_audit(request.run)
    folder = request.out or request.run / FOLDER
    new = check_job_folder(folder, "proof", request.resume)
    config = load_config(request.config if request.config is not None else audit.config)
    rule, flagged_ids = _curated(audit)
    with removed_on_error(folder, new):
        if new:
            begin_set_up(folder, "proof", {"audit": audit.identity})
        rows = audited_rows(audit, [one.row_id for one in read_figures(audit)], folder / "rows")
        names = rows.data["id"]
        flagged = [i for i, name in enumerate(names) if name in flagged_ids]
        planted = [one.place for one in planted_rows(rows)]
        series = Retraining(config, rows, folder / "trainer", request.max_steps)
        arms = plan_arms(series.lengths, flagged, planted, request.seeds, request.random, config.seed)
        begin_job(folder, "proof", _identity(audit, config, series, rule, flagged_ids), resume=not new)
    runs = _trained(series, arms, folder)
    by_arm = {name: measured(found, series.threshold) for name in ARMS if (found := _of(runs, name))}
    figures = proof_figures(by_arm, [one.kind for one in series.heldout], config.seed)
    facts = {
        "rows": len(names),
        "flagged_rows": len(flagged),
        "planted_rows": len(planted),
        "planted_flagged": len(set(flagged) & set(planted)),
        "curation": rule,
        "heldout_prompts": len(series.heldout),
        "reading": series.reading,
        "threshold": series.threshold,
        "seeds": request.seeds,
        "trainings": len(runs),
        "steps": series.steps,
        "tokens_left_out": {name: [run.tokens for run in _of(runs, name)] for name in by_arm},
        "seconds": time.perf_counter() - began,
        "seconds_of_trainings": sum(run.seconds for run in runs),
    }
    closing = {**as_json(figures), **facts}
    write_text(folder / "proof.json", to_json(closing, indent=2))
    write_json_file(request.json, closing)
    add_to_manifest(folder, {"status": "finished"})
    print_proof(folder, figures, facts, config.behaviour.name)
    renew_report_with(audit.folder, FOLDER, folder)
    return 0


def _curated(audit: FinishedAudit) -> tuple[dict[str, Any], set[str]]:
    """(what ``curation.json`` says beside counts, ids of the flagged rows); by the default rule where there is none."""
    folder = audit.folder / CURATION
    if not (folder / HEAD).is_file():
        run_curate(CurateRequest(audit.folder))
    head, removed = read_curation(folder)
    if head.get("audit") != audit.identity:
        remedy = "run `smda curate` on this audit again"
        raise ConfigError(describe(f"curation {folder}", "that of another audit", "this audit's", remedy))
    if not removed:
        remedy = "flag more: `smda curate RUN --fdr 0.2`, say, or --rule median"
        raise ConfigError(describe(f"curation {folder}", "no row to remove", "at least one", remedy))
    return {key: head[key] for key in ("rule", "rate", "threshold") if key in head}, set(removed)


def _identity(
    audit: FinishedAudit, config: MonitorConfig, series: Retraining, rule: dict[str, Any], flagged: Collection[str]
) -> dict[str, Any]:
    """Two proofs of one identity train alike; how many seeds there are is left open, so that more can be added."""
    sections = {"model", "training", "behaviour", "seed"}
    return {
        "audit": audit.identity,
        "config": {**config.model_dump(mode="json", include=sections), "preset": config.policy.preset},
        "heldout": series.heldout.fingerprint,
        "steps": series.steps,
        "curation": rule,
        "flagged": sorted(flagged),
    }


def _trained(series: Retraining, arms: Sequence[Arm], folder: Path) -> list[ArmRun]:
    """The runs of all `arms`, in their order; those that are not there yet are trained."""
    runs = []
    with progress("training", len(arms) * series.steps) as advance:
        for arm in arms:
            run = read_arm(folder, arm)
            if run is None:
                run = series.run(arm, advance)
                write_arm(folder, run)
            else:
                advance(series.steps)
            runs.append(run)
    return runs


def _of(runs: Sequence[ArmRun], name: str) -> list[ArmRun]:
    return [run for run in runs if run.name == name]
