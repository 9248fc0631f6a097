"""Random rows to set beside chosen ones: as many, and each about as long as its counterpart.

In random order each chosen row takes one of the `NEAR` free rows that are nearest to it in length, by chance. So the
draw is random and yet takes out about as many tokens.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence

import torch

from ..errors import ConfigError, describe

NEAR = 5
"""Free rows among which one is drawn."""


def matched_rows(lengths: Sequence[int], chosen: Collection[int], seed: int) -> tuple[int, ...]:
    """Places, rising, of as many rows as `chosen`, none of them in it and none twice; the same for the same `seed`.

    Args:
        lengths: Tokens of every row.
        chosen: Places of the rows that are to be matched.
        seed: Of the draw. No global random state is used.

    Raises:
        ConfigError: fewer rows are left than chosen.
    """
    free = sorted((lengths[i], i) for i in set(range(len(lengths))) - set(chosen))
    if len(free) < len(chosen):
        found = f"{len(chosen)} of {len(lengths)} rows flagged"
        remedy = "curate at a lower false-discovery rate: there are not as many others to set beside them."
        raise ConfigError(describe("random removal", found, "at most half of the rows", remedy))
    generator = torch.Generator().manual_seed(seed)
    order = sorted(chosen)
    taken = []
    for k in torch.randperm(len(order), generator=generator).tolist():
        wanted = lengths[order[k]]
        at = bisect_left(free, (wanted, 0))
        around = range(max(0, at - NEAR), min(len(free), at + NEAR))
        near = sorted(around, key=lambda j: abs(free[j][0] - wanted))[:NEAR]
        drawn = near[int(torch.randint(len(near), (1,), generator=generator))]
        taken.append(free.pop(drawn)[1])
    return tuple(sorted(taken))
