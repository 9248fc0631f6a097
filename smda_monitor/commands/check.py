"""`smda check CONFIG`: resolves everything on the configured model and measures once, without training."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from ..instruments.assemble import Instruments, assemble, open_bench
from ..instruments.config_file import load_config
from ..instruments.embedded import load_model
from ..instruments.plan_pass import measure_set
from ..maths.by_kind import readings_by_kind
from ..maths.intent import intent_in_words, intents
from ..outputs.check_report import CheckFindings, print_findings
from ..outputs.json_file import check_json_file, write_json_file
from ..outputs.run_folder import check_run_folder
from ..records.snapshot import Snapshot


def run_check(config_path: str | Path, json_file: str | Path | None = None) -> int:
    """Loads the configured model, its dictionary, probes and policy, measures the probe set and prints what was found;
    where a file is named, it is written to `json_file` too.

    Returns 0. Raises `ConfigError` or `PrerequisiteError`, as a training run would before its first step.
    """
    config = load_config(config_path)
    check_json_file(json_file)
    model, tokenizer = load_model(config.model.name, config.model.adapter, config.model.dtype)
    check_run_folder(config.outputs.folder, config.outputs.exists)
    instruments = assemble(open_bench(config, model, tokenizer))
    findings = _findings(instruments, measure_set(instruments, instruments.bench.probes, 0))
    print_findings(findings)
    write_json_file(json_file, asdict(findings))
    return 0


def _findings(instruments: Instruments, snapshot: Snapshot) -> CheckFindings:
    bench, policy = instruments.bench, instruments.policy
    behaviour = bench.reader.behaviour
    n, asked = behaviour.tree.n_behaviour, bench.config.alerts.intent
    intent = intents(asked, bench.config.behaviour.wanted_on, bench.probes, policy.feature_ids)
    return CheckFindings(
        facts={
            "model": f"{bench.config.model.name}, fingerprint {bench.fingerprints.model}",
            "probes": f"{len(bench.probes)} (fingerprint {bench.probes.fingerprint}), "
            f"{len(instruments.plan.chosen)} measured at each step",
            "behaviour": f"{behaviour.name}: {n} openings against {len(behaviour.texts) - n}; y is {behaviour.reading}",
            "left out": ", ".join(behaviour.left_out) or "nothing",
            "dictionary": f"{bench.reader.dictionary.architecture}, {bench.reader.dictionary.d_sae} features "
            f"(fingerprint {bench.reader.dictionary.fingerprint})",
            "read at": f"{bench.reader.hook}, {bench.config.dictionary.position}, gate {bench.reader.gate}",
            "intent": intent_in_words(behaviour.name, intent, bench.config.alerts),
            "health": f"FVU {snapshot.health.fvu:.3f}, L0 {snapshot.health.l0:.1f}, "
            f"silent on these probes {snapshot.health.dead:.1%}",
            "policy": f"preset {policy.preset}, {len(policy.feature_ids)} features, alpha {policy.alpha:g}, "
            f"{'with' if policy.has_intercept else 'no'} intercept",
            "R² held out": f"{policy.quality.r2_heldout:.3f} (constant baseline {policy.quality.r2_constant:.3f}) "
            f"on {policy.quality.n_heldout} prompts",
        },
        figures={
            "probes": len(bench.probes),
            "probes_per_step": len(instruments.plan.chosen),
            "features": len(policy.feature_ids),
            "alpha": policy.alpha,
            "r2_heldout": policy.quality.r2_heldout,
            "r2_constant": policy.quality.r2_constant,
            "fvu": snapshot.health.fvu,
            "l0": snapshot.health.l0,
            "silent": snapshot.health.dead,
        },
        refusal=readings_by_kind(snapshot, bench.probes)[0],
    )
