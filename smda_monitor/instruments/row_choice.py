"""Leaves out rows that were read well and still must not be trained on: too long for the model, or probes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from ..errors import ConfigError, describe
from ..records.probes import ProbeSet
from ..records.training_row import LeftOutRow, ProbeRow
from .overlap import LONG
from .probe_files import normalise
from .row_store import ArrowFile, TrainingRows, before_answer, left_out_schema, row_schema, stored, turns, writable

_SHOWN = 10
"""Rows named in one message; the rest are counted."""


def fitting(rows: TrainingRows, tokens: Callable[[Mapping[str, Any]], int], max_length: int | None) -> TrainingRows:
    """`rows` without those of more than `max_length` tokens, which the trainer would cut; all of them where it is None.

    Args:
        rows: What was read.
        tokens: A row of `TrainingRows.data` → its number of tokens as trained on (`token_count`). A `ValueError` of
            it, from a template that refuses the row's roles, leaves the row out with the error's text.
        max_length: Tokens of the longest row that is kept.

    Raises:
        ConfigError: no row fits.
    """
    if max_length is None:
        return rows

    def too_long(row: Mapping[str, Any]) -> str | None:
        try:
            number = tokens(row)
        except ValueError as error:
            return f"cannot be made into tokens: {error}"
        return f"{number} tokens, more than the {max_length} of max_length" if number > max_length else None

    kept = _without(rows, too_long)
    if not len(kept):
        reasons = (f"{one.id!r:.80}: {one.reason}" for one in islice(kept.omitted(), len(rows.left_out), None))
        found = f"{len(rows)} rows, none of which fits ({', '.join(islice(reasons, 3))}, …)"
        remedy = "raise max_length, or shorten the rows"
        raise ConfigError(describe(f"data {rows.source}", found, f"rows of up to {max_length} tokens", remedy))
    return kept


def named_rows(rows: TrainingRows, ids: Collection[str]) -> TrainingRows:
    """The rows of `rows` that are called by `ids`, those of an audit that is gone on from; the others are left out."""
    return _without(rows, lambda row: None if row["id"] in ids else "not judged by the audit")


def token_count(tokenizer: Any) -> Callable[[Mapping[str, Any]], int]:
    """A row of `TrainingRows.data` → tokens of its whole conversation under the tokenizer's chat template.

    The function raises `ValueError` for a row that the template refuses.
    """

    def count(row: Mapping[str, Any]) -> int:
        messages = [{"role": turn.role, "content": turn.content} for turn in turns(row)]
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False)
        except Exception as error:  # a template raises what it was written to raise
            raise ValueError(f"the chat template refuses it ({error})") from error
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    return count


def probe_rows(rows: TrainingRows, probes: ProbeSet) -> Iterator[ProbeRow]:
    """The rows that are also probes, in their order: a message before the answer is a probe's prompt or, for a probe of
    at least `overlap.LONG` words, holds it as whole words; both as `probe_files.normalise` writes them."""
    finder = _Finder(probes)
    for row in rows.data:
        probe_id = finder.find(row)
        if probe_id is not None:
            yield ProbeRow(row["line"], row["id"], probe_id)


def without_probes(rows: TrainingRows, probes: ProbeSet, allow_probes: bool = False) -> TrainingRows:
    """`rows` without those that are also probes: a model trained on a probe is measured on what it learnt by heart.

    Raises:
        ConfigError: there are such rows and `allow_probes` is false, or there are no others.
    """
    finder = _Finder(probes)

    def also_probe(row: Mapping[str, Any]) -> str | None:
        probe_id = finder.find(row)
        return None if probe_id is None else f"its prompt is that of probe {probe_id!r:.80}, or holds it"

    kept = _without(rows, also_probe)
    number = len(rows) - len(kept)
    if number and (not allow_probes or not len(kept)):
        found = [f"row {r.id!r:.80} (probe {r.probe_id!r:.80})" for r in islice(probe_rows(rows, probes), _SHOWN)]
        if number > len(found):
            found.append(f"{number - len(found)} more")
        remedy = "bring rows that are no probes" if allow_probes else "take them out, or leave them out: allow_probes"
        listed = f"{number} of {len(rows)} rows that are also probes: {', '.join(found)}"
        raise ConfigError(describe(f"data {rows.source}", listed, "rows measured on other prompts", remedy))
    return kept


class _Finder:
    """Finds probes in prompts with one look-up a word, however many probes there are."""

    def __init__(self, probes: ProbeSet) -> None:
        self._whole = {normalise(probe.prompt): probe.id for probe in probes}
        self._opening: dict[tuple[str, ...], list[tuple[list[str], str]]] = {}
        for probe in probes:
            words = normalise(probe.prompt).split(" ")
            if len(words) >= LONG:
                self._opening.setdefault(tuple(words[:LONG]), []).append((words, probe.id))

    def find(self, row: Mapping[str, Any]) -> str | None:
        """The id of a probe that stands before the last answer of `row`; None where there is none."""
        for turn in before_answer(row):
            if turn.role != "assistant" and (found := self._within(normalise(turn.content))) is not None:
                return found
        return None

    def _within(self, text: str) -> str | None:
        if text in self._whole:
            return self._whole[text]
        words = text.split(" ")
        for at in range(len(words) - LONG + 1):
            for probe, probe_id in self._opening.get(tuple(words[at : at + LONG]), ()):
                if words[at : at + len(probe)] == probe:
                    return probe_id
        return None


def _without(rows: TrainingRows, reason: Callable[[Mapping[str, Any]], str | None]) -> TrainingRows:
    """`rows` without those for which `reason` gives one; the same object where there is none."""
    with (
        writable(rows.folder),
        ArrowFile(rows.folder, "rows", row_schema(rows.form)) as kept,
        ArrowFile(rows.folder, "left-out", left_out_schema()) as omitted,
    ):
        for earlier in rows.left_out:
            omitted.add(earlier)
        for row in rows.data:
            why = reason(row)
            if why is None:
                kept.add(row)
            else:
                omitted.add(stored(LeftOutRow(row["line"], row["id"], why)))
        if kept.rows == len(rows):
            return rows
        return replace(rows, data=kept.data_set(), left_out=omitted.data_set())
