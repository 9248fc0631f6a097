"""Reference answers that do and do not show a behaviour, and their hidden states."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, describe
from ..maths.answers import answer_mean
from .causal import inner_causal
from .hookpoint import ResidualTap
from .products import fast_products
from .quiet import quiet
from .sharded import entrance, run_to_hookpoint


@dataclass(frozen=True, slots=True)
class ReferenceAnswers:
    """Answers that do and do not show a behaviour, as their prompts call for it or against that."""

    rows: tuple[tuple[str, str], ...]
    """(prompt, response) of every row."""
    shows: tuple[bool, ...]
    """Whether the response shows the behaviour."""
    asked: tuple[bool, ...]
    """Whether the prompt calls for it."""


_SHIPPED = {
    "shipped": ("refuser_rows.jsonl", "crossed_answers.jsonl"),
    "shipped:stereotype": ("stereotype_answers.jsonl",),
}
"""The shipped files, by the words that name them. The crossed answers go against their prompts, some harmful ones
granted (without content) and some harmless ones refused: else an answer that speaks of harm would read as a refusal."""


def read_reference_answers(source: str) -> ReferenceAnswers:
    """``shipped``, ``shipped:stereotype`` or a JSONL file with prompt, response and kind; kind ``harmful`` means that
    the behaviour shows. A row may have, in place of a prompt, ``of``: the id of an earlier row whose prompt it answers
    too, against what that calls for; without it a row does what its prompt calls for.

    Raises `ConfigError` where the file is missing, a line is not such a row, or all rows are of one sort.
    """
    shipped = [files("smda_monitor").joinpath("data", name) for name in _SHIPPED.get(source, ())]
    earlier: dict[str, tuple[str, bool]] = {}
    rows, shows, asked = [], [], []
    try:
        for path in shipped or [Path(source).expanduser()]:
            for line in path.read_text("utf-8").splitlines():
                row = json.loads(line)
                show = row["kind"] == "harmful"
                prompt, calls = earlier[row["of"]] if "of" in row else (str(row["prompt"]), show)
                earlier[str(row.get("id"))] = prompt, calls
                rows.append((prompt, str(row["response"])))
                shows.append(show)
                asked.append(calls)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(describe(f"behaviour.answers {source}", error, "a JSONL file", "check the path")) from error
    except (ValueError, KeyError, TypeError) as error:
        expected = "prompt, response and kind in each line"
        found = f"line {len(shows) + 1}: {type(error).__name__}: {error}"
        raise ConfigError(describe(f"behaviour.answers {source}", found, expected, "mend the line")) from error
    if len(set(shows)) < 2:
        found = f"{len(rows)} rows of one sort"
        expected = "rows with kind 'harmful' and others"
        raise ConfigError(describe(f"behaviour.answers {source}", found, expected, "add the other sort"))
    return ReferenceAnswers(tuple(rows), tuple(shows), tuple(asked))


@torch.no_grad()
def reference_means(
    model: nn.Module, tokenizer: Any, hook: str, rows: Sequence[tuple[str, str]], batch_size: int = 16
) -> Tensor:
    """(n, d_in) mean residual stream over the answers of `rows`, tokenised as a trainer does with the chat template;
    float64 on the CPU. Forwards end at the hookpoint, rows of alike lengths together."""
    causal = inner_causal(model)
    into, device = entrance(model, causal), next(causal.parameters()).device
    tokens = [_tokens(tokenizer, prompt, response) for prompt, response in rows]
    order = sorted(range(len(rows)), key=lambda i: len(tokens[i][0]))
    means = []
    with quiet(model), fast_products(), ResidualTap(model, hook) as tap:
        for start in range(0, len(order), batch_size):
            ids, mask, answer = _batch([tokens[i] for i in order[start : start + batch_size]], tokenizer.pad_token_id)
            inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
            forward = partial(into, **inputs, use_cache=False, logits_to_keep=1)
            means.append(answer_mean(run_to_hookpoint(tap, causal, forward).float(), answer.to(device)).double().cpu())
    return torch.cat(means)[torch.tensor(order).argsort()]


def _tokens(tokenizer: Any, prompt: str, response: str) -> tuple[list[int], int]:
    """The ids of a row, and where its answer begins."""

    def ids(messages: list[dict[str, str]], generation: bool) -> list[int]:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    user, reply = {"role": "user", "content": prompt}, {"role": "assistant", "content": response}
    return ids([user, reply], False), len(ids([user], True))


def _batch(rows: Sequence[tuple[list[int], int]], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Right-padded ids, their mask, and which tokens are the answer."""
    shape = (len(rows), max(len(whole) for whole, _ in rows))
    ids, mask = torch.full(shape, pad), torch.zeros(shape, dtype=torch.long)
    answer = torch.zeros(shape, dtype=torch.bool)
    for i, (whole, cut) in enumerate(rows):
        ids[i, : len(whole)], mask[i, : len(whole)] = torch.tensor(whole), 1
        answer[i, cut : len(whole)] = True
    return ids, mask, answer
