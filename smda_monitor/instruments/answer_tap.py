"""The mean residual stream over each training row's last answer, from the trainer's own forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..maths.answers import answer_mean
from .causal import forward_seen, inner_causal
from .chat import end_of_prompt
from .clock import Timed, untimed
from .hookpoint import find_block
from .row_layout import RowLayout, batch_rows


class AnswerTap:
    """Hooks on a model in training: every forward leaves one mean per row, until `take`. Nothing is added to the graph.

    Followed is what runs with gradients on and the model in train mode, or in eval mode where `in_training` is false.
    An answer is the last run of tokens that carry loss; of a row all of whose tokens do, what stands behind the last
    `opening`, the template's generation prompt, or all of it where that stands nowhere. A block that checkpointing runs
    again is not recorded twice: that happens outside the model's forward.
    """

    def __init__(
        self,
        model: nn.Module,
        hook: str,
        in_training: bool = True,
        opening: Sequence[int] = (),
        timed: Timed = untimed,
    ) -> None:
        entered = forward_seen(model)
        block, parsed = find_block(model, hook)
        self._causal = inner_causal(model)
        self._in_training = in_training
        self._opening = opening
        self._answer: tuple[RowLayout, Tensor] | None = None
        self._means: list[Tensor] = []
        at_block = (
            block.register_forward_pre_hook(timed(self._before_block), with_kwargs=True)
            if parsed.kind == "pre"
            else block.register_forward_hook(timed(self._after_block))
        )
        self._handles: list[RemovableHandle] = [
            entered.register_forward_pre_hook(timed(self._open), with_kwargs=True),
            entered.register_forward_hook(self._close),
            at_block,
        ]

    def remove(self) -> None:
        """Takes the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def take(self) -> Tensor:
        """(n, d_in) float64 on the CPU, one per row since the last call."""
        means, self._means = self._means, []
        return torch.cat(means)

    def clear(self) -> None:
        """Forgets what was read since the last `take`."""
        self._means.clear()

    def _open(self, _module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if self._causal.training != self._in_training or not torch.is_grad_enabled():
            return
        if (batch := batch_rows(args, kwargs)) is not None:
            self._answer = batch.layout, _last_answers(batch.carries, batch.real, batch.ids, self._opening)

    def _close(self, *_: Any) -> None:
        self._answer = None

    def _before_block(self, _module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._keep(args[0] if args else kwargs["hidden_states"])

    def _after_block(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self._keep(output[0] if isinstance(output, (tuple, list)) else output)

    def _keep(self, hidden: Tensor) -> None:
        if self._answer is not None:
            layout, answers = self._answer
            self._means.append(answer_mean(layout.spread(hidden.detach()).float(), answers).double().cpu())


def _last_answers(carries: Tensor, real: Tensor, ids: Tensor | None, opening: Sequence[int]) -> Tensor:
    """(b, t) where the last answer of each row stands; `carries` loss, `real` is no padding."""
    starts = carries.clone()
    starts[:, 1:] &= ~carries[:, :-1]
    runs = starts.cumsum(1)
    answers = carries & (runs == runs[:, -1:])
    if ids is None or not opening:
        return answers
    for b, row in enumerate(ids):
        if torch.equal(answers[b], real[b]) and (cut := end_of_prompt(opening, row.tolist(), last=True)) < len(row):
            answers[b, :cut] = False
    return answers
