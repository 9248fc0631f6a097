"""Readings of a behaviour from the logits at the positions of its opening tree.

    openings_o = Σ_{edges of o} log p(token | position)
    log_probability = logsumexp_{o in behaviour} openings_o
    mass = log P − log(1 − P),  P = Σ_{o in behaviour} p_o
    contrast = mean_{o in behaviour} openings_o − mean_{o in opposite} openings_o

1 − P is never taken by subtraction: it is the summed probability of leaving the behaviour's tree, so that the log-odds
are exact at both ends. Sources: log-probability of openings, SMDA (arXiv 2606.29171); log-odds of refusal, Arditi et
al. 2024; contrast is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .opening_tree import OpeningTree


@dataclass(frozen=True, slots=True)
class Readings:
    """Readings of b prompts."""

    openings: Float[Tensor, "b k"]
    """Log-probability of every opening, nats."""
    log_probability: Float[Tensor, " b"]
    """Log of the behaviour's summed probability P, nats, ≤ 0."""
    mass: Float[Tensor, " b"]
    """Log-odds of P, nats."""
    contrast: Float[Tensor, " b"]
    """Mean log-probability of the behaviour's openings minus that of the opposite ones, nats; NaN without opposite."""

    def y(self, reading: str) -> Float[Tensor, " b"]:
        """What a symbolic policy is fitted to by its `reading`: ``mass`` or ``log_probability``; nats."""
        return self.mass if reading == "mass" else self.log_probability


def read_openings(logits: Float[Tensor, "b p v"], tree: OpeningTree) -> Readings:
    """All readings from `logits` at the tree's p positions (root first, then the inner nodes); differentiable.

    The vocabulary is reduced in the type of `logits`; sums along the tree are float64.
    """
    device = logits.device
    position, token = (torch.tensor(part, device=device) for part in zip(*tree.edges, strict=True))
    chosen = torch.tensor(tree.behaviour_edges, device=device)
    stays = torch.zeros(logits.shape[1:], dtype=torch.bool, device=device)
    stays[position[chosen], token[chosen]] = True
    leaving = logits.masked_fill(stays, float("-inf")).logsumexp(-1)
    return read_edges(leaving, logits[:, position, token], tree)


def read_edges(leaving: Float[Tensor, "b p"], edges: Float[Tensor, "b e"], tree: OpeningTree) -> Readings:
    """All readings from the logits of the tree's e `edges` and, at each of its p positions, the log-sum-exp of all
    logits that leave the behaviour's tree there (`leaving`); differentiable."""
    device = leaving.device
    position = torch.tensor([place for place, _ in tree.edges], device=device)
    behaviour_edges, leaving, edge_logits = tree.behaviour_edges, leaving.double(), edges.double()
    chosen = torch.tensor(behaviour_edges, device=device)
    # Per position: everything that leaves the behaviour's tree, and what stays in it; together the whole vocabulary.
    staying = []
    for p in range(tree.n_positions):
        here = chosen[position[chosen] == p]
        nothing = leaving.new_full(leaving.shape[:1], float("-inf"))
        staying.append(edge_logits[:, here].logsumexp(-1) if len(here) else nothing)
    total = torch.logaddexp(leaving, torch.stack(staying, dim=1))
    edge_logp = edge_logits - total[:, position]
    openings = torch.stack([edge_logp[:, list(path)].sum(-1) for path in tree.paths], dim=1)

    node_logp = _node_log_probabilities(edge_logp, tree)
    exits = [node_logp[p] + leaving[:, p] - total[:, p] for p in sorted({tree.edges[e][0] for e in behaviour_edges})]
    log_probability = openings[:, : tree.n_behaviour].logsumexp(-1)
    mass = log_probability - torch.stack(exits, dim=1).logsumexp(-1)
    contrast = openings[:, : tree.n_behaviour].mean(-1) - openings[:, tree.n_behaviour :].mean(-1)
    return Readings(openings, log_probability, mass, contrast)


def _node_log_probabilities(edge_logp: Tensor, tree: OpeningTree) -> list[Tensor]:
    """Log-probability of reaching every position: 0 at the root, the sum along its edges at an inner node."""
    edge_index = {edge: i for i, edge in enumerate(tree.edges)}
    reached = [torch.zeros_like(edge_logp[:, 0])]
    for node_token, parent in zip(tree.node_tokens, tree.node_parents, strict=True):
        reached.append(reached[parent] + edge_logp[:, edge_index[(parent, node_token)]])
    return reached
