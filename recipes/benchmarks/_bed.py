"""The test bed of both benchmarks: a model to tune, its tokenizer, a symbolic policy fitted to it, and rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from _prompts import QUICK_FIT, thinned
from _settings import Settings, monitor_config
from _tiny import short, tiny_config, tiny_model, tiny_tokenizer

from smda_monitor.callback import SMDACallback
from smda_monitor.instruments.assemble import open_bench
from smda_monitor.instruments.config_file import load_config
from smda_monitor.instruments.embedded import EMBEDDED, load_model
from smda_monitor.instruments.policy_files import save_policy
from smda_monitor.instruments.products import fast_pass
from smda_monitor.instruments.silence import no_bars
from smda_monitor.outputs.files import to_json, write_text

MODELS = (EMBEDDED, "tiny")
"""What can be benchmarked: the embedded model with the shipped refusing adapter merged into it, or a random one."""
RANK = 8
"""Of LoRA on all linear layers."""
LEARNT_EPOCHS = 3
"""Over the rows that a model has learnt before."""
LEARNT_RATE = 5e-4
"""At which."""
BED_FILE = "bed.json"
"""What a folder says of the test bed in it."""


@dataclass(frozen=True, slots=True)
class Bed:
    """What all runs of a benchmark share."""

    name: str
    """One of `MODELS`."""
    folder: Path
    """Everything written goes below it."""
    config: dict[str, Any]
    """The monitor's configuration, its policy fitted to this model and saved."""
    tokenizer: Any
    """The model's."""
    seed: int
    """Of LoRA's start and of the trainer."""

    def model(self, part: str) -> Any:
        """A fresh model in float32 whose LoRA matrices (`part` ``lora``) or all of whose weights (``full``) train."""
        model = load_model(str(self.folder / "model"))[0]
        if part == "full":
            return model.requires_grad_(True)
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(self.seed)
        lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
        return get_peft_model(model, lora)

    def monitor(self, settings: Settings, run: str, rows: Any = None) -> SMDACallback:
        """The callback with `settings`, writing into the folder `run`."""
        return SMDACallback(monitor_config(self.config, settings, self.folder / run), rows=rows)

    def trainer(self, model: Any, rows: Any, callbacks: Sequence[Any], **arguments: Any) -> Any:
        """TRL's SFTTrainer on the CPU in float32: its default fused AdamW, a constant rate, no checkpointing."""
        from transformers import PrinterCallback
        from trl import SFTConfig, SFTTrainer

        known: dict[str, Any] = {
            "output_dir": str(self.folder / "trainer"),
            "bf16": False,
            "use_cpu": True,
            "activation_checkpointing": False,
            "lr_scheduler_type": "constant",
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "logging_strategy": "no",
            "seed": self.seed,
        }
        trainer = SFTTrainer(
            model,
            args=SFTConfig(**{**known, **arguments}),
            train_dataset=rows,
            processing_class=self.tokenizer,
            callbacks=list(callbacks),
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    def demo_rows(self) -> Any:
        """The demo's rows as prompt and completion, cut to some words for the tiny model."""
        return _numbered([(self._cut(row["prompt"]), self._cut(row["response"])) for row in demo_lines()])

    def long_rows(self, count: int, tokens: int) -> Any:
        """`count` rows of at least `tokens` tokens, so that ``max_length=tokens`` makes all equally long: answers of
        the demo behind one another."""
        found, answers = [], [self._cut(row["response"]) for row in demo_lines()]
        for i in range(count):
            prompt, answer, at = self._cut(demo_lines()[i % len(answers)]["prompt"]), "", i
            while len(self.tokenizer(answer).input_ids) < tokens:
                answer, at = f"{answer} {answers[at % len(answers)]}", at + 1
            found.append((prompt, answer))
        return _numbered(found)

    def _cut(self, text: str) -> str:
        return short(text) if self.name == "tiny" else text


def make_bed(name: str, folder: Path, seed: int = 0, learnt: Any = None, quick: bool = False) -> Bed:
    """The test bed of model `name`, in `folder`: the policy is fitted once, to the model that every run starts from.
    With `learnt`, a data set, it has been trained on these rows before (`LEARNT_EPOCHS`). A `quick` one's
    policy is fitted to fewer prompts (`QUICK_FIT`).

    One that is there already, for the same `seed`, is used again.
    """
    if (folder / BED_FILE).is_file() and (there := open_bed(folder)).name == name and there.seed == seed:
        return there
    model, tokenizer = _base(name)
    if learnt is not None:
        model = _after(model, tokenizer, learnt, folder, seed)
    fitted: dict[str, Any] = {"policy": {"path": "fit", "bootstrap": 0}}
    if quick:
        fitted["probes"] = thinned(folder / "prompts", QUICK_FIT)
    config = {**(tiny_config(folder / "tiny", seed) if name == "tiny" else fitted), "seed": seed}
    policy = open_bench(load_config(monitor_config(config, Settings(), folder / "fit")), model, tokenizer).fit()
    save_policy(policy, folder / "policy")
    with no_bars():
        model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    config["policy"] = {"path": str(folder / "policy")}
    write_text(folder / BED_FILE, to_json({"name": name, "config": config, "seed": seed}))
    return open_bed(folder)


def open_bed(folder: Path) -> Bed:
    """The test bed that `make_bed` left in `folder`, also in another process."""
    from transformers import AutoTokenizer

    found = json.loads((folder / BED_FILE).read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(str(folder / "model"))
    return Bed(found["name"], folder, found["config"], tokenizer, found["seed"])


def _base(name: str) -> tuple[Any, Any]:
    """(model, tokenizer), before anything is put on top."""
    if name == "tiny":
        return tiny_model(), tiny_tokenizer()
    model, tokenizer = load_model(name, "shipped")
    return model.merge_and_unload(), tokenizer


def _after(model: Any, tokenizer: Any, rows: Any, folder: Path, seed: int) -> Any:
    """`model` with what LoRA learns of `rows` merged into it."""
    with no_bars():
        model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    before = Bed(EMBEDDED, folder, {}, tokenizer, seed)
    tuned = before.model("lora")
    arguments = {"per_device_train_batch_size": 8, "learning_rate": LEARNT_RATE, "num_train_epochs": LEARNT_EPOCHS}
    with fast_pass(torch.device("cpu")):
        before.trainer(tuned, rows, [], **arguments).train()
    return tuned.merge_and_unload().eval()


def demo_lines() -> list[dict[str, Any]]:
    """The shipped demo rows."""
    text = files("smda_monitor").joinpath("data", "demo_rows.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def conversations(rows: Iterable[tuple[str, str, str]]) -> Any:
    """A data set of rows of (id, prompt, answer), as a trainer gets them."""
    from datasets import Dataset

    return Dataset.from_list(
        [
            {
                "id": row_id,
                "prompt": [{"role": "user", "content": prompt}],
                "completion": [{"role": "assistant", "content": answer}],
            }
            for row_id, prompt, answer in rows
        ]
    )


def _numbered(pairs: Sequence[tuple[str, str]]) -> Any:
    return conversations((f"row-{i}", prompt, answer) for i, (prompt, answer) in enumerate(pairs))
