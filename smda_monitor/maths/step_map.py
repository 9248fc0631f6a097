"""One optimizer step as a map from gradient to update, element by element, and its exact additive split.

With the clipped gradient of the step g = c·Σ_i g_i, the update θ_{t+1} − θ_t of every optimizer known here is

    u(g) = Σ_i share_scale∘(c·g_i) + history + decay,     history = momentum_scale∘m,     all scales at this g

with m the optimizer's momentum buffer, itself a weighted sum of earlier gradients: this step leaves `kept` times its
clipped gradient there, and `retained` times what was there before. So momentum's part can be handed on to the earlier
rows whose gradients it holds (`past`).

Because the map is known at every other gradient too, what the step would have lacked without row i is exact:

    δ_i = u(c·G) − u(c_i'·(G − g_i)),   G = Σ_i g_i,   c_i' = min(1, max_norm/(‖G − g_i‖ + 1e-6))

The maps themselves: `adam`, `sgd`. All vectors are flat over the trained parameters; results are float64.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float64
from torch import Tensor

CLIP_EPSILON = 1e-6
"""What torch's `clip_grad_norm_` adds to the norm."""


@runtime_checkable
class StepMap(Protocol):
    """The step of one optimizer from one state, over p elements with one set of hyper-parameters."""

    @property
    def kept(self) -> float:
        """What of the clipped gradient this step leaves in the momentum buffer; 0 without momentum."""

    @property
    def retained(self) -> float:
        """What of the momentum buffer this step retains there; 0 without momentum."""

    def cut(self, start: int, stop: int) -> StepMap:
        """The same step over the elements from `start` to before `stop`."""

    def update(self, gradient: Float64[Tensor, "*n p"]) -> Float64[Tensor, "*n p"]:
        """u(g): the whole change of the parameters for a clipped gradient g, or for each of n."""

    def share_scale(self, gradient: Float64[Tensor, " p"]) -> Float64[Tensor, " p"]:
        """What a row's part of the clipped gradient is multiplied by, element by element, to give its share of u(g)."""

    def momentum_scale(self, gradient: Float64[Tensor, " p"]) -> Float64[Tensor, " p"]:
        """What the momentum buffer is multiplied by to give `history`."""

    def history(self, gradient: Float64[Tensor, " p"]) -> Float64[Tensor, " p"]:
        """Momentum's part of u(g): earlier steps' gradients, and their coupled decay, acting now."""

    def decay(self, gradient: Float64[Tensor, " p"]) -> Float64[Tensor, " p"]:
        """Weight decay's part of u(g), of this step alone."""


@dataclass(frozen=True, slots=True)
class NoStep:
    """The map of parameters that have no gradient at all: torch's optimizers pass over them. A `StepMap`."""

    kept: float = 0.0
    """0: no row's gradient enters the momentum buffer."""
    retained: float = 1.0
    """1: the momentum buffer stays as it is."""

    def cut(self, start: int, stop: int) -> NoStep:
        """Itself."""
        return self

    def update(self, gradient: Float64[Tensor, "*n p"]) -> Float64[Tensor, "*n p"]:
        """0: neither momentum nor decay acts."""
        return torch.zeros_like(gradient)

    def share_scale(self, gradient: Float64[Tensor, " p"]) -> Float64[Tensor, " p"]:
        """0."""
        return torch.zeros_like(gradient)

    def momentum_scale(self, gradient: Float64[Tensor, " p"]) -> Float64[Tensor, " p"]:
        """0."""
        return torch.zeros_like(gradient)

    def history(self, gradient: Float64[Tensor, " p"]) -> Float64[Tensor, " p"]:
        """0."""
        return torch.zeros_like(gradient)

    def decay(self, gradient: Float64[Tensor, " p"]) -> Float64[Tensor, " p"]:
        """0."""
        return torch.zeros_like(gradient)


@dataclass(frozen=True, slots=True)
class WholeStep:
    """The step over the whole flat vector, from maps that lie one behind the other without gap."""

    parts: tuple[tuple[int, StepMap], ...]
    """(one past its last element, map), in order."""

    @property
    def stops(self) -> tuple[int, ...]:
        """One past each part's last element."""
        return tuple(stop for stop, _ in self.parts)

    def cut_at(self, stops: Collection[int]) -> WholeStep:
        """The same step in more parts: some end at `stops`, too, each at most the vector's length."""
        found, begin = [], 0
        for end, part in self.parts:
            start = begin
            for stop in sorted({end, *(stop for stop in stops if begin < stop < end)}):
                found.append((stop, part.cut(start - begin, stop - begin)))
                start = stop
            begin = end
        return WholeStep(tuple(found))

    def slabs(self, longest: int) -> Iterator[tuple[int, int, int, StepMap]]:
        """(number of the part, start, stop, map) of ranges of `longest` elements at most that cover the vector."""
        begin = 0
        for number, (end, part) in enumerate(self.parts):
            for start in range(begin, end, longest):
                stop = min(start + longest, end)
                yield number, start, stop, part.cut(start - begin, stop - begin)
            begin = end


def clip_factor(norm: float, max_norm: float) -> float:
    """min(1, max_norm/(norm + 1e-6)) as torch clips; 1 where `max_norm` is 0 (no clipping)."""
    return min(1.0, max_norm / (norm + CLIP_EPSILON)) if max_norm > 0 else 1.0


def push_directions(
    step: StepMap,
    update: Float64[Tensor, " p"],
    total: Float64[Tensor, " p"],
    rows: Float64[Tensor, "n p"],
    without: Float64[Tensor, " n"],
) -> Float64[Tensor, "n p"]:
    """δ_i = u(c·G) − u(c_i'·(G − g_i)) of n rows: `update` is u(c·G), `total` the unclipped G, `rows` their unclipped
    g_i, `without` the clip factors c_i'."""
    return step.update((total - rows).mul_(without[:, None])).neg_().add_(update)
