"""The openings of a behaviour and of its opposite as one tree of tokens.

Root = the last prompt token. Only inner nodes are fed to the model: a leaf's probability is read at its parent. An edge
is (position, token): position 0 is the root, position 1 + i is inner node i.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class OpeningTree:
    """A prefix-free set of k openings, the behaviour's first and then the opposite ones."""

    sequences: tuple[tuple[int, ...], ...]
    """Token ids of every opening, k of them."""
    n_behaviour: int
    """How many of the k belong to the behaviour; the rest are opposite."""
    node_tokens: tuple[int, ...]
    """(m,) token of every inner node; parents come before their children."""
    node_parents: tuple[int, ...]
    """(m,) position of every inner node's parent: 0 is the root, 1 + i is inner node i."""
    node_depths: tuple[int, ...]
    """(m,) 1 for a child of the root."""
    edges: tuple[tuple[int, int], ...]
    """(e,) unique (position, token) pairs."""
    paths: tuple[tuple[int, ...], ...]
    """(k,) the edges of every opening, as indices into `edges`."""

    @property
    def n_positions(self) -> int:
        """Positions at which next-token probabilities are read: the root and the m inner nodes."""
        return 1 + len(self.node_tokens)

    @property
    def behaviour_edges(self) -> list[int]:
        """The edges of the behaviour's own openings, as indices into `edges`, in order."""
        return sorted({edge for path in self.paths[: self.n_behaviour] for edge in path})

    def attention(self) -> Tensor:
        """(m, m) bool: inner node i (row) sees inner node j (column): itself and its ancestors."""
        m = len(self.node_tokens)
        sees = torch.eye(m, dtype=torch.bool)
        for i, parent in enumerate(self.node_parents):
            if parent > 0:
                sees[i] |= sees[parent - 1]
        return sees


def prefix_free(sequences: Sequence[tuple[int, ...]]) -> list[int]:
    """Positions of the sequences to keep: one that starts with another adds no probability to it and is left out."""
    kept: list[int] = []
    for i, sequence in enumerate(sequences):
        covered = any(
            sequence[: len(other)] == other and (len(other) < len(sequence) or j < i)
            for j, other in enumerate(sequences)
            if j != i
        )
        if not covered:
            kept.append(i)
    return kept


def build_tree(behaviour: Sequence[tuple[int, ...]], opposite: Sequence[tuple[int, ...]]) -> OpeningTree:
    """The tree of two prefix-free sets of token sequences.

    Raises `ValueError` where a sequence is empty or one of all is a prefix of another (probability would count twice).
    """
    sequences = tuple(map(tuple, [*behaviour, *opposite]))
    if not behaviour or any(not s for s in sequences):
        raise ValueError(f"an opening needs at least one token; found {sequences}")
    if len(prefix_free(sequences)) != len(sequences):
        raise ValueError("the openings are not prefix-free: one continues another")
    inner: dict[tuple[int, ...], int] = {(): 0}
    tokens: list[int] = []
    parents: list[int] = []
    depths: list[int] = []
    edges: dict[tuple[int, int], int] = {}
    paths: list[tuple[int, ...]] = []
    for sequence in sequences:
        path = []
        for depth, token in enumerate(sequence):
            prefix = sequence[:depth]
            if prefix not in inner:
                inner[prefix] = 1 + len(tokens)
                tokens.append(prefix[-1])
                parents.append(inner[prefix[:-1]])
                depths.append(depth)
            path.append(edges.setdefault((inner[prefix], token), len(edges)))
        paths.append(tuple(path))
    return OpeningTree(
        sequences, len(behaviour), tuple(tokens), tuple(parents), tuple(depths), tuple(edges), tuple(paths)
    )
