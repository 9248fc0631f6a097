"""Follows the calls of modules through the trainer's forward and backward: for each, its inputs and the gradient at
its output.

Under checkpointing a layer runs twice. The reentrant kind runs it without gradients first, so only the second run is
followed. The other kind keeps the first run's graph and repeats the layer, as far as it needs, when the backward gets
there: the gradient arrives at the first run's output, and the inputs, which are not kept from the first run because
that is what checkpointing saves, are those of the same call in the repetition. For the last module of a layer that
comes after the gradient.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..errors import MeasurementError, describe
from .clock import Timed, untimed
from .module_rows import Inputs, kept_inputs, needs_inputs, no_tensor, spread_rows
from .parameters import TrainedModule

Receive = Callable[[TrainedModule, int, Inputs, Tensor], None]
"""(module, micro-batch, inputs, gradient at the output): one call, complete."""


@dataclass(slots=True)
class Call:
    """One call of a module."""

    owner: TrainedModule
    """The module."""
    batch: int
    """The micro-batch that it belongs to."""
    inputs: Inputs | None
    """None while they are not there yet, and again when they are used."""
    gradient: Tensor | None = None
    """The gradient, while it waits for the inputs."""
    used: bool = False
    """Whether it was handed over."""


class ModuleCalls:
    """Hooks on `modules`, each `timed`; every complete call goes to `receive`, every exception on the way to `fail`."""

    def __init__(
        self,
        modules: tuple[TrainedModule, ...],
        recording: Callable[[], bool],
        receive: Receive,
        fail: Callable[[Exception], None],
        timed: Timed = untimed,
    ) -> None:
        self._recording, self._receive, self._fail, self._timed = recording, receive, fail, timed
        self._handles: list[RemovableHandle] = []
        for owner in modules:
            before, after = timed(partial(self._before, owner)), timed(partial(self._after, owner))
            self._handles.append(owner.module.register_forward_pre_hook(before, with_kwargs=True))
            self._handles.append(owner.module.register_forward_hook(after, with_kwargs=True))
        self.clear()

    def remove(self) -> None:
        """Takes the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def clear(self) -> None:
        """Forgets all calls."""
        self.is_open = False
        self._batch, self._rows = -1, 0
        self._waiting: dict[str, deque[Call]] = {}
        self._repeated: set[str] = set()
        self._halves: dict[int, Call] = {}
        self._complete: list[Call] = []

    def open(self, batch: int, rows: int) -> None:
        """A forward of the micro-batch with that number begins."""
        self.is_open, self._batch, self._rows = True, batch, rows
        self._waiting.clear()

    def close(self) -> None:
        """The forward has ended; what runs from now on is a repetition."""
        self.is_open = False

    def settle(self) -> None:
        """Hands over the calls that a repetition completed. Never inside one: what is done there is saved for the
        backward, and in the forward's autocast."""
        calls, self._complete = self._complete, []
        for call in calls:
            gradient, call.gradient = call.gradient, None
            assert gradient is not None
            self._hand_over(call, gradient)

    @property
    def without_inputs(self) -> str:
        """The first module whose gradient waits for inputs; empty where none does."""
        return next((call.owner.name for call in self._halves.values()), "")

    def _before(
        self, owner: TrainedModule, _module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        self._repeated.discard(owner.name)
        if self.is_open or not self._recording() or not self._waiting.get(owner.name):
            return
        # The repetition may stop inside this module, once it has all that the backward needs: `_after` is not sure.
        call = self._waiting[owner.name].popleft()
        self._repeated.add(owner.name)
        try:
            call.inputs = kept_inputs(owner, args, kwargs)
        except Exception as error:  # the trainer's backward goes on whatever happens here
            self._fail(error)
            return
        if self._halves.pop(id(call), None) is not None:
            self._complete.append(call)

    def _after(
        self, owner: TrainedModule, _module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any
    ) -> Tensor | None:
        if owner.name in self._repeated:
            self._repeated.discard(owner.name)
            return None
        if self._batch < 0 or not self._recording():
            return None
        if not isinstance(output, Tensor):
            self._fail(no_tensor(owner, output))
            return None
        if not output.requires_grad:
            return None
        args, output, spread = spread_rows(owner, args, output, self._rows)
        call = Call(owner, self._batch, None)
        try:
            if self.is_open and needs_inputs(owner) and _checkpointed(owner):
                self._waiting.setdefault(owner.name, deque()).append(call)
            else:
                call.inputs = kept_inputs(owner, args, kwargs)
            output.register_hook(self._timed(partial(self._on_gradient, call)))
        except Exception as error:  # the trainer's forward goes on whatever happens here
            self._fail(error)
        return spread

    def _on_gradient(self, call: Call, gradient: Tensor) -> None:
        self.settle()
        if call.used:
            remedy = "let every forward be followed by one backward."
            self._fail(MeasurementError(describe("gradients by row", f"two of {call.owner.name}", "one", remedy)))
        elif call.inputs is None:
            call.gradient, self._halves[id(call)] = gradient.detach(), call
        else:
            self._hand_over(call, gradient)

    def _hand_over(self, call: Call, gradient: Tensor) -> None:
        inputs, call.inputs, call.used = call.inputs, None, True
        assert inputs is not None
        try:
            self._receive(call.owner, call.batch, inputs, gradient)
        except Exception as error:  # the trainer's backward goes on whatever happens here
            self._fail(error)


def _checkpointed(owner: TrainedModule) -> bool:
    layer: Any = owner.checkpointing
    return layer is not None and layer.gradient_checkpointing and layer.training
