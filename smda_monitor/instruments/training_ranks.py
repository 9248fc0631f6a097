"""The processes of one training under torch.distributed, each with a copy of all parameters: they share the probes and
exchange what they found, so that each has the account of the whole step.

They exchange over a gloo group of the monitor's own, in the hosts' memory, whatever the training itself uses. Every
rank takes part in every exchange, in the same order; one that fails says so at the next, and all others end with it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
from torch import distributed

from ..errors import MeasurementError, describe
from .ranks import Rank

Value = TypeVar("Value")
Kind = Literal["value", "end", "failed"]


PATIENCE = timedelta(hours=12)
"""How long one waits for the others: the first rank may fit a policy, write, and call a function of the user's."""


class PeerError(MeasurementError):
    """Another rank has failed, so this one has no figure either."""


class TrainingRanks(Rank):
    """One process of `count`; `group` is where they exchange, None for a process alone, and `device` where the tensors
    of others are put that came from a device."""

    def __init__(
        self,
        number: int = 0,
        count: int = 1,
        group: Any = None,
        device: torch.device | None = None,
        in_step: bool = False,
    ) -> None:
        super().__init__(number, count)
        self._group, self._device = group, device
        self.in_step = in_step
        """Whether every forward is one of all ranks, because each has a shard of the model alone: then nothing that is
        measured is shared out."""

    @classmethod
    def joined(cls, device: torch.device, in_step: bool = False) -> TrainingRanks:
        """This process among those of its training, or alone. All of them have to call it."""
        if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
            return cls()
        group = distributed.new_group(backend="gloo", timeout=PATIENCE)
        return cls(distributed.get_rank(), distributed.get_world_size(), group, device, in_step)

    def gather(self, value: Value) -> list[Value]:
        """The `value` of every rank, by rank. Raises `PeerError` where one has failed."""
        return [value] if self.count == 1 else self._exchange("value", value)

    def of_first(self, value: Value) -> Value:
        """The `value` that the first rank has; what the others give does not count. Raises as `gather`."""
        return value if self.count == 1 else self.gather(value if self.first else None)[0]  # type: ignore[return-value]

    def by_share(self, count: int, work: Callable[[Sequence[int]], Value]) -> tuple[list[Value], list[int]]:
        """What `work` makes of the numbers 0 … `count` − 1, of which each rank does its share, or where they go in step
        all: what each rank with a share made, and the numbers, one rank's after the other's. Raises as `gather`."""
        if self.in_step:
            return [work(range(count))], list(range(count))
        own = self.share(range(count))
        made = self.gather((own, work(own)) if own else None)
        parts = [part for part in made if part is not None]
        return [found for _, found in parts], [number for numbers, _ in parts for number in numbers]

    def of_shares(self, value: Value) -> list[Value]:
        """What each rank made of its share (`by_share`), in their order. Raises as `gather`."""
        return [value] if self.in_step else self.gather(value)

    @contextmanager
    def agreed(self) -> Iterator[None]:
        """Around what all ranks do: it ends well on all of them or on none. An error is told to the others, which raise
        `PeerError` at their next exchange or at the end of theirs."""
        try:
            yield
        except PeerError:
            raise
        except Exception as error:
            if self.count > 1:
                with suppress(PeerError):
                    self._exchange("failed", str(error) or type(error).__name__)
            raise
        if self.count > 1:
            self._exchange("end", None)

    def leave(self) -> None:
        """The end: there is no exchange from here on."""
        if self._group is not None and distributed.is_initialized():
            distributed.destroy_process_group(self._group)
        self._group = None

    def _exchange(self, kind: Kind, value: Any) -> list[Any]:
        assert self._group is not None, "it has left"
        packed, found = io.BytesIO(), [b""] * self.count
        torch.save((kind, value), packed)
        try:
            distributed.all_gather_object(found, packed.getvalue(), group=self._group)
        except RuntimeError as error:
            raise self._peer_error(f"no exchange with the others ({error})", "look which of them has ended.") from error
        here = [(kind, value) if rank == self.number else self._unpacked(one) for rank, one in enumerate(found)]
        for rank, (other, why) in enumerate(here):
            if other == "failed" and kind != "failed":
                raise self._peer_error(f"rank {rank} failed: {why}", "mend what it names.")
        if len({other for other, _ in here} - {"failed"}) > 1:
            remedy = "train with the same data, configuration and callbacks on every rank."
            raise self._peer_error("ranks that are not at the same point", remedy)
        return [one for _, one in here]

    def _unpacked(self, one: bytes) -> tuple[Kind, Any]:
        # A process of the same training, by torch's own exchange: nothing from outside is unpickled.
        found: tuple[Kind, Any] = torch.load(io.BytesIO(one), map_location=self._place, weights_only=False)
        return found

    def _peer_error(self, found: str, remedy: str) -> PeerError:
        return PeerError(describe(f"rank {self.number}", found, "all ranks at work", remedy))

    def _place(self, storage: Any, location: str) -> Any:
        return storage if location == "cpu" else storage.to(device=self._device)


ALONE = TrainingRanks()
"""A process that trains by itself."""
