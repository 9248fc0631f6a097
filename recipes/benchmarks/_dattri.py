"""dattri-llm's online scoring of one target in the same training, where that library is installed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

from smda_monitor.instruments.assemble import Bench


def installed() -> bool:
    """Whether dattri-llm can be imported."""
    return find_spec("dattri_llm") is not None


@contextmanager
def scored(model: nn.Module, bench: Bench, count: int) -> Iterator[None]:
    """Inside, dattri-llm scores every row of every step by its gradient's dot with a fresh gradient of one target, the
    mean log-probability of the first refusal opening's first token over `count` probes; no row is dropped.
    """
    from dattri_llm import DataSelectionCallback, HookManager, HookManagerConfig

    tokenizer = bench.tokenizer
    prompts = [list(bench.encode(probe.prompt).ids) for probe in bench.probes.probes[:count]]
    batch = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    token = tokenizer(bench.reader.behaviour.texts[0], add_special_tokens=False).input_ids[0]

    def target(model: Any, batch: Any) -> Tensor:
        logits = model(**batch).logits[:, -1].float()
        value: Tensor = -logits.log_softmax(-1)[:, token].mean()
        return value

    callback = DataSelectionCallback(
        model,
        target="val_loader",
        val_loader=[dict(batch)],
        val_loss_fn=target,
        selection_kwargs={"threshold": float("-inf")},
    )
    hooks = HookManager(model, config=HookManagerConfig(linear_io=[r"lora_[AB]"]), callbacks=[callback])
    with hooks.collect(deregister_on_exit=True), warnings.catch_warnings():
        # Its hook on the first layer, whose input needs no gradient, is called all the same; torch warns of that.
        warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
        yield
