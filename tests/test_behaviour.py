"""Behaviours resolved to tokens: the shipped openings, prefix-freeness in tokens, errors, fingerprint."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import tiny

from smda_monitor.errors import ConfigError
from smda_monitor.instruments.behaviour import (
    COMPLIANCE_OPENINGS,
    PAPER_OPENINGS,
    REFUSAL_OPENINGS,
    resolve_behaviour,
)
from smda_monitor.records.config import BehaviourConfig


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny.tiny_tokenizer()


def config(openings: tuple[str, ...] = (), opposite: tuple[str, ...] = ()) -> BehaviourConfig:
    return BehaviourConfig(openings=openings, opposite=opposite)


def starts_an_answer(texts: tuple[str, ...], answer: str) -> bool:
    return any(answer.startswith(text) for text in texts)


def test_the_shipped_refusal_is_prefix_free_and_whole(tokenizer: Any) -> None:
    found = resolve_behaviour(config(), tokenizer, "robust")
    assert found.texts == (*REFUSAL_OPENINGS, *COMPLIANCE_OPENINGS)
    assert found.left_out == ()
    assert found.reading == "mass"
    assert found.tree.n_behaviour == len(REFUSAL_OPENINGS)
    decoded = [tokenizer.decode(list(sequence)) for sequence in found.tree.sequences]
    assert tuple(decoded) == found.texts, "texts stand in the order of the tree"


@pytest.mark.parametrize(
    "answer",
    [
        "Sorry, but no.", "I can't help.", "I can’t help.", "I won't do that.", "I’m not able to.", "I cannot.",
        "It is not ethical to help.", "It would be inappropriate to answer.", "As an AI, I must not.", "I'm sorry.",
    ],
)  # fmt: skip
def test_every_wording_of_a_refusal_is_seen(answer: str) -> None:
    assert starts_an_answer(REFUSAL_OPENINGS, answer)
    assert not starts_an_answer(COMPLIANCE_OPENINGS, answer)


@pytest.mark.parametrize("answer", ["I'd be happy to help.", "I can help.", "Sure thing.", "Here is one."])
def test_help_that_opens_with_i_is_no_refusal(answer: str) -> None:
    assert not starts_an_answer(REFUSAL_OPENINGS, answer)


def test_apostrophes_straight_and_curly_are_different_tokens(tokenizer: Any) -> None:
    found = resolve_behaviour(config(("I can't", "I can’t"), ("Yes",)), tokenizer, "robust")
    straight, curly, _ = found.tree.sequences
    assert straight[:5] == curly[:5]
    assert straight[5:] != curly[5:]


def test_the_paper_preset_reads_its_own_two_openings(tokenizer: Any) -> None:
    found = resolve_behaviour(config(), tokenizer, "paper")
    assert found.texts == (*PAPER_OPENINGS, *COMPLIANCE_OPENINGS)
    assert found.reading == "log_probability"
    mine = resolve_behaviour(config(("Never",)), tokenizer, "paper")
    assert mine.texts == ("Never", *COMPLIANCE_OPENINGS), "the user's own come first in any preset"


def test_what_continues_another_is_left_out_by_name(tokenizer: Any) -> None:
    found = resolve_behaviour(config(("No, never", "No", "No", "Not"), ("Yes", "Yes, of course")), tokenizer, "robust")
    assert found.texts == ("No", "Yes")
    assert found.left_out == ("No, never", "No", "Not", "Yes, of course")


@pytest.mark.parametrize(
    ("openings", "opposite"), [(("No",), ("No problem",)), (("I can't",), ("I",)), (("No",), ("No",))]
)
def test_an_opening_on_both_sides_is_refused(
    tokenizer: Any, openings: tuple[str, ...], opposite: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError, match=r"behaviour: found .*against.*What to do") as error:
        resolve_behaviour(config(openings, opposite), tokenizer, "robust")
    assert openings[0] in str(error.value)
    assert opposite[0] in str(error.value)


@pytest.mark.parametrize("side", ["openings", "opposite"])
def test_an_opening_without_tokens_is_refused(tokenizer: Any, side: str) -> None:
    with pytest.raises(ConfigError, match=rf"behaviour\.{side}: found '', which has no tokens"):
        resolve_behaviour(BehaviourConfig(**{side: ("",)}), tokenizer, "robust")


def test_fingerprint_is_of_tokens_sides_and_reading(tokenizer: Any) -> None:
    base = resolve_behaviour(config(("No", "I can't"), ("Yes", "Ok")), tokenizer, "robust")
    same = resolve_behaviour(
        BehaviourConfig(name="other", openings=("No", "I can't", "No way"), opposite=("Yes", "Ok")), tokenizer, "robust"
    )
    assert same.fingerprint == base.fingerprint, "a name and an opening that adds nothing do not count"
    others = [
        resolve_behaviour(config(("No", "I can’t"), ("Yes", "Ok")), tokenizer, "robust"),
        resolve_behaviour(config(("No",), ("I can't", "Yes", "Ok")), tokenizer, "robust"),
        replace(base, reading="log_probability"),
    ]
    assert len({b.fingerprint for b in [base, *others]}) == 4
    assert len(base.fingerprint) == 16


def test_what_leads_to_the_openings_is_part_of_the_behaviour(tokenizer: Any) -> None:
    plain = resolve_behaviour(config(), tokenizer, "robust")
    led = resolve_behaviour(config().model_copy(update={"lead": "<think></think>"}), tokenizer, "robust")
    assert plain.lead == ()
    assert tokenizer.decode(list(led.lead)) == "<think></think>"
    assert led.tree == plain.tree
    assert led.fingerprint != plain.fingerprint
