"""What a user would reach for instead to find suspicious rows: scores of rows from their text and answers, by name.

    bm25                    mean BM25 score of the row's text for the harmful probes' words
    phrases                 1 where the answer holds words of refusing (`instruments.decoding.REFUSES`), else 0
    projection_difference   ⟨a_row − a_own, v⟩: a the mean residual stream over an answer, of the row and of the model's
                            own greedy one, v from answers that do not show the behaviour to those that do (difference
                            of means), as persona vectors judge data (2507.21509)
    random                  uniform

Higher is more suspicious. Loss, gradient norm and the maps of `_rivals` are read while the model trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from _planted_rows import Row
from torch import Tensor

from smda_monitor.instruments.decoding import TOKENS, chat_texts, greedy_openings, refuses
from smda_monitor.instruments.reference_answers import read_reference_answers, reference_means

REFERENCES = 120
"""Answers of which the direction is the difference of means, about."""


def bm25(rows: Sequence[Row], probes: Sequence[str]) -> list[float]:
    """Of the rows' prompt and answer, among these rows, for each of `probes` as a query; the mean over probes."""
    import bm25s

    def words(texts: Sequence[str]) -> Any:
        return bm25s.tokenize(list(texts), stopwords="en", show_progress=False)

    index = bm25s.BM25()
    index.index(words([f"{row.prompt} {row.response}" for row in rows]), show_progress=False)
    found = torch.zeros(len(rows), dtype=torch.float64)
    for query in bm25s.tokenize(list(probes), stopwords="en", show_progress=False, return_ids=False):
        found += torch.from_numpy(index.get_scores(query)).double()
    return [float(score) / len(probes) for score in found]


def phrases(rows: Sequence[Row]) -> list[float]:
    """Whether the answer refuses by its words."""
    return [float(refuses(row.response)) for row in rows]


def random_scores(rows: Sequence[Row], seed: int) -> list[float]:
    """Uniform in [0, 1)."""
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(len(rows), generator=draw, dtype=torch.float64).tolist()


def own_answers(model: Any, tokenizer: Any, rows: Sequence[Row]) -> list[str]:
    """The first words of what the model itself answers to the rows' prompts, greedily."""
    return greedy_openings(model, tokenizer, chat_texts(tokenizer, [row.prompt for row in rows]), TOKENS)


def answer_shift(model: Any, tokenizer: Any, hook: str, rows: Sequence[Row], own: Sequence[str]) -> Tensor:
    """(n, d_in) mean states of the answers of `rows` minus those of the model's `own` answers to their prompts."""
    theirs = reference_means(model, tokenizer, hook, [(row.prompt, row.response) for row in rows])
    pairs = [(row.prompt, answer) for row, answer in zip(rows, own, strict=True)]
    return theirs - reference_means(model, tokenizer, hook, pairs)


def projection_difference(model: Any, tokenizer: Any, hook: str, shift: Tensor, reference: str) -> list[float]:
    """Of rows' `shift` (`answer_shift`) along the direction that the answers of `reference` span."""
    known = read_reference_answers(reference)
    spread = slice(None, None, max(1, len(known.rows) // REFERENCES))
    shows = torch.tensor(known.shows[spread])
    states = reference_means(model, tokenizer, hook, known.rows[spread])
    direction = states[shows].mean(0) - states[~shows].mean(0)
    difference: list[float] = (shift @ direction / direction.norm()).tolist()
    return difference
