"""Prompts as tokens: the chat template, and the position at which features are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError, PrerequisiteError, describe


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """One prompt, ready for the model to answer."""

    ids: tuple[int, ...]
    """Token ids up to and including the generation prompt and what leads to the answer."""
    read: int
    """Index into `ids` of the token whose residual stream is read."""
    lead: int = 0
    """Tokens at the end of `ids` that stand between the generation prompt and the answer's opening."""

    @property
    def asked(self) -> tuple[int, ...]:
        """`ids` without them."""
        return self.ids[: len(self.ids) - self.lead]


def check_tokenizer(tokenizer: Any) -> None:
    """Raises `PrerequisiteError` where the tokenizer has no chat template or no pad token."""
    name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    if not getattr(tokenizer, "chat_template", None):
        remedy = "set tokenizer.chat_template, or use the model's instruct version."
        raise PrerequisiteError(describe(f"tokenizer {name}", "no chat template", "one", remedy))
    if getattr(tokenizer, "pad_token_id", None) is None:
        remedy = "set tokenizer.pad_token to a token that never carries loss."
        raise PrerequisiteError(describe(f"tokenizer {name}", "no pad token", "one", remedy))


def _render(tokenizer: Any, prompt: str, generation: bool) -> list[int]:
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=generation
    )
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def prompt_tokens(tokenizer: Any, prompt: str, position: str, lead: Sequence[int] = ()) -> PromptTokens:
    """`prompt` as one user turn with the generation prompt and the tokens `lead` behind it, read at `position`.

    ``last_prompt_token`` is the token after which the answer starts; ``last_user_token`` the user's end-of-turn token
    (the paper's): the last token of the turn that is not white space.
    """
    ids = _render(tokenizer, prompt, generation=True)
    if not ids:
        raise ConfigError(describe(f"prompt {prompt!r}", "no tokens", "at least one", "remove it."))
    whole = (*ids, *lead)
    if position == "last_prompt_token":
        return PromptTokens(whole, len(whole) - 1, len(lead))
    turn = _render(tokenizer, prompt, generation=False)
    if ids[: len(turn)] != turn:
        remedy = "use dictionary.position: last_prompt_token with this chat template."
        found = "a generation prompt that rewrites the user's turn"
        raise PrerequisiteError(describe("dictionary.position last_user_token", found, "one appended to it", remedy))
    read = len(turn) - 1
    while read > 0 and not tokenizer.decode([turn[read]]).strip():
        read -= 1
    return PromptTokens(whole, read, len(lead))


def generation_prompt(tokenizer: Any) -> list[int]:
    """The tokens that the chat template appends for the model to answer; [] without a template or such tokens."""
    if not getattr(tokenizer, "chat_template", None):
        return []
    turn = [{"role": "user", "content": "x"}]
    without, complete = (
        tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=asked) for asked in (False, True)
    )
    return list(tokenizer(complete.removeprefix(without), add_special_tokens=False)["input_ids"])


def end_of_prompt(opening: Sequence[int], ids: Sequence[int], last: bool = False) -> int:
    """One past the first place in `ids` where `opening`, the generation prompt, stands, or with `last` past the last
    one; the length of `ids` where it does not, or is empty."""
    part, whole = list(opening), list(ids)
    starts = range(len(whole) - len(part) + 1) if part else range(0)
    places = reversed(starts) if last else starts
    return next((at + len(part) for at in places if whole[at : at + len(part)] == part), len(whole))


def own_prompt(
    ids: Sequence[int], first_label: int, probe: PromptTokens, opening: Sequence[int]
) -> PromptTokens | None:
    """The prompt of a training row, read as `probe` is: the tokens before its last answer, and the probe's lead. The
    answer begins at `first_label` or, where all tokens carry loss, behind the last `opening`, the template's generation
    prompt.

    None where the row has none. The user's end-of-turn token is found by its id, the last one before the answer.
    """
    cut = first_label if first_label > 0 else end_of_prompt(opening, ids, last=True)
    if first_label < 0 or cut >= len(ids):
        return None
    prompt, lead = tuple(ids[:cut]), probe.ids[len(probe.asked) :]
    if lead and prompt[-len(lead) :] == lead:  # the row's own template has put it there
        prompt = prompt[: -len(lead)]
    whole = (*prompt, *lead)
    if probe.read == len(probe.ids) - 1:
        return PromptTokens(whole, len(whole) - 1, len(lead))
    end_of_turn = probe.ids[probe.read]
    if end_of_turn not in prompt:
        return None
    return PromptTokens(whole, len(prompt) - 1 - prompt[::-1].index(end_of_turn), len(lead))
