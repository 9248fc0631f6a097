"""The earlier rows to whom momentum's part is handed on, and what is known of them. Wiring, no arithmetic."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import chain

from ..errors import describe
from ..maths.account import RowFacts
from ..maths.past import PastStep, remember
from ..records.config import AccountConfig
from .open_step import OpenStep

logger = logging.getLogger("smda_monitor")


class History:
    """The steps of a run whose rows' gradients are kept; empty at its start, also of a resumed one."""

    def __init__(self, config: AccountConfig) -> None:
        self._config = config
        self.past: list[PastStep] = []
        self._facts: dict[int, list[RowFacts]] = {}
        self._told = False

    def owners(self, steps: Sequence[OpenStep]) -> list[tuple[int, RowFacts]]:
        """Step and facts of the rows to whom history is handed on in an account of `steps`, in the order of its
        reading: those of `past`, then those of all `steps` but the last."""
        earlier = [(past.number, self._facts[past.number]) for past in self.past]
        within = [(one.number, one.facts) for one in steps[:-1]]
        return [(step, fact) for step, facts in chain(earlier, within) for fact in facts]

    def remember(self, steps: Sequence[OpenStep]) -> None:
        """Takes up the `steps` of an account; the oldest go."""
        limit = int(self._config.history_gib * 2**30)
        taken = [one.taken for one in steps if one.taken]
        wanted = min(len(self.past) + len(taken), self._config.history_steps)
        self.past = remember(self.past, taken, self._config.history_steps, limit)
        self._tell(wanted)
        known = self._facts | {one.number: one.facts for one in steps}
        self._facts = {past.number: known[past.number] for past in self.past}

    def _tell(self, wanted: int) -> None:
        """Says once that memory holds fewer steps than are `wanted`."""
        if self._told or len(self.past) >= wanted or not self._config.history_gib:
            return
        self._told = True
        found = f"the rows of the last {len(self.past)} steps, which fit into {self._config.history_gib:g} GiB"
        remedy = "go on: what older rows still do through momentum stands under history; or a larger history_gib."
        logger.warning(describe("account.history_steps", found, f"those of {wanted}", remedy))
