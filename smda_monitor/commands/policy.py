"""`smda policy --config FILE`: the symbolic policy laid open, on the configured model, without training."""

from __future__ import annotations

from pathlib import Path

from ..instruments.assemble import Instruments, assemble, open_bench
from ..instruments.config_file import load_config
from ..instruments.embedded import load_model
from ..instruments.feature_cards import CARDS, feature_card
from ..instruments.plan_pass import measure_set
from ..instruments.probe_files import read_probes
from ..maths.by_kind import are_harmful
from ..maths.coefficients import ranked_coefficients
from ..maths.gaps import category_gaps
from ..maths.policy_fidelity import heldout_fidelity
from ..maths.threshold import Scale
from ..maths.watched import leading_features
from ..outputs.findings_folder import check_findings_folder, write_findings
from ..outputs.policy_report import print_policy
from ..outputs.report import write_report
from ..records.policy_findings import PolicyFindings


def run_policy(config_path: str | Path, folder: str | Path, json_file: str | Path | None = None) -> int:
    """Loads the configured model, its dictionary, probes and policy, measures the probes and the held-out prompts,
    prints what was found and writes it into `folder`, with a page for people, and as JSON to `json_file` too.

    Returns 0. Raises `ConfigError` or `PrerequisiteError` as a training run would before its first step, and
    `ConfigError` where `folder` holds anything but earlier findings or a file cannot be written.
    """
    config = load_config(config_path)
    check_findings_folder(folder, json_file)
    model, tokenizer = load_model(config.model.name, config.model.adapter, config.model.dtype)
    findings = _findings(assemble(open_bench(config, model, tokenizer)))
    print_policy(findings)
    for path in (*write_findings(findings, folder, json_file), write_report(folder)):
        print(path)
    return 0


def _findings(instruments: Instruments) -> PolicyFindings:
    bench, policy = instruments.bench, instruments.policy
    config, behaviour = bench.config, bench.reader.behaviour
    heldout = read_probes(config.probes.heldout, "heldout")
    probes, judged = (measure_set(instruments, prompts, 0) for prompts in (bench.probes, heldout))
    scale = _scale(instruments)
    fidelity = heldout_fidelity(policy, judged.X, judged.y, scale.threshold, config.seed)
    gaps = category_gaps(policy, bench.probes, probes.X, probes.y, scale, config.seed, config.behaviour.wanted_on)
    column = {feature: k for k, feature in enumerate(policy.feature_ids)}
    named = [column[c.feature] for gap in gaps for c in gap.features]
    shown = dict.fromkeys([*leading_features(policy, CARDS), *named])
    return PolicyFindings(
        facts={
            "model": f"{config.model.name}, fingerprint {bench.fingerprints.model}",
            "behaviour": f"{behaviour.name}; y is {behaviour.reading}",
            "read at": f"{bench.reader.hook}, {config.dictionary.position}, gate {bench.reader.gate}",
            "policy": f"preset {policy.preset}, {len(policy.feature_ids)} features, alpha {policy.alpha:g}, "
            f"{'with' if policy.has_intercept else 'no'} intercept, fitted on {len(policy.fit_ids)} prompts, "
            f"the {len(bench.probes)} probes among them",
        },
        behaviour=behaviour.name,
        reading=behaviour.reading,
        limit=scale.limit,
        fidelity=fidelity,
        coefficients=ranked_coefficients(policy),
        gaps=gaps,
        cards=tuple(feature_card(instruments, probes, k, bench.tokenizer) for k in shown),
    )


def _scale(instruments: Instruments) -> Scale:
    """From those prompts of the policy's fit set whose kind is known: a loaded policy may have been fitted on prompts
    that the configuration does not name; the probes are always known."""
    bench, policy = instruments.bench, instruments.policy
    known = {p.id: p for p in (*read_probes(bench.config.probes.fit, "fit"), *bench.probes)}
    rows = [i for i, name in enumerate(policy.fit_ids) if name in known]
    harmful = are_harmful(known[policy.fit_ids[i]] for i in rows)
    return Scale.of(bench.reader.behaviour.reading, policy.y[rows].double(), harmful)
