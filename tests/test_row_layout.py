"""Rows of one sequence, spread to lines, are what they are by themselves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smda_monitor.errors import MeasurementError
from smda_monitor.instruments.row_layout import IGNORED, batch_rows, prepared_rows

LENGTHS = st.lists(st.integers(2, 6), min_size=2, max_size=5)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(0, 3), st.integers(0, 10**6))
def test_law_rows_in_one_sequence_are_those_of_a_padded_batch(lengths: list[int], pads: int, seed: int) -> None:
    """`pads`: what fills the sequence up to a multiple, at position 0 each."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(5, 99, (n,), generator=generator) for n in lengths]
    marks = [torch.where(torch.rand(len(row), generator=generator) < 0.5, row, IGNORED) for row in rows]
    for mark in marks:
        mark[0] = mark[1] if mark[1] == IGNORED else 7  # so that it says what the second token says
    behind = torch.zeros(pads, dtype=torch.int64)
    labels = torch.cat([*marks, behind + IGNORED])
    positions = torch.cat([*map(torch.arange, lengths), behind])
    labels[positions == 0] = IGNORED
    ids = torch.cat([*rows, behind])[None]
    found = batch_rows((ids,), {"labels": labels[None], "position_ids": positions[None]})
    assert found is not None
    assert found.ids is not None
    assert found.labels is not None
    assert found.real.sum(1).tolist() == lengths
    hidden, logits = torch.randn(ids.shape[1], 3, generator=generator), torch.randn(ids.shape[1] - 1)
    lines, predicted = found.layout.spread(hidden[None]), found.layout.before_next.spread(logits[None])
    first = 0
    for i, (n, row, mark) in enumerate(zip(lengths, rows, marks, strict=True)):
        assert torch.equal(found.ids[i][found.real[i]], row)
        assert torch.equal(found.carries[i, :n], mark != IGNORED)
        assert not bool(found.carries[i, n:].any())
        assert torch.equal(lines[i, :n], hidden[first : first + n])
        assert not bool(lines[i, n:].any())
        assert torch.equal(predicted[i, : n - 1], logits[first : first + n - 1])
        assert not bool(predicted[i, n - 1 :].any()), "what the last token predicts is another row's"
        first += n


def test_rows_of_a_padded_batch_are_its_lines() -> None:
    ids, mask = torch.tensor([[5, 6, 7], [8, 9, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    found = batch_rows((), {"input_ids": ids, "attention_mask": mask, "position_ids": torch.tensor([[0, 1, 2]] * 2)})
    assert found is not None
    assert found.layout.lines is None
    assert found.ids is ids
    assert torch.equal(found.real, mask.bool())
    assert torch.equal(found.carries, mask.bool()), "without labels all tokens carry loss"
    assert found.layout.spread(ids) is ids
    assert found.layout.before_next is found.layout
    masked = batch_rows((ids[:1],), {"attention_mask": mask[:1], "position_ids": torch.tensor([[0, 0, 1]])})
    assert masked is not None
    assert masked.layout.lines is None, "padding at the left is none of several rows"
    several = batch_rows((ids,), {"position_ids": torch.tensor([[0, 1, 2]] * 2)})
    assert several is not None
    assert several.layout.lines is None
    assert batch_rows((), {"inputs_embeds": torch.zeros(1, 3, 4)}) is None


def test_a_row_alone_in_its_sequence_gets_its_first_label_back() -> None:
    ids, positions = torch.tensor([[5, 6, 7, 0, 0]]), torch.tensor([[0, 1, 2, 0, 0]])
    found = batch_rows((ids,), {"labels": torch.where(positions == 0, IGNORED, ids), "position_ids": positions})
    assert found is not None
    assert found.ids is not None
    assert found.ids.tolist() == [[5, 6, 7]], "the rest fills the sequence up"
    assert found.carries.tolist() == [[True, True, True]]


def test_heads_before_tokens_and_what_is_no_sequence_of_tokens() -> None:
    found = batch_rows((torch.tensor([[5, 6, 7, 8, 9]]),), {"position_ids": torch.tensor([[0, 1, 0, 1, 2]])})
    assert found is not None
    by_token = torch.randn(1, 5, 2, 3)
    expected = found.layout.spread(by_token)
    assert expected.shape == (2, 3, 2, 3)
    assert torch.equal(found.layout.spread(by_token.transpose(1, 2)), expected)
    for wrong in (by_token[0], by_token[:, :4], by_token[:, :4, 0]):
        with pytest.raises(MeasurementError, match="rows of one sequence: found a tensor of shape"):
            found.layout.spread(wrong)


@pytest.mark.parametrize("lengths", [[[2, 3], [1]], None])
def test_prepared_rows(lengths: list[list[int]] | None) -> None:
    whole = [{"input_ids": [1, 2, 3, 4, 5], "labels": [-100, 2, 3, 4, 5]}, {"input_ids": [6], "labels": [6]}]
    if lengths is None:
        assert list(prepared_rows(whole)) == whole
        return
    packed = [{**row, "seq_lengths": of} for row, of in zip(whole, lengths, strict=True)]
    assert list(prepared_rows(packed)) == [
        {"input_ids": [1, 2], "labels": [-100, 2]},
        {"input_ids": [3, 4, 5], "labels": [3, 4, 5]},
        {"input_ids": [6], "labels": [6]},
    ]
