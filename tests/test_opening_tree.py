"""The opening tree: one worked example, and laws over random prefix-free sets (each opening is walked on its own)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smda_monitor.maths.opening_tree import OpeningTree, build_tree, prefix_free

Sequences = list[tuple[int, ...]]
ANY = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple), min_size=1, max_size=12)


def starts(longer: tuple[int, ...], shorter: tuple[int, ...]) -> bool:
    return longer[: len(shorter)] == shorter


@st.composite
def prefix_free_sets(draw: st.DrawFn) -> tuple[Sequences, Sequences]:
    """(behaviour, opposite), made prefix-free by throwing out in turn, not by the code under test."""
    kept: Sequences = []
    for sequence in draw(ANY):
        if not any(starts(sequence, other) or starts(other, sequence) for other in kept):
            kept.append(sequence)
    cut = draw(st.integers(1, len(kept)))
    return kept[:cut], kept[cut:]


def prefix_of(tree: OpeningTree, position: int) -> tuple[int, ...]:
    """The tokens from the root to a position, by walking up its parents."""
    tokens: list[int] = []
    while position > 0:
        tokens.append(tree.node_tokens[position - 1])
        position = tree.node_parents[position - 1]
    return tuple(reversed(tokens))


def test_worked_example() -> None:
    tree = build_tree([(1, 2), (1, 3, 4)], [(1, 5), (6,), (3, 3)])
    assert tree.sequences == ((1, 2), (1, 3, 4), (1, 5), (6,), (3, 3))
    assert tree.n_behaviour == 2
    assert tree.node_tokens == (1, 3, 3)  # after (), after 1, after ()
    assert tree.node_parents == (0, 1, 0)
    assert tree.node_depths == (1, 2, 1)
    assert tree.edges == ((0, 1), (1, 2), (1, 3), (2, 4), (1, 5), (0, 6), (0, 3), (3, 3))
    assert tree.paths == ((0, 1), (0, 2, 3), (0, 4), (5,), (6, 7))
    assert tree.n_positions == 4
    assert tree.attention().tolist() == [[True, False, False], [True, True, False], [False, False, True]]


def test_one_token_needs_no_inner_node() -> None:
    tree = build_tree([(7,)], [])
    assert tree.n_positions == 1
    assert tree.attention().shape == (0, 0)


@settings(max_examples=60, deadline=None)
@given(prefix_free_sets())
def test_every_opening_is_walked_by_its_path(sets: tuple[Sequences, Sequences]) -> None:
    tree = build_tree(*sets)
    assert tree.sequences == tuple(sets[0] + sets[1])
    assert tree.n_behaviour == len(sets[0])
    for sequence, path in zip(tree.sequences, tree.paths, strict=True):
        walked = [tree.edges[e] for e in path]
        assert tuple(token for _, token in walked) == sequence
        assert [prefix_of(tree, position) for position, _ in walked] == [sequence[:i] for i in range(len(sequence))]
    proper = {s[:i] for s in tree.sequences for i in range(1, len(s))}
    assert {prefix_of(tree, 1 + i) for i in range(len(tree.node_tokens))} == proper
    assert tree.n_positions == 1 + len(proper), "no prefix is fed twice"
    assert len(set(tree.edges)) == len(tree.edges)
    assert {e for path in tree.paths for e in path} == set(range(len(tree.edges)))


@settings(max_examples=60, deadline=None)
@given(prefix_free_sets())
def test_nodes_see_their_ancestors_alone(sets: tuple[Sequences, Sequences]) -> None:
    tree = build_tree(*sets)
    prefixes = [prefix_of(tree, 1 + i) for i in range(len(tree.node_tokens))]
    expected = [[starts(mine, other) for other in prefixes] for mine in prefixes]
    assert tree.attention().tolist() == expected
    assert list(tree.node_depths) == [len(p) for p in prefixes]
    assert all(parent <= i for i, parent in enumerate(tree.node_parents)), "parents come before their children"


@settings(max_examples=100, deadline=None)
@given(ANY)
def test_prefix_free_keeps_what_carries_the_probability(sequences: Sequences) -> None:
    kept = prefix_free(sequences)
    assert kept == sorted(set(kept))
    assert all(sequences.index(sequences[i]) == i for i in kept), "of equals the first"
    chosen = [sequences[i] for i in kept]
    assert not any(starts(a, b) for a in chosen for b in chosen if a is not b)
    assert len(set(chosen)) == len(chosen)
    # Everything left out only continues something kept: the event "the answer starts with one of them" is the same.
    assert all(any(starts(s, c) for c in chosen) for s in sequences)
    assert prefix_free(chosen) == list(range(len(chosen)))
    assert {sequences[::-1][i] for i in prefix_free(sequences[::-1])} == set(chosen), "whatever the order"


@pytest.mark.parametrize(
    ("behaviour", "opposite"),
    [
        pytest.param([], [(1,)], id="no behaviour"),
        pytest.param([()], [(1,)], id="empty opening"),
        pytest.param([(1,)], [(2, 3), ()], id="empty opposite"),
        pytest.param([(1, 2)], [(1, 2, 3)], id="opposite continues"),
        pytest.param([(1, 2, 3)], [(1,)], id="behaviour continues"),
        pytest.param([(1,), (1,)], [], id="twice"),
    ],
)
def test_what_is_no_prefix_free_set_is_refused(behaviour: Sequences, opposite: Sequences) -> None:
    with pytest.raises(ValueError, match=r"at least one token|not prefix-free"):
        build_tree(behaviour, opposite)


def test_the_mask_is_a_tensor_of_bools() -> None:
    assert build_tree([(1, 2, 3)], []).attention().dtype == torch.bool
