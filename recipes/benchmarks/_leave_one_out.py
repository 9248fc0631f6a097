"""One optimizer step taken again without each of its rows, exactly, and everything put back bit for bit.

    without row i: the optimizer, from the same state, steps with c_i'·(G − g_i)

c_i' = min(1, max_norm/(‖G − g_i‖ + 1e-6)), G = Σ_i g_i is summed in float64; the loss's denominator stays. The
optimizer's own code takes the step, so nothing is assumed about it.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from _slices import LONGEST, Rows, Slice, slices
from torch import Tensor

from smda_monitor.instruments.optimizer_step import bare_optimizer
from smda_monitor.maths.step_map import clip_factor


@contextmanager
def undone(optimizer: Any, weights: Sequence[Tensor]) -> Iterator[Callable[[Sequence[Tensor]], None]]:
    """Yields ``step(gradients)``, which takes the coming step of `optimizer` with other gradients, one per weight, each
    time from the same state; on leaving, also by an exception, `weights`, their ``.grad`` and the optimizer's state are
    the same objects with the same bits as before. A weight without a gradient stays without: it is not stepped.
    """
    bare = bare_optimizer(optimizer)
    state, gradients = bare.state, [w.grad for w in weights]
    saved = [w.detach().clone() for w in weights]

    def step(new: Sequence[Tensor]) -> None:
        _put(weights, saved)
        bare.state = defaultdict(dict, {w: copy.deepcopy(held) for w, held in state.items()})
        for w, old, gradient in zip(weights, gradients, new, strict=True):
            w.grad = None if old is None else gradient
        type(bare).step(bare)  # past the scheduler, which counts the steps that are taken through the instance

    try:
        yield step
    finally:
        bare.state = state
        _put(weights, saved)
        for w, old in zip(weights, gradients, strict=True):
            w.grad = old


def leave_one_out(
    optimizer: Any,
    weights: Sequence[Tensor],
    count: int,
    rows: Rows,
    max_norm: float,
    measure: Callable[[], Tensor],
    longest: int = LONGEST,
) -> Tensor:
    """(count, K) exact effect of every row of the coming step on what `measure` () gives, with minus without.

    Args:
        optimizer: About to step, alone or in Accelerate's wrapper.
        weights: All that it trains, in the flat vector's order.
        count: Rows n of the step.
        rows: Their unclipped gradients (n, p).
        max_norm: At which the gradient's norm is clipped; 0: not at all.
        measure: Gives (K,) figures of the model as it is.
        longest: Elements of the flat vector that are in hand at a time.
    """
    pieces = list(slices(weights, longest))
    totals, norm, norms = _sums(weights, pieces, count, rows)
    with undone(optimizer, weights) as step:
        step(_gradients(weights, pieces, totals, None, clip_factor(norm, max_norm)))
        whole = measure()
        effects = []
        for i in range(count):
            step(_gradients(weights, pieces, totals, (rows, i), clip_factor(norms[i], max_norm)))
            effects.append(whole - measure())
    return torch.stack(effects)


def _put(weights: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for w, value in zip(weights, values, strict=True):
            w.copy_(value)


def _sums(
    weights: Sequence[Tensor], pieces: Sequence[Slice], count: int, rows: Rows
) -> tuple[list[Tensor], float, list[float]]:
    """G by parameter, flat; ‖G‖; ‖G − g_i‖ of every row."""
    totals = [torch.zeros(w.numel(), dtype=torch.float64, device=w.device) for w in weights]
    square, squares = 0.0, torch.zeros(count, dtype=torch.float64)
    for piece in pieces:
        part = rows.dense(piece.start, piece.stop).double()
        total = part.sum(0)
        totals[piece.parameter][piece.inside] = total
        square += float(total.square().sum())
        squares += (total - part).square().sum(1).cpu()
    return totals, square**0.5, squares.sqrt().tolist()


def _gradients(
    weights: Sequence[Tensor],
    pieces: Sequence[Slice],
    totals: Sequence[Tensor],
    out: tuple[Rows, int] | None,
    factor: float,
) -> list[Tensor]:
    """factor·G, or factor·(G − g_i) for `out` = (rows, i), shaped and typed as the weights."""
    found = [torch.empty_like(w).reshape(-1) for w in weights]
    for piece in pieces:
        part = totals[piece.parameter][piece.inside]
        if out is not None:
            part = part - out[0].dense(piece.start, piece.stop)[out[1]].double()
        found[piece.parameter][piece.inside] = (factor * part).to(weights[piece.parameter].dtype)
    return [gradient.reshape(w.shape) for gradient, w in zip(found, weights, strict=True)]
