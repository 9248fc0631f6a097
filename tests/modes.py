"""What people train with SFTTrainer, as a list: each cell is run by `test_modes.py`, and `python tests/modes.py` prints
README's table of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import tiny
import torch
from test_row_modes import ALL, MODES

Rows = Callable[[], Any]
LEAD = "<think></think>"
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
"""Before a chat template."""


@dataclass(frozen=True)
class Cell:
    """One way of training."""

    group: str
    """The table's line."""
    name: str
    """In the table."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of SFTConfig."""
    model: Callable[[], Any] = lambda: tiny.tiny_lora(tiny.tiny_llama(), 0.1)
    """What is trained."""
    rows: Rows = tiny.tiny_rows
    """The training rows."""
    given: Callable[[], Mapping[str, Any]] = dict
    """Further arguments of SFTTrainer."""
    refused: str = ""
    """What the refusal names, as a regular expression; empty where accounts are made."""
    instead: str = ""
    """What to set instead, in the table."""
    arguments: Callable[[Path], Any] | None = None
    """The trainer's arguments, where they alone are looked at: the trainer cannot be made here."""
    held_by: str = ""
    """The test that runs it, where that is no parametrized one of `test_modes.py`."""
    untested: str = ""
    """What it needs that is not here, in the table."""
    late: bool = False
    """Whether it is seen in the first forward alone, before the first step is taken."""
    monitor: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the monitor's behaviour."""
    ends: int = 0
    """The step at which it ends by itself; 0 where it goes through."""
    error: float = 1e-4
    """Bound of the capture's error."""

    def trainer(self, folder: Path, callbacks: list[Any], steps: int) -> Any:
        """The trainer, six rows and more to an epoch."""
        given = dict(self.given())
        callbacks = [*given.pop("callbacks", ()), *callbacks]
        settings = {"max_steps": steps, **self.settings}
        rows, model = self.rows(), self.model()
        return tiny.tiny_trainer(folder, callbacks, rows=rows, model=model, given=given, **settings)


class Offloading(Cell):
    """What the backward needs goes through hooks, as TRL's own do with it where there is an accelerator."""

    def trainer(self, folder: Path, callbacks: list[Any], steps: int) -> Any:
        trainer = super().trainer(folder, callbacks, steps)
        assert hasattr(trainer, "maybe_activation_offload_context")
        trainer.maybe_activation_offload_context = torch.autograd.graph.save_on_cpu()
        return trainer


def text_rows() -> Any:
    from datasets import Dataset

    return Dataset.from_list([{"text": f"a text of its own, number {i} " + "xyz"[i % 3] * (i % 5)} for i in range(24)])


def conversations(turns: int = 1) -> Rows:
    def rows() -> Any:
        from datasets import Dataset

        def turn(i: int, number: int) -> list[dict[str, str]]:
            answer = f"{('No, not that', 'Yes, here')[i % 2]} {i * i + number}"
            return [
                {"role": "user", "content": f"question {i}.{number} " + "xyz"[i % 3] * (i % 5)},
                {"role": "assistant", "content": answer},
            ]

        return Dataset.from_list([{"messages": [m for k in range(turns) for m in turn(i, k)]} for i in range(24)])

    return rows


def thinking() -> Any:
    """Every second answer begins as a model's that thinks does."""

    def changed(row: Any, i: int) -> Any:
        (answer,) = row["completion"]
        return {"completion": [{**answer, "content": (LEAD, "")[i % 2] + answer["content"]}]}

    return tiny.tiny_rows().map(changed, with_indices=True)


def tokenizer(before: str, bos: str | None = None) -> Callable[[], Mapping[str, Any]]:
    """The tiny one with something `before` its template."""

    def given() -> Mapping[str, Any]:
        found = tiny.tiny_tokenizer()
        if bos is not None:
            found.add_special_tokens({"bos_token": bos})
        found.chat_template = before + tiny.CHAT
        return {"processing_class": found}

    return given


def duplicates() -> Any:
    return tiny.tiny_rows(6).select([i % 3 for i in range(24)])


def short() -> Any:
    return tiny.tiny_rows(11)


def streamed() -> Any:
    return tiny.tiny_rows().to_iterable_dataset()


def in_bfloat16() -> Any:
    return tiny.tiny_lora(tiny.tiny_llama().to(torch.bfloat16), 0.1)


def bfloat16_throughout() -> Any:
    return MODES["full, tied"]().to(torch.bfloat16)


def quantised(**how: Any) -> Callable[[], Any]:
    """LoRA on the tiny Llama as bitsandbytes stores it."""

    def model() -> Any:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM, BitsAndBytesConfig

        with TemporaryDirectory() as folder:
            tiny.tiny_llama().save_pretrained(folder)
            auto: Any = AutoModelForCausalLM
            base = auto.from_pretrained(folder, quantization_config=BitsAndBytesConfig(**how), device_map="cpu")
        lora = LoraConfig(r=2, task_type="CAUSAL_LM", init_lora_weights=False, target_modules=ALL)
        return get_peft_model(base, lora)

    return model


def adapted_by(kind: str, **options: Any) -> Callable[[], Any]:
    """The tiny Llama under another of PEFT's methods."""

    def model() -> Any:
        import peft

        config = getattr(peft, kind)(task_type="CAUSAL_LM", **options)
        return peft.get_peft_model(tiny.tiny_llama(), config)  # type: ignore[arg-type]

    return model


def partly_frozen() -> Any:
    model: Any = tiny.tiny_llama().requires_grad_(True)
    model.get_input_embeddings().requires_grad_(False)
    model.model.layers[0].requires_grad_(False)
    return model


def architecture(kind: str, **own: Any) -> Callable[[], Any]:
    """A random model of that kind with LoRA on all its linear layers."""

    def model() -> Any:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.for_model(
            kind, vocab_size=tiny.VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
            num_attention_heads=4, max_position_embeddings=256, pad_token_id=0, bos_token_id=None, eos_token_id=2,
            initializer_range=0.2, **own,
        )  # fmt: skip
        torch.manual_seed(0)
        auto: Any = AutoModelForCausalLM
        lora = LoraConfig(r=2, task_type="CAUSAL_LM", init_lora_weights=False, target_modules="all-linear")
        return get_peft_model(auto.from_config(config).eval(), lora)

    return model


def evaluating() -> Mapping[str, Any]:
    return {"eval_dataset": tiny.tiny_rows(4)}


def early_stopping() -> Mapping[str, Any]:
    from transformers import EarlyStoppingCallback

    stopping = EarlyStoppingCallback(early_stopping_patience=1, early_stopping_threshold=1e9)
    return {"eval_dataset": tiny.tiny_rows(4), "callbacks": [stopping]}


def own_loss() -> Mapping[str, Any]:
    def loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
        return outputs.logits.square().mean()

    return {"compute_loss_func": loss}


def told(**arguments: Any) -> Callable[[Path], Any]:
    """Arguments with nothing else in them."""
    return lambda folder: SimpleNamespace(**arguments)


def other(kind: str) -> Callable[[Path], Any]:
    """Those of another trainer of TRL's."""

    def arguments(folder: Path) -> Any:
        import trl

        return getattr(trl, kind)(output_dir=str(folder), use_cpu=True, bf16=False, report_to="none")

    return arguments


EVALUATED = {"eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "eval_loss"}
GROUPED = {"num_key_value_heads": 2}
DATA, MEMORY, TRAINED, LOSS, AROUND, KINDS, TOKENIZERS, PROCESSES, TRAINERS = (
    "data", "precision and memory", "what trains", "loss", "around the training", "architectures", "tokenizers",
    "processes", "trainers",
)  # fmt: skip
PACKED = {"packing": True, "max_length": 64}
CELLS = (
    Cell(DATA, "prompt and completion"),
    Cell(DATA, "plain text", rows=text_rows),
    Cell(DATA, "conversations", rows=conversations()),
    Cell(DATA, "conversations of several turns", rows=conversations(3)),
    Cell(DATA, "`assistant_only_loss`", {"assistant_only_loss": True}, rows=conversations(2)),
    Cell(DATA, "`completion_only_loss=False`", {"completion_only_loss": False}),
    Cell(DATA, "`packing` by `bfd`", PACKED | {"packing_strategy": "bfd"}),
    Cell(DATA, "`packing` by `bfd_split`", PACKED | {"packing_strategy": "bfd_split", "max_length": 24}),
    Cell(
        DATA,
        "`packing` by `wrapped`",
        PACKED | {"packing_strategy": "wrapped"},
        refused=r"SFTConfig\.packing_strategy",
        instead="`bfd`",
    ),
    Cell(DATA, "`padding_free`", {"padding_free": True, "max_length": None}),
    Cell(DATA, "a streamed data set", rows=streamed),
    Cell(DATA, "workers that prefetch", {"dataloader_num_workers": 1, "dataloader_prefetch_factor": 2}),
    Cell(DATA, "rows grouped by length", {"train_sampling_strategy": "group_by_length"}),
    Cell(DATA, "duplicate rows", rows=duplicates),
    Cell(DATA, "your own row ids", held_by="test_row_identity.py::test_the_users_ids_are_found_by_content"),
    Cell(MEMORY, "fp32"),
    Cell(MEMORY, "`bf16` autocast", {"bf16": True}, error=2e-2),
    Cell(MEMORY, "weights in bfloat16", model=in_bfloat16, error=2e-2),
    Cell(MEMORY, "all that trains in bfloat16", {"learning_rate": 1e-3}, model=bfloat16_throughout, error=2e-2),
    Cell(MEMORY, "checkpointing (reentrant or not)", {"gradient_checkpointing_kwargs": {"use_reentrant": True}}),
    Offloading(MEMORY, "`activation_offloading` (such hooks, on a CPU)"),
    Cell(MEMORY, "bases in 8 bit", model=quantised(load_in_8bit=True), error=2e-2),
    Cell(MEMORY, "bases in 4 bit", model=quantised(load_in_4bit=True, bnb_4bit_quant_type="nf4"), error=2e-2),
    Cell(MEMORY, "`fp16`", {"fp16": True}, refused=r"SFTConfig\.fp16", instead="`bf16`"),
    Cell(MEMORY, "`torch_compile`", {"torch_compile": True}, refused=r"SFTConfig\.torch_compile", instead="off"),
    Cell(
        MEMORY,
        "Liger kernels",
        arguments=told(use_liger_kernel=True),
        refused=r"SFTConfig\.use_liger_kernel",
        instead="off",
    ),
    *(Cell(TRAINED, name, model=MODES[name]) for name in ("LoRA", "rsLoRA", "DoRA")),
    Cell(TRAINED, "AdaLoRA", model=MODES["AdaLoRA"]),
    Cell(TRAINED, "LoRA with biases", model=MODES["every bias"]),
    Cell(TRAINED, "`modules_to_save`", model=MODES["tied embeddings and head"]),
    Cell(TRAINED, "OFT", model=adapted_by("OFTConfig", target_modules=ALL[:2], oft_block_size=4)),
    Cell(TRAINED, "full fine-tuning", {"learning_rate": 1e-4}, model=MODES["full, tied"]),
    Cell(TRAINED, "frozen parts", {"learning_rate": 1e-4}, model=partly_frozen),
    Cell(
        TRAINED,
        "LoRA on embeddings or the head",
        model=lambda: tiny.tiny_lora(tiny.tiny_llama(tied=False), targets=("embed_tokens",)),
        refused=r"embed_tokens\.lora_embedding_A",
        instead="linear layers",
    ),
    *(
        Cell(TRAINED, name, model=adapted_by(kind, **options), refused=refused, instead="LoRA")
        for name, kind, options, refused in (
            ("IA3", "IA3Config", {"target_modules": ALL[:2], "feedforward_modules": []}, "ia3_l"),
            ("VeRA", "VeraConfig", {"target_modules": ALL[:1]}, "vera_lambda"),
            ("LoHa", "LoHaConfig", {"target_modules": ALL[:2], "r": 2}, "hada"),
            ("prompts that train", "PromptTuningConfig", {"num_virtual_tokens": 2}, "prompt"),
        )
    ),
    Cell(
        TRAINED,
        "AdaLoRA with dropout",
        model=adapted_by("AdaLoraConfig", target_modules=ALL[:2], total_step=10, lora_dropout=0.1),
        refused=r"lora_dropout=0\.1",
        instead="`lora_dropout=0`",
    ),
    Cell(LOSS, "TRL's `nll`"),
    Cell(LOSS, "label smoothing", {"label_smoothing_factor": 0.1}, refused="label_smoothing_factor", instead="none"),
    Cell(LOSS, "NEFTune", {"neftune_noise_alpha": 5.0}, refused="neftune_noise_alpha", instead="none"),
    Cell(LOSS, "`dft`", {"loss_type": "dft"}, refused=r"SFTConfig\.loss_type", instead="`nll`"),
    Cell(LOSS, "own `compute_loss_func`", given=own_loss, refused="compute_loss_func", instead="TRL's", late=True),
    Cell(AROUND, "evaluation", {**EVALUATED}, given=evaluating),
    Cell(
        AROUND,
        "`load_best_model_at_end`",
        {**EVALUATED, "load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 2},
        given=evaluating,
    ),
    Cell(
        AROUND,
        "early stopping",
        {**EVALUATED, "load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 1, "eval_steps": 1},
        given=early_stopping,
        ends=2,
    ),
    Cell(AROUND, "accumulation with a short last batch", {"gradient_accumulation_steps": 2}, rows=short),
    Cell(AROUND, "clipping and decay", {"max_grad_norm": 0.1, "weight_decay": 0.1}),
    Cell(AROUND, "any torch optimizer", {"optim": "adafactor"}),
    Cell(AROUND, "several `train()` calls", held_by="test_modes.py::test_train_is_called_twice"),
    Cell(AROUND, "resuming", held_by="test_run_resume.py::test_a_resumed_run_equals_the_unbroken_one"),
    Cell(AROUND, "a second monitor", held_by="test_run_together.py::test_each_monitor_of_two_is_as_it_is_alone"),
    Cell(AROUND, "callbacks that change weights (noticed)", held_by="test_run_outside.py::test_the_account_says_so"),
    Cell(KINDS, "Llama"),
    Cell(KINDS, "Mistral", model=architecture("mistral", **GROUPED)),
    Cell(KINDS, "Qwen 2", model=architecture("qwen2", **GROUPED)),
    Cell(KINDS, "Qwen 3", model=architecture("qwen3", head_dim=8, **GROUPED)),
    Cell(KINDS, "Gemma 2", model=architecture("gemma2", head_dim=8, **GROUPED)),
    Cell(KINDS, "Gemma 3", model=architecture("gemma3_text", head_dim=8, sliding_window=24, **GROUPED)),
    Cell(KINDS, "Phi-3", model=architecture("phi3", **GROUPED)),
    Cell(KINDS, "GPT-2", model=lambda: MODES["every bias, GPT-2"]()),
    Cell(KINDS, "GPT-NeoX", model=architecture("gpt_neox")),
    Cell(TOKENIZERS, "with and without a mark at the start (BOS)", given=tokenizer("{{ bos_token }}", bos="<|bos|>")),
    Cell(TOKENIZERS, "without a system role", given=tokenizer(NO_SYSTEM)),
    Cell(TOKENIZERS, "answers that think first (`behaviour.lead`)", rows=thinking, monitor={"lead": LEAD}),
    Cell(
        TOKENIZERS,
        "without a chat template",
        refused="chat template",
        instead="the instruct model's",
        held_by="test_run_errors.py::test_a_tokenizer_that_cannot_be_used_is_named",
    ),
    Cell(PROCESSES, "one"),
    Cell(
        PROCESSES,
        "several with a copy of the model each (torchrun)",
        held_by="test_run_ranks.py::test_two_ranks_find_what_one_process_finds",
    ),
    Cell(
        PROCESSES,
        "FSDP2",
        arguments=told(fsdp="full_shard"),
        refused=r"SFTConfig\.fsdp",
        untested="refused without `allow_untested: true`",
    ),
    Cell(
        PROCESSES,
        "FSDP1",
        refused="fsdp_config",
        instead="FSDP2",
        held_by="test_trainer_mode.py::test_fsdp_of_the_first_version",
    ),
    Cell(PROCESSES, "DeepSpeed", arguments=told(deepspeed="z.json"), refused=r"SFTConfig\.deepspeed", instead="none"),
    Cell(
        PROCESSES,
        "tensor, context or sequence parallel",
        arguments=told(parallelism_config="tp_size=2"),
        refused="parallelism_config",
        instead="none",
    ),
    Cell(PROCESSES, "several GPUs of one process", arguments=told(n_gpu=2), refused="GPUs each", instead="torchrun"),
    Cell(TRAINERS, "`SFTTrainer`"),
    *(
        Cell(TRAINERS, kind.removesuffix("Config"), arguments=other(kind), refused=kind, instead="`SFTTrainer`")
        for kind in ("DPOConfig", "GRPOConfig", "RewardConfig", "KTOConfig")
    ),
)
"""In the order of the table."""


def table(cells: Iterable[Cell] = CELLS) -> str:
    """The cells as README shows them, by group."""
    cells = list(cells)
    lines = ["| | accounted for | refused by name before the first step | untested |", "|---|---|---|---|"]
    for group in dict.fromkeys(cell.group for cell in cells):
        mine = [cell for cell in cells if cell.group == group]
        accounted = "; ".join(cell.name for cell in mine if not cell.refused and not cell.untested)
        refused = "; ".join(
            f"{cell.name} (instead: {cell.instead})" for cell in mine if cell.refused and not cell.untested
        )
        untested = "; ".join(f"{cell.name} ({cell.untested})" for cell in mine if cell.untested)
        lines.append(f"| {group} | {accounted} | {refused} | {untested} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
