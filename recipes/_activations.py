"""Residual-stream activations of the project's texts and of the model's own continuations of them."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smda_monitor.instruments.causal import inner_causal
from smda_monitor.instruments.chat import PromptTokens
from smda_monitor.instruments.hookpoint import ResidualTap, decoder_layers
from smda_monitor.instruments.quiet import quiet

TEXTS = ("probe_set.jsonl", "fit_prompts.jsonl", "refuser_rows.jsonl", "demo_rows.jsonl")
"""The shipped files whose prompts may be trained on; the held-out prompts are not among them."""


def training_prompts(extra: Path | None) -> list[str]:
    """Every distinct prompt of the shipped files, and those of `extra` (JSONL with a ``prompt``)."""
    lines: list[str] = []
    for name in TEXTS:
        lines += files("smda_monitor").joinpath("data", name).read_text("utf-8").splitlines()
    if extra is not None:
        lines += extra.read_text("utf-8").splitlines()
    return list(dict.fromkeys(json.loads(line)["prompt"] for line in lines))


@torch.no_grad()
def read_position(model: Any, prompts: list[PromptTokens], pad: int, hooks: list[str]) -> Tensor:
    """(n, hooks, d_in) residual stream of every prompt at its read position, at every hookpoint of `hooks`."""
    parts = []
    with quiet(model), ExitStack() as stack:
        taps = [stack.enter_context(ResidualTap(model, hook)) for hook in hooks]
        for start in range(0, len(prompts), 16):
            chunk = prompts[start : start + 16]
            ids, mask = _left_padded([list(p.ids) for p in chunk], pad)
            inner_causal(model)(
                input_ids=ids, attention_mask=mask, position_ids=_positions(mask), use_cache=False, logits_to_keep=1
            )
            longest = ids.shape[1]
            at = torch.tensor([longest - len(p.ids) + p.read for p in chunk])
            parts.append(torch.stack([tap.take()[torch.arange(len(chunk)), at].float() for tap in taps], dim=1))
    return torch.cat(parts)


@torch.no_grad()
def token_activations(
    model: Any,
    tokenizer: Any,
    prompts: list[PromptTokens],
    hook: str,
    new_tokens: int,
    rounds: int,
    seed: int,
    batch_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """Activations at `hook` of prompt tokens (without the first, whose norm is an outlier) and of sampled answers.

    Returns (all tokens (N, d_in) in half precision, read positions (n, d_in)). The tap stays open while the model
    samples, so that no token is computed twice.
    """
    end = tokenizer.eos_token_id
    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    tokens: list[Tensor] = []
    read: list[Tensor] = []
    clock = time.perf_counter()
    total = rounds * len(prompts)
    try:
        with quiet(model), ResidualTapSeries(model, hook) as series:
            for r in range(rounds):
                for start in range(0, len(prompts), batch_size):
                    chunk = prompts[start : start + batch_size]
                    ids, mask = _left_padded([list(p.ids) for p in chunk], tokenizer.pad_token_id)
                    output = model.generate(
                        input_ids=ids,
                        attention_mask=mask,
                        max_new_tokens=new_tokens,
                        do_sample=True,
                        temperature=1.0,
                        top_p=0.95,
                        pad_token_id=tokenizer.pad_token_id,
                        eos_token_id=end,
                    )
                    prompt_stream, *steps = series.take()
                    first = ids.shape[1] - torch.tensor([len(p.ids) for p in chunk])
                    keep = mask.bool()
                    keep[torch.arange(len(chunk)), first] = False
                    if r == 0:
                        tokens.append(prompt_stream[keep].half())
                        at = first + torch.tensor([p.read for p in chunk])
                        read.append(prompt_stream[torch.arange(len(chunk)), at].float())
                    if steps:
                        answer = output[:, ids.shape[1] : ids.shape[1] + len(steps)]
                        alive = (answer == end).cumsum(1) - (answer == end).long() == 0
                        tokens.append(torch.cat(steps, dim=1)[alive].half())
                    done = r * len(prompts) + start + len(chunk)
                    left = (time.perf_counter() - clock) / done * (total - done)
                    print(f"\ractivations: {done}/{total} answers, {left:.0f} s left ", end="", flush=True)
        print()
    finally:
        torch.set_rng_state(generator_state)
    return torch.cat(tokens), torch.cat(read)


class ResidualTapSeries:
    """Keeps every value that passes a hookpoint, forward after forward, until `take`."""

    def __init__(self, model: Any, hook: str) -> None:
        self._tap = ResidualTap(model, hook)
        self._values: list[Tensor] = []
        _, layers = decoder_layers(model)
        self._last = layers[-1]

    def __enter__(self) -> ResidualTapSeries:
        self._tap.__enter__()
        # After the last block of each forward the tap holds this forward's value.
        self._handle = self._last.register_forward_hook(lambda *_: self._values.append(self._tap.take().clone()))
        return self

    def __exit__(self, *error: Any) -> None:
        self._handle.remove()
        self._tap.__exit__(*error)

    def take(self) -> list[Tensor]:
        """One (batch, tokens, d_in) per forward since the last call."""
        values, self._values = self._values, []
        return values


def _left_padded(sequences: list[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    longest = max(map(len, sequences))
    ids = torch.tensor([[pad] * (longest - len(s)) + s for s in sequences])
    mask = torch.tensor([[0] * (longest - len(s)) + [1] * len(s) for s in sequences])
    return ids, mask


def _positions(mask: Tensor) -> Tensor:
    return (mask.cumsum(1) - 1).clamp(min=0)
