"""Starts and ends a monitored run: checks, instruments, run folder, sinks. Wiring, no arithmetic."""

from __future__ import annotations

import importlib.metadata
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import ConfigError, SMDAError, describe
from ..instruments.assemble import Bench, Instruments, assemble, open_bench
from ..instruments.clock import device_clock
from ..instruments.launcher import apart
from ..instruments.optimizer_step import step_hooks, unknown_step
from ..instruments.overlap import overlapping
from ..instruments.parameters import trained_parameters
from ..instruments.policy_files import load_policy, save_policy
from ..instruments.row_identity import index_rows
from ..instruments.sharded import is_sharded
from ..instruments.trainer_mode import check_sharding, check_trainer_mode
from ..instruments.training_ranks import TrainingRanks
from ..outputs.console import ConsoleSink
from ..outputs.files import to_json, write_text
from ..outputs.ledger import Ledger
from ..outputs.ledger_reader import read_past
from ..outputs.report.sink import ReportSink
from ..outputs.review import ReviewSink
from ..outputs.run_folder import CHECKPOINT_FILE, check_resumed, check_run_folder, prepare_run_folder
from ..outputs.sink import NoLedger, Past, RunHeader, Sink, SinkGroup
from ..outputs.snapshots import load_snapshot, snapshot_files
from ..outputs.summary import summarise
from ..outputs.wandb_sink import WandbSink
from ..records.account import Method
from ..records.alert import Alert
from ..records.config import MonitorConfig
from ..records.snapshot import Snapshot
from .run import MonitoredRun
from .together import check_apart, join, watching

logger = logging.getLogger("smda_monitor")
PACKAGES = ("smda-monitor", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "scikit-learn", "wandb")


def start_run(
    config: MonitorConfig,
    model: nn.Module,
    tokenizer: Any,
    args: Any,
    state: Any,
    optimizer: Any,
    dataloader: Any,
    rows: Iterable[Mapping[str, Any]] | None,
    id_column: str,
    clock: Callable[[], float] | None = None,
) -> MonitoredRun:
    """Everything that can be wrong is found, and the first snapshot taken, before the run folder is touched. Of several
    ranks the first alone looks at the folder and writes to it."""
    check_apart(config, state)
    check_trainer_mode(args, config.allow_untested)
    check_sharding(args, model)
    device = next(model.parameters()).device
    ranks = TrainingRanks.joined(device, in_step=is_sharded(model))
    with ranks.agreed():
        unknown = unknown_step(optimizer)
        method: Method = "split" if unknown is None else "replay"
        trained_parameters(model)
        prepared = getattr(dataloader, "dataset", None)
        names = index_rows(prepared, rows, id_column, tokenizer, getattr(args, "max_length", None))
        bench = open_bench(config, model, tokenizer)
        _check_overlap(bench, prepared, tokenizer)
        folder = Path(config.outputs.folder)
        resume = ranks.of_first(_check_folder(folder, bench, args, state) if ranks.first else False)
        # A resumed run goes on with its own policy: the weights have moved since it was fitted.
        instruments = assemble(bench, load_policy(folder / "policy") if resume and ranks.first else None, ranks)
        if ranks.first and (said := apart(os.environ, ranks.count)):
            logger.warning("%s", said)
        if unknown is not None:
            every = "" if config.account.every == 1 else f" (account.every: {config.account.every} is for others)"
            logger.warning("Accounts are made by replay, every step measured without each row%s: %s.", every, unknown)
        if hooks := ", ".join(step_hooks(optimizer)):
            logger.warning("The optimizer's step has hooks (%s): what they change is in no row's figures.", hooks)
        first = ranks.of_first(_first_snapshot(folder, resume) if ranks.first else None)
        clock = clock or device_clock(device)
        run = MonitoredRun(instruments, names, tokenizer, args, state.global_step, first, method, clock)
        _open_run(run, args, state, resume)
    join(state, run)
    return run


def _check_folder(folder: Path, bench: Bench, args: Any, state: Any) -> bool:
    """Whether the run in `folder` is gone on with."""
    resume = state.global_step > 0 and (folder / "manifest.json").exists()
    check_run_folder(folder, bench.config.outputs.exists, resume)
    if resume:
        check_resumed(folder, checkpoint_folder(args, state), _fixed(bench))
    return bool(resume)


def _open_run(run: MonitoredRun, args: Any, state: Any, resume: bool) -> None:
    """The folder, the sinks and what the run did before."""
    ranks, bench, policy = run.instruments.ranks, run.instruments.bench, run.instruments.policy
    folder = Path(bench.config.outputs.folder)
    ledger: Ledger | NoLedger = NoLedger()
    past, others = Past(), list[Sink]()
    if ranks.first:
        aside = prepare_run_folder(folder, bench.config.outputs.exists, resume)
        if aside is not None:
            logger.warning("The earlier run was moved to %s", aside)
        ledger = Ledger(folder, resume=resume)
        ledger.drop_after(state.global_step)
        if not resume:
            save_policy(policy, folder / "policy")
        past = read_past(folder) if resume else past
        others = _others(bench.config, state.max_steps)
    if ranks.count > 1:
        past = ranks.of_first(replace(past, looks=tuple(past.looks)))
    sinks, behaviour = SinkGroup(ledger, others), bench.config.behaviour.name
    manifest = _manifest(run.instruments, args) | {"meant": run.meant}
    sinks.start(RunHeader(folder, bench.probes, policy, manifest, past, behaviour))
    run.open(sinks, ledger, past)


def checkpoint_folder(args: Any, state: Any) -> Path:
    """Where the trainer keeps its checkpoint of the present step."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


def account_ends(args: Any, state: Any) -> bool:
    """Whether an account ends with the coming step however few steps it covers: at the last one, and where the trainer
    saves every so many."""
    step = state.global_step + 1
    saves = args.save_strategy == "steps" and state.save_steps > 0 and step % state.save_steps == 0
    return bool(saves or step == state.max_steps)


def mark_checkpoint(args: Any, state: Any) -> None:
    """Leaves the ids of all runs that watch the training in the checkpoint just saved, so that a resume knows whether a
    run folder is one of its own."""
    folder = checkpoint_folder(args, state)
    if folder.is_dir() and args.should_save:
        ids = [run.ledger.run_id for run in watching(state) if isinstance(run.ledger, Ledger)]
        write_text(folder / CHECKPOINT_FILE, to_json({"runs": ids}))


def finish_run(run: MonitoredRun, step: int) -> list[Alert]:
    """Ends a run in order: last snapshot, feature cards, summary, report. Returns the alerts raised."""
    return run.finish(step, lambda: _summary(run, "finished"))


def abandon_run(run: MonitoredRun, status: str, error: str | None = None) -> None:
    """Ends a run whose model may be unusable: no measurement, but hooks go and the ledger is closed.

    Steps that wait for their account get none; the log says how many.
    """
    run.close()
    run.instruments.ranks.leave()
    if waiting := run.accountant.open_steps:
        numbers = len(waiting), waiting[0].number, waiting[-1].number
        logger.warning("Steps without an account: %d (%d to %d). Their rows are not in the ledger.", *numbers)
    summary = _summary(run, status)
    try:
        run.sinks.finish({**summary, "error": error} if error else summary)
    except (OSError, SMDAError) as failure:
        logger.error("The ledger could not be closed: %s", failure)


def _summary(run: MonitoredRun, status: str) -> dict[str, Any]:
    before, after = run.refusal()
    return summarise(
        run.accounts,
        before=before,
        after=after,
        policy_r2=run.instruments.policy.quality.r2_heldout,
        alerts=len(run.alerts),
        audits=run.auditor.entries,
        seconds=run.seconds,
        overhead=run.pace.report(),
        status=status,
    )


def _others(config: MonitorConfig, max_steps: int) -> list[Sink]:
    """The report before the others, which say where it lies and upload it."""
    sinks: list[Sink] = [ReviewSink(), ReportSink()]
    if config.outputs.wandb:
        sinks.append(WandbSink(config.outputs.row_text))
    return [*sinks, ConsoleSink(max_steps=max_steps)]


def _manifest(instruments: Instruments, args: Any) -> dict[str, Any]:
    bench = instruments.bench
    return {
        "config": bench.config.model_dump(mode="json"),
        "versions": {name: _version(name) for name in PACKAGES},
        "fingerprints": {"model": bench.fingerprints.model, **_fixed(bench)},
        "behaviour": {"openings": bench.reader.behaviour.texts, "left_out": bench.reader.behaviour.left_out},
        "hookpoint": bench.reader.hook,
        "measured_probes": instruments.plan.probe_ids,
        "training": {
            "learning_rate": args.learning_rate,
            "batch_size": args.per_device_train_batch_size,
            "accumulation": args.gradient_accumulation_steps,
            "max_grad_norm": args.max_grad_norm,
            "seed": args.seed,
        },
    }


def _fixed(bench: Bench) -> dict[str, str]:
    """The fingerprints that stay the same while the model trains."""
    found = bench.fingerprints
    return {"dictionary": found.dictionary, "behaviour": found.behaviour, "probes": found.probes}


def _first_snapshot(folder: Path, resume: bool) -> Snapshot | None:
    snapshots = snapshot_files(folder) if resume else {}
    return load_snapshot(snapshots[min(snapshots)]) if snapshots else None


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _check_overlap(bench: Bench, prepared: Any, tokenizer: Any) -> None:
    """Known mistake 9: a training prompt that is also a probe."""
    found = overlapping(bench.probes, bench.encode, prepared, tokenizer)
    if not found:
        return
    names = ", ".join(sorted({probe_id for probe_id, _ in found})[:5])
    message = describe(
        "training data",
        f"{len(found)} prompts that are also probes ({names})",
        "no probe among the training prompts",
        "take them out of one of the two, or set probes.overlap: warn.",
    )
    if bench.config.probes.overlap == "error":
        raise ConfigError(message)
    logger.warning(message)
