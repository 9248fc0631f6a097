"""Which rows are in the trainer's own forward, their loss, and their gradients in its own backward.

One pre-hook on the causal model names the rows; `module_calls` follows every module with trained parameters, and here
the rows' gradients of each call are added up by micro-batch. The output head, which TRL's fused loss reads without
calling it, is captured from the gradient at the tokens' log-probabilities. Nothing is added to the graph (but a view
where a model looks its positions up once for all rows).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import MeasurementError, PrerequisiteError, describe
from ..maths.row_gradients import DenseRows, Head, RowAccumulator, RowGradients, head_factors
from .captured_rows import CapturedBatch, CapturedRow
from .causal import forward_seen, inner_causal
from .clock import Timed, untimed
from .heap import zeros_apart
from .module_calls import ModuleCalls
from .module_rows import Inputs, module_rows
from .parameters import TrainedModule, TrainedParameters
from .products import fast_products
from .row_layout import RowLayout, batch_rows
from .sharded import whole


class RowCapture:
    """Hooks on a model in training; `take` hands over what the micro-batches of one step left.

    Followed is what runs with gradients on and the model in train mode, or in eval mode where `in_training` is false.
    On several ranks whose gradients are averaged, each row's is its `part` of one: 1 over their number. `timed` is put
    around every hook (`HookClock.timed`).
    Raises `MeasurementError` from what hands over alone, never inside the trainer's forward or backward: where no row
    was seen, a batch had no ``input_ids``, no gradient came back for a micro-batch, or a module was not called on the
    rows; `PrerequisiteError` where a batch had no labels.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: TrainedParameters,
        in_training: bool = True,
        part: float = 1.0,
        timed: Timed = untimed,
    ) -> None:
        causal, entered = inner_causal(model), forward_seen(model)
        self._causal = causal
        self._parameters, self._part = parameters, part
        self._in_training = in_training
        self._calls = ModuleCalls(parameters.modules, self._recording, self._on_rows, self._fail, timed)
        self._timed = timed
        self._handles: list[RemovableHandle] = [
            entered.register_forward_pre_hook(timed(self._on_forward), with_kwargs=True),
            entered.register_forward_hook(timed(self._on_output), with_kwargs=True),
        ]
        backbone = getattr(causal, "base_model", None)
        if parameters.head is not None and isinstance(backbone, nn.Module) and backbone is not causal:
            self._handles.append(backbone.register_forward_hook(timed(self._on_backbone)))
        self.clear()

    def remove(self) -> None:
        """Takes all hooks off; the model is as before."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._calls.remove()
        self.clear()

    def clear(self) -> None:
        """Forgets the open step."""
        self._rows: list[CapturedRow] = []
        self._losses: list[float] = []
        self._batches: list[RowAccumulator] = []
        self._layouts: list[RowLayout] = []
        self._arrived: list[bool] = []
        self._failure: MeasurementError | PrerequisiteError | None = None
        self._hidden: Tensor | None = None
        self._head: Head | None = None
        self._calls.clear()

    def batches(self) -> list[CapturedBatch]:
        """The micro-batches so far; the step stays open. Raises as `take`."""
        self._calls.settle()
        if self._failure is not None:
            raise self._failure
        if not self._rows:
            remedy = "use trl.SFTTrainer."
            raise MeasurementError(describe("rows of the step", "none", "the trainer's forward to be seen", remedy))
        if lacking := self._calls.without_inputs:
            found = f"{lacking} whose checkpointed layer was not run again"
            remedy = "let every forward be followed by its own backward, or set gradient_checkpointing=False."
            raise MeasurementError(describe("rows of the step", found, "one replay for each call", remedy))
        if not all(self._arrived):
            found = f"no gradient for {self._arrived.count(False)} of {len(self._arrived)} micro-batches"
            remedy = "let nothing but the trainer's own step run the model in train mode with gradients on."
            raise MeasurementError(describe("rows of the step", found, "one backward for each forward", remedy))
        rows, losses = iter(self._rows), iter(self._losses)
        return [
            CapturedBatch(list(islice(rows, batch.rows)), list(islice(losses, batch.rows)), batch.result())
            for batch in self._batches
        ]

    def take_batches(self) -> list[CapturedBatch]:
        """The micro-batches since the last call, and forgets them. Raises as `take`."""
        batches = self.batches()
        self.clear()
        return batches

    def take(self) -> tuple[list[CapturedRow], list[float], RowGradients]:
        """Their rows, losses and gradients, of all micro-batches together. Raises as the class."""
        batches = self.take_batches()
        rows = [row for batch in batches for row in batch.rows]
        losses = [loss for batch in batches for loss in batch.losses]
        return rows, losses, RowGradients.joined([batch.gradients for batch in batches])

    def _recording(self) -> bool:
        return self._failure is None and self._causal.training == self._in_training and torch.is_grad_enabled()

    def _fail(self, error: Exception) -> None:
        if not isinstance(error, MeasurementError):
            found = f"{type(error).__name__}: {str(error)[:300]}"
            remedy = "leave this module frozen, or report it."
            error = MeasurementError(describe("gradients by row", found, "a module that runs on each row", remedy))
        self._failure = error

    def _on_forward(self, _module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if not self._recording():
            return
        batch = batch_rows(args, kwargs)
        if batch is None or batch.ids is None:
            found = ", ".join(sorted(kwargs))
            self._failure = MeasurementError(describe("training batch", found, "input_ids", "train on token ids."))
            return
        if batch.labels is None:
            # Which of the tokens are the answer is not known then, and the loss may be anything.
            remedy = "leave the loss to SFTTrainer: no compute_loss_func, and no compute_loss of a subclass's own."
            found = "a forward without labels (compute_loss_func?)"
            self._failure = PrerequisiteError(describe("training batch", found, "SFTTrainer's own loss", remedy))
            return
        rows, tokens = batch.ids.shape
        for ids, real, carried in zip(batch.ids, batch.real, batch.carries, strict=True):
            carries = carried[real]
            starts = carries & ~torch.cat([carries.new_zeros(1), carries[:-1]])
            first = int(starts.nonzero()[-1]) if bool(carries.any()) else -1
            self._rows.append(CapturedRow(ids[real].tolist(), first, int(carries[1:].sum())))
        parameters = self._parameters
        formed = [tensor.formed(tokens) for tensor in parameters.tensors]
        device = parameters.weights[0].device
        self._batches.append(RowAccumulator(rows, parameters.bounds, formed, device, zeros_apart))
        self._layouts.append(batch.layout)
        self._arrived.append(False)
        self._calls.open(len(self._batches) - 1, rows if batch.layout.lines is None else 1)

    def _on_backbone(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        if self._recording() and self._calls.is_open:
            hidden = getattr(output, "last_hidden_state", None)
            self._hidden = hidden.detach() if isinstance(hidden, Tensor) else None

    def _on_output(self, _module: nn.Module, _args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
        self._calls.close()
        hidden, self._hidden = self._hidden, None
        if not self._recording():
            return
        log_probs, mask = getattr(output, "log_probs", None), getattr(output, "label_mask", None)
        if log_probs is None or mask is None:
            self._losses += [float("nan")] * self._batches[-1].rows
            return
        at = self._layouts[-1].before_next
        weight = at.spread(mask.to(log_probs.dtype))
        mean = -(at.spread(log_probs.detach()) * weight).sum(-1) / weight.sum(-1)
        self._losses += mean.float().tolist()
        if self._parameters.head is not None and log_probs.requires_grad:
            labels = kwargs.get("labels")
            if hidden is None or labels is None:
                remedy = "leave the output head frozen."
                found = "no hidden states or labels for its fused loss"
                self._failure = MeasurementError(describe("output head", found, "both", remedy))
                return
            at_tokens = (at.spread(hidden[:, :-1]), at.spread(labels[:, 1:]).clamp(min=0), at.spread(mask))
            log_probs.register_hook(self._timed(partial(self._on_log_probs, len(self._batches) - 1, at_tokens)))

    def _on_rows(self, owner: TrainedModule, batch: int, inputs: Inputs, gradient: Tensor) -> None:
        self._arrived[batch] = True
        accumulator, layout = self._batches[batch], self._layouts[batch]
        if layout.lines is not None:
            inputs = replace(inputs, tensors=tuple(map(layout.spread, inputs.tensors)))
            gradient = layout.spread(gradient.detach())
        with fast_products():
            for number, factors in module_rows(owner, inputs, self._weighted(gradient), accumulator.rows):
                accumulator.add(number, factors)

    def _weighted(self, gradient: Tensor) -> Tensor:
        return gradient if self._part == 1 else self._part * gradient.detach()

    @torch.no_grad()
    def _on_log_probs(self, batch: int, at_tokens: tuple[Tensor, Tensor, Tensor], gradient: Tensor) -> None:
        if self._failure is not None:
            return
        self._arrived[batch] = True
        try:
            at_rows = self._layouts[batch].before_next.spread(gradient.detach().float())
            self._add_head(self._batches[batch], at_tokens, self._weighted(at_rows))
        except Exception as error:  # the trainer's backward goes on whatever happens here
            self._fail(error)

    def _add_head(
        self, accumulator: RowAccumulator, at_tokens: tuple[Tensor, Tensor, Tensor], gradient: Tensor
    ) -> None:
        head = self._parameters.head
        assert head is not None
        if self._head is None:
            self._head = _before_step(head.module, head.scale, head.softcap)
        hidden, targets, mask = at_tokens
        # Tokens without a label have a gradient too: the loss is summed over all, the others' log-probability being 0.
        found = head_factors(hidden, targets, gradient * mask, self._head)
        if head.weight is not None:
            accumulator.add(head.weight, found)
        if head.bias is not None:
            accumulator.add(head.bias, DenseRows(found.bias()))


def _before_step(module: nn.Module, scale: float, softcap: float | None) -> Head:
    """A copy of the head: its rows are formed after the step too."""
    weight, bias = module.weight, getattr(module, "bias", None)
    assert isinstance(weight, Tensor)
    copies = [None if part is None else whole(part.detach()).clone() for part in (weight, bias)]
    assert copies[0] is not None
    return Head(copies[0], copies[1], scale, softcap)
