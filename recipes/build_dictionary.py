"""Builds the shipped dictionary: chooses the layer by measurement, then trains a BatchTopK autoencoder there.

    python recipes/build_dictionary.py [--data FILE.jsonl] [--layer auto] [--out FOLDER] [--seed 0]

Reads the embedded model with the shipped refusing adapter on the project's prompts and on the model's own sampled
answers, trains with sae-lens, saves as JumpReLU in sae-lens format and half precision, and writes the card with FVU,
L0 and dead features on the held-out prompts. About 25 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from _activations import read_position, token_activations, training_prompts
from _cards import SHIPPED, header, table
from torch import Tensor

from smda_monitor.instruments.behaviour import resolve_behaviour
from smda_monitor.instruments.chat import prompt_tokens
from smda_monitor.instruments.dictionary_files import read_dictionary
from smda_monitor.instruments.embedded import load_model
from smda_monitor.instruments.hookpoint import decoder_layers
from smda_monitor.instruments.probe_files import read_probes
from smda_monitor.instruments.read_behaviour import read_behaviour
from smda_monitor.maths.gates import average_threshold
from smda_monitor.maths.health import dictionary_health
from smda_monitor.maths.ridge import choose_alpha, fit_ridge, predict, r_squared
from smda_monitor.records.config import BehaviourConfig

TOLERANCE = 0.02
"""The earliest layer is taken whose held-out R² is within this of the best."""


def layer_table(model: Any, tokenizer: Any) -> list[tuple[int, float]]:
    """(layer, held-out R² of a Ridge from its residual stream at the read position to the log-odds of refusal)."""
    behaviour = resolve_behaviour(BehaviourConfig(), tokenizer, "robust")
    fit = [*read_probes("shipped"), *read_probes("shipped", "fit")]
    held = list(read_probes("shipped", "heldout"))
    prompts = [prompt_tokens(tokenizer, p.prompt, "last_prompt_token") for p in [*fit, *held]]
    y = read_behaviour(model, behaviour, prompts, tokenizer.pad_token_id).mass
    count = len(decoder_layers(model)[1])
    hooks = [f"blocks.{layer}.hook_resid_post" for layer in range(count)]
    hidden = read_position(model, prompts, tokenizer.pad_token_id, hooks).double()
    rows = []
    for layer in range(count):
        X = hidden[:, layer]
        X = X / X[: len(fit)].norm(dim=1).mean()
        alpha = choose_alpha(X[: len(fit)], y[: len(fit)])
        policy = fit_ridge(X[: len(fit)], y[: len(fit)], alpha, intercept=True)
        rows.append((layer, r_squared(y[len(fit) :], predict(policy, X[len(fit) :]))))
    return rows


def batches(tokens: Tensor, read: Tensor, size: int, read_share: float, seed: int) -> Iterator[Tensor]:
    """Endless random batches of float32 activations, `read_share` of each from read positions."""
    generator = torch.Generator().manual_seed(seed)
    n_read = int(size * read_share)
    while True:
        some = torch.randint(len(tokens), (size - n_read,), generator=generator)
        special = torch.randint(len(read), (n_read,), generator=generator)
        yield torch.cat([tokens[some].float(), read[special]])


def train(tokens: Tensor, read: Tensor, args: argparse.Namespace, hook: str, folder: Path) -> None:
    """Trains with sae-lens and saves JumpReLU weights in half precision to `folder`."""
    from sae_lens import SAETrainer
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from safetensors.torch import load_file, save_file

    torch.manual_seed(args.seed)
    sae = BatchTopKTrainingSAE(
        BatchTopKTrainingSAEConfig(
            d_in=tokens.shape[1],
            d_sae=args.features,
            k=args.k,
            dtype="float32",
            device="cpu",
            normalize_activations="expected_average_only_in",
            apply_b_dec_to_input=True,
        )
    )
    sae.cfg.metadata.hook_name = hook
    sae.cfg.metadata.model_name = "HuggingFaceTB/SmolLM2-135M-Instruct"
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=args.steps * args.batch,
            train_batch_size_samples=args.batch,
            lr=args.lr,
            lr_end=args.lr / 10,
            lr_warm_up_steps=args.steps // 20,
            lr_decay_steps=args.steps // 4,
            device="cpu",
            dead_feature_window=200,
            n_batches_for_norm_estimate=20,
            logger=LoggingConfig(log_to_wandb=False),
        ),
        sae,
        batches(tokens, read, args.batch, args.read_share, args.seed),
    )
    trainer.fit().save_inference_model(folder)
    weights = folder / "sae_weights.safetensors"
    save_file({k: v.half().contiguous() for k, v in load_file(weights).items()}, weights)
    config = json.loads((folder / "cfg.json").read_text())
    config["device"] = "cpu"
    (folder / "cfg.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


@torch.no_grad()
def calibrate(folder: Path, read: Tensor, k: float) -> None:
    """Sets the one threshold of all features so that k of them are on, on average, at the read positions `read` of the
    training prompts: that is where the monitor reads."""
    from safetensors.torch import load_file, save_file

    weights = folder / "sae_weights.safetensors"
    tensors = load_file(weights)
    z = read_dictionary(folder).pre_activations(read)
    threshold = average_threshold(z, round(k))
    save_file({**tensors, "threshold": torch.full_like(tensors["threshold"], threshold)}, weights)


def judge(model: Any, tokenizer: Any, folder: Path, hook: str) -> list[list[str]]:
    """Health by the native encoder on the held-out prompts: at the read position and on all tokens but the first."""
    dictionary = read_dictionary(folder)
    prompts = [prompt_tokens(tokenizer, p.prompt, "last_prompt_token") for p in read_probes("shipped", "heldout")]
    tokens, read = token_activations(model, tokenizer, prompts, hook, 1, 1, 0)
    answers, _ = token_activations(model, tokenizer, prompts, hook, 32, 1, 0)
    rows = []
    for name, hidden in (("read position", read), ("prompt tokens", tokens), ("prompts and answers", answers)):
        active = dictionary.native(hidden.float())
        health = dictionary_health(hidden.float(), dictionary.decode(active, hidden.float()), active > 0)
        rows.append([name, str(len(hidden)), f"{health.fvu:.4f}", f"{health.l0:.1f}", f"{health.dead:.1%}"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=SHIPPED / "dictionary", help="folder of the dictionary and its card"
    )
    parser.add_argument("--data", type=Path, help="more prompts: JSONL with a `prompt` column")
    parser.add_argument("--layer", default="auto", help="a block's number, or auto: chosen by measurement")
    parser.add_argument("--features", type=int, default=2304)
    parser.add_argument("--k", type=float, default=64, help="mean number of active features")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--read-share", type=float, default=0.25, help="part of each batch from read positions")
    parser.add_argument("--rounds", type=int, default=2, help="sampled answers per prompt")
    parser.add_argument("--new-tokens", type=int, default=40, help="tokens per answer, at most")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model, tokenizer = load_model("smollm2-135m-instruct", "shipped")
    layers = layer_table(model, tokenizer)
    best = max(r2 for _, r2 in layers)
    chosen = next(layer for layer, r2 in layers if r2 >= best - TOLERANCE) if args.layer == "auto" else int(args.layer)
    hook = f"blocks.{chosen}.hook_resid_post"
    print("\n".join(f"layer {layer}: R² {r2:.3f}" for layer, r2 in layers), f"\nchosen: {hook}", sep="\n")
    texts = training_prompts(args.data)
    prompts = [prompt_tokens(tokenizer, text, "last_prompt_token") for text in texts]
    tokens, read = token_activations(model, tokenizer, prompts, hook, args.new_tokens, args.rounds, args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    train(tokens, read, args, hook, args.out)
    calibrate(args.out, read, args.k)
    write_card(args, layers, hook, len(tokens), judge(model, tokenizer, args.out, hook))


def write_card(
    args: argparse.Namespace, layers: list[tuple[int, float]], hook: str, n_tokens: int, health: list[list[str]]
) -> None:
    """README.md of the dictionary."""
    chosen = [[str(layer), f"{r2:.3f}"] for layer, r2 in layers]
    text = "\n\n".join(
        [
            header(
                "Dictionary for SmolLM2-135M-Instruct with the refusing adapter",
                "recipes/build_dictionary.py",
                args.seed,
            ),
            f"{args.features} features at `{hook}`, trained as BatchTopK (k = {args.k:g}) with sae-lens on {n_tokens} "
            f"tokens, {args.steps} steps of {args.batch}, {args.read_share:.0%} of each batch from read positions; "
            f"saved as JumpReLU in half precision, its threshold set to {args.k:g} active features on average at the "
            "read positions of the training prompts. Data: the project's own prompts (probes, fit prompts, refuser and "
            f"demo rows) and {args.rounds} sampled answers of the model to each; the held-out prompts were not seen.",
            "On the held-out prompts, native encoder (dead: active on none of these tokens):",
            table(["where", "tokens", "FVU", "L0", "dead"], health),
            "Layer chosen as the earliest whose held-out R² of a Ridge from the residual stream to the log-odds of "
            f"refusal lies within {TOLERANCE:g} of the best:",
            table(["layer", "held-out R²"], chosen),
        ]
    )
    (args.out / "README.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
