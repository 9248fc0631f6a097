"""Whether trained parameters moved otherwise than by the optimizer's step: by another callback, or a checkpoint that
was loaded. By a checksum of each, so that nothing is copied; what moves a parameter and leaves its sum is not seen."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from .optimizer_step import bare_optimizer
from .parameters import TrainedParameters
from .sharded import own_part

logger = logging.getLogger("smda_monitor")


class OutsideMoves:
    """Watches from when it is made. `follow` the optimizer whose steps are none, and `look` as often as wanted."""

    def __init__(self, parameters: TrainedParameters) -> None:
        self._parameters = parameters
        self._known = self._sums()
        self.moved = False
        """Whether anything has, since the last `forget`."""
        self._followed: Any = None
        self._handle: RemovableHandle | None = None

    def follow(self, optimizer: Any) -> None:
        """What this optimizer does from now on is known."""
        bare = bare_optimizer(optimizer)
        if bare is not self._followed:
            self.remove()
            self._followed, self._handle = bare, bare.register_step_post_hook(self._on_step)

    def look(self, step: int) -> bool:
        """Whether anything else has moved a parameter since the last look; says so the first time: it was after
        `step`."""
        now = self._sums()
        moved, self._known = not torch.equal(now, self._known), now
        if moved and not self.moved:
            self.moved = True
            logger.warning(
                "Something other than the optimizer's step moved the trained parameters after step %d (another "
                "callback, or a checkpoint that was loaded). Its part is in what is measured.",
                step,
            )
        return moved

    def forget(self) -> None:
        """What has moved is accounted for."""
        self.moved = False

    def remove(self) -> None:
        """Takes the hook off."""
        if self._handle is not None:
            self._handle.remove()
            self._followed = self._handle = None

    def _on_step(self, *_: Any) -> None:
        self._known = self._sums()

    def _sums(self) -> Tensor:
        # As bits, so that NaN equals itself.
        sums = torch.stack([own_part(weight.detach()).sum(dtype=torch.float32) for weight in self._parameters.weights])
        return sums.cpu().view(torch.int32)
