"""The output head at the positions of an opening tree, without a graph over the vocabulary.

Of all V logits at a position the readings use the few of the tree's edges and the log-sum-exp of the others. With
hidden states h, head W and softmax p over what leaves the tree,

    leaving = log Σ_{v leaves} exp(W_v·h),   ∇_h leaving = Σ_v p_v W_v,     edge_e = W_e·h,   ∇_h edge_e = W_e

so one further product with W at the forward gives all that any backward needs, however many readings are
differentiated, and no tensor over the vocabulary is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..maths.opening_tree import OpeningTree
from .sharded import is_sharded

OWN_LOGITS = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
"""Settings by which a model makes its logits of something else than a plain product."""


@dataclass(frozen=True, slots=True)
class PlainHead:
    """A frozen head whose logits are W·h, and the model below it."""

    backbone: nn.Module
    """Gives ``last_hidden_state``."""
    weight: Tensor
    """(V, d)"""

    def read(self, hidden: Tensor, tree: OpeningTree) -> tuple[Tensor, Tensor]:
        """(leaving (b, positions), edges (b, e)) of hidden states (b, positions, d), float32."""
        device = hidden.device
        position, token = (torch.tensor(part, device=device) for part in zip(*tree.edges, strict=True))
        stays = torch.zeros(tree.n_positions, self.weight.shape[0], dtype=torch.bool, device=device)
        chosen = torch.tensor(tree.behaviour_edges, device=device)
        stays[position[chosen], token[chosen]] = True
        found: tuple[Tensor, Tensor] = _Leaving.apply(hidden, self.weight, stays, position, token)  # type: ignore[no-untyped-call]
        return found


def plain_head(causal: nn.Module) -> PlainHead | None:
    """The head of `causal` where its logits are a plain product with a frozen weight, else None."""
    head: Any = causal.get_output_embeddings()  # type: ignore[operator]
    config: Any = causal.config.get_text_config()  # type: ignore[operator, union-attr]
    backbone = getattr(causal, "base_model", None)
    plain = isinstance(head, nn.Module) and type(head).forward is nn.Linear.forward
    if not plain or head.bias is not None or head.weight.requires_grad or head.weight.dtype != torch.float32:
        return None
    if is_sharded(causal):
        return None  # the model below the head is no place to go in at
    if not isinstance(backbone, nn.Module) or backbone is causal:
        return None
    if any(getattr(config, name, None) is not None for name in OWN_LOGITS):
        return None
    return PlainHead(backbone, head.weight)


class _Leaving(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, stays: Tensor, position: Tensor, token: Tensor) -> Any:
        logits = hidden @ weight.T
        edges = logits[:, position, token]
        logits.masked_fill_(stays, float("-inf"))
        leaving = logits.logsumexp(-1)
        if ctx.needs_input_grad[0]:
            mean = torch.sub(logits, leaving[..., None], out=logits).exp_() @ weight
            ctx.save_for_backward(mean, weight[token], position)
        return leaving, edges

    @staticmethod
    def backward(ctx: Any, of_leaving: Tensor, of_edges: Tensor) -> Any:
        mean, rows, position = ctx.saved_tensors
        found = of_leaving[..., None] * mean
        found.index_add_(1, position, of_edges[..., None] * rows)
        return found, None, None, None, None
