"""Training prompts that are also probes: known mistake 9, which makes the monitor measure what was trained on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ..records.probes import ProbeSet
from .chat import PromptTokens, end_of_prompt, generation_prompt
from .probe_files import normalise
from .row_layout import IGNORED, prepared_rows

logger = logging.getLogger("smda_monitor")
LONG = 4
"""Words of a probe that is also looked for inside a longer prompt: behind a system prompt, or in a conversation."""


def overlapping(
    probes: ProbeSet, encode: Callable[[str], PromptTokens], prepared: Any, tokenizer: Any
) -> list[tuple[str, int]]:
    """(probe id, row of the `prepared` data set) for every training prompt that is a probe or, for a probe of at least
    `LONG` words, holds one; compared by `normalise` as the model reads them, the template's marks taken out."""
    texts = prompt_texts(prepared, tokenizer)
    if texts is None:
        logger.warning("The training data cannot be looked through beforehand: whether it holds probes is not known.")
        return []
    known = {normalise(_plain(encode(p.prompt).asked, tokenizer)): p.id for p in probes}
    long = [(f" {normalise(p.prompt)} ", p.id) for p in probes if len(p.prompt.split()) >= LONG]
    found = []
    for row, text in enumerate(map(normalise, texts)):
        inside = f" {text} "
        probe_id = known.get(text) or next((name for prompt, name in long if prompt in inside), None)
        if probe_id is not None:
            found.append((probe_id, row))
    return found


def prompt_texts(prepared: Any, tokenizer: Any) -> list[str] | None:
    """The prompt of every row of a prepared data set, without special tokens; None where its rows cannot be seen.

    The prompt is what stands before the first token that carries loss; where all tokens carry loss, what stands up to
    and including the template's first generation prompt; where there is none either, the whole row.
    """
    columns = getattr(prepared, "column_names", None) or ()
    if "input_ids" not in columns:
        return None
    texts = []
    masks = "completion_mask" if "completion_mask" in columns else "labels" if "labels" in columns else None
    ignored = 0 if masks == "completion_mask" else IGNORED
    opening = generation_prompt(tokenizer)
    for row in prepared_rows(prepared):
        ids = list(row["input_ids"])
        carries = [value != ignored for value in row[masks]] if masks is not None else [True]
        if True in carries:
            ids = ids[: carries.index(True) or end_of_prompt(opening, ids)]
        texts.append(_plain(ids, tokenizer))
    return texts


def _plain(ids: Any, tokenizer: Any) -> str:
    """`ids` as text, with a space in the place of every special token."""
    text: str = tokenizer.decode(list(ids))
    for token in tokenizer.all_special_tokens:
        text = text.replace(token, " ")
    return " ".join(text.split())
