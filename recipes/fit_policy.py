"""Fits the shipped symbolic policy on the embedded model with the refusing adapter and the shipped dictionary.

    python recipes/fit_policy.py [--config FILE] [--out FOLDER]

Measures the fit set (probes and further prompts) and the held-out prompts, chooses alpha by cross-validation, and
writes the policy (safetensors and JSON) with its card. About 4 minutes on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from _cards import SHIPPED, header, table

from smda_monitor.instruments.assemble import open_bench
from smda_monitor.instruments.config_file import load_config
from smda_monitor.instruments.embedded import load_model
from smda_monitor.instruments.policy_files import save_policy
from smda_monitor.records.policy import SymbolicPolicy

CONFIG = Path(__file__).parent.parent / "configs" / "smollm2-135m-demo.yaml"
LEADING = 10


def card(policy: SymbolicPolicy, hook: str, seed: int) -> str:
    """README.md of the policy."""
    order = policy.coef.abs().argsort(descending=True)[:LEADING].tolist()
    rows = [
        [str(policy.feature_ids[k])] + [f"{float(t[k]):+.3f}" for t in (policy.coef, policy.coef_low, policy.coef_high)]
        for k in order
    ]
    quality = policy.quality
    return "\n\n".join(
        [
            header("Symbolic policy of refusal for SmolLM2-135M-Instruct", "recipes/fit_policy.py", seed),
            f"Preset `{policy.preset}`: Ridge from {len(policy.feature_ids)} features at `{hook}` to the log-odds of "
            f"refusal, alpha {policy.alpha:g} by scikit-learn's cross-validation, "
            f"{'with' if policy.has_intercept else 'no'} intercept, fitted on {len(policy.fit_ids)} prompts.",
            f"R² on {quality.n_heldout} held-out prompts: **{quality.r2_heldout:.3f}**; predicting the fit set's mean: "
            f"{quality.r2_constant:.3f}; on the fit set: {quality.r2_fit:.3f}.",
            "Leading coefficients with 95 % bootstrap intervals over fit prompts:",
            table(["feature", "w", "low", "high"], rows),
            f"Bound to model {policy.fingerprints.model}, dictionary {policy.fingerprints.dictionary}, behaviour "
            f"{policy.fingerprints.behaviour}, probes {policy.fingerprints.probes}.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--out", type=Path, default=SHIPPED / "policy")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    config = load_config(args.config).model_copy(update={"seed": args.seed})
    model, tokenizer = load_model(config.model.name, config.model.adapter)
    bench = open_bench(config, model, tokenizer)
    policy = bench.fit()
    save_policy(policy, args.out)
    text = card(policy, bench.reader.hook, args.seed)
    (args.out / "README.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
