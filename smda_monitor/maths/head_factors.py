"""Gradients by row of an output head W whose loss is read as log-probabilities, without the logits being kept.

With h_t the hidden state that predicts token y_t, z = s·(W h_t + b), capped as c·tanh(z/c) where the model caps its
logits, p = softmax(z), and w_t = ∂L/∂log p(y_t):

    ∂L/∂z_tv = w_t (1[v = y_t] − p_tv)·(slope of the cap)      ∇W = s Σ_t ∂L/∂z_t h_tᵀ,    ∇b = s Σ_t ∂L/∂z_t

The normaliser of p is found once; any lines of W are then formed alone, in chunks of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

CHUNK = 1 << 23
"""Logits formed at a time, unless told."""


@dataclass(frozen=True, slots=True)
class Head:
    """An output head before a step, shared by all rows of the step."""

    weight: Float[Tensor, "v d"]
    """W."""
    bias: Float[Tensor, " v"] | None
    """b; None where the head has none."""
    scale: float
    """s: what the model multiplies its logits by."""
    softcap: float | None
    """c; None where logits are not capped."""
    chunk: int = CHUNK
    """Logits formed at a time."""

    def logits(
        self, hidden: Float[Tensor, "b t d"], first: int, last: int
    ) -> tuple[Float[Tensor, "b t range"], Float[Tensor, "b t range"] | float]:
        """z of the vocabulary's [first, last), and ∂z/∂(W h + b)."""
        raw = hidden.float() @ self.weight[first:last].float().T
        if self.bias is not None:
            raw = raw + self.bias[first:last].float()
        raw = raw * self.scale
        if self.softcap is None:
            return raw, self.scale
        bent = torch.tanh(raw / self.softcap)
        return self.softcap * bent, self.scale * (1 - bent.square())


@dataclass(frozen=True, slots=True)
class HeadFactors:
    """The gradient of a head's weight (v, d), row-major. A `RowFactors`; made by `head_factors`."""

    hidden: Float[Tensor, "b t d"]
    """h of the tokens that carry loss; rows with fewer are filled up with tokens of weight 0."""
    targets: Int64[Tensor, "b t"]
    """y: the token that each predicts."""
    weights: Float[Tensor, "b t"]
    """w: the loss's gradient at the token's log-probability."""
    log_sum: Float[Tensor, "b t"]
    """log Σ_v exp z_tv."""
    head: Head
    """The head before the step."""

    @property
    def rows(self) -> int:
        """Rows b."""
        return self.hidden.shape[0]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What is held, the head included."""
        return self.hidden, self.targets, self.weights, self.log_sum, self.head.weight

    def dense(self, start: int, stop: int) -> Float[Tensor, "b range"]:
        """Elements [start, stop) of the flattened gradient of every row, float32."""
        b, _, d = self.hidden.shape
        first, last = start // d, -(-stop // d)
        hidden = self.hidden.float()
        found = hidden.new_empty(b, last - first, d)
        for low, high in _chunks(first, last, self.targets.numel(), self.head.chunk):
            torch.bmm(
                self._logit_gradients(low, high).transpose(1, 2), hidden, out=found[:, low - first : high - first]
            )
        return found.flatten(1)[:, start - first * d : stop - first * d]

    def half(self) -> HeadFactors:
        """The same held in bfloat16, the normaliser made anew for the rounded head, so that p sums to 1."""
        head = replace(self.head, weight=self.head.weight.bfloat16())
        return self.on(head)

    def on(self, head: Head) -> HeadFactors:
        """The same rows on a rounded `head`, held in bfloat16."""
        hidden = self.hidden.bfloat16()
        return replace(self, hidden=hidden, log_sum=_log_sum(hidden, head), head=head)

    def bias(self) -> Float[Tensor, "b v"]:
        """The gradient of the head's bias, float32."""
        whole = _chunks(0, self.head.weight.shape[0], self.targets.numel(), self.head.chunk)
        return torch.cat([self._logit_gradients(low, high).sum(1) for low, high in whole], 1)

    def _logit_gradients(self, first: int, last: int) -> Tensor:
        """(b, t, last − first) gradient at W h + b."""
        z, slope = self.head.logits(self.hidden, first, last)
        miss = -(z - self.log_sum[..., None]).exp()
        at = self.targets - first
        here = (at >= 0) & (at < last - first)
        miss.scatter_add_(2, at.clamp(0, last - first - 1)[..., None], here[..., None].to(miss))
        return miss * self.weights[..., None] * slope


def head_factors(
    hidden: Float[Tensor, "b t d"], targets: Int64[Tensor, "b t"], weights: Float[Tensor, "b t"], head: Head
) -> HeadFactors:
    """The factors of all tokens with a weight; the others are left out where no row needs their place."""
    carries = weights != 0
    most = max(1, int(carries.sum(1).max())) if carries.numel() else 0
    kept = carries.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    h = hidden.gather(1, kept[..., None].expand(-1, -1, hidden.shape[2]))
    weights = weights.gather(1, kept).float()
    return HeadFactors(h, targets.gather(1, kept), weights, _log_sum(h, head), head)


def _log_sum(hidden: Tensor, head: Head) -> Tensor:
    found = hidden.new_full(hidden.shape[:2], -torch.inf, dtype=torch.float32)
    for low, high in _chunks(0, head.weight.shape[0], found.numel(), head.chunk):
        found = torch.logaddexp(found, head.logits(hidden, low, high)[0].logsumexp(2))
    return found


def _chunks(first: int, last: int, tokens: int, logits: int) -> Iterator[tuple[int, int]]:
    """[first, last) of the vocabulary in parts with about so many `logits` of `tokens` tokens each."""
    longest = max(1, logits // max(1, tokens))
    for low in range(first, last, longest):
        yield low, min(low + longest, last)
