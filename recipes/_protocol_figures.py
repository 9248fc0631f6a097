"""What the paper's protocol reports of an audit: scores of harmful and harmless pairs, interference, median rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _pairs import HARMFUL, HARMLESS
from numpy.typing import NDArray

from smda_monitor.maths.agreement import spearman
from smda_monitor.maths.curation import curate_by_median
from smda_monitor.outputs.row_audit_tables import judged_columns

Array = NDArray[np.float64]
SCORES = ("S", "S_X", "S_Y")
GROUPS = ("all", HARMFUL, HARMLESS)


@dataclass(frozen=True, slots=True)
class Judged:
    """The rows of one audit."""

    ids: tuple[str, ...]
    """In their order."""
    scores: dict[str, Array]
    """(n,) S, S_X and S_Y; units of w²."""
    interference: Array
    """(n,) in [0, 1]; NaN where a row has no prompt of its own."""
    unintended: Array
    """(n,) 1 or 0."""
    sides: tuple[str | None, ...]
    """``harmful``, ``harmless``, or None where the file does not say."""

    @classmethod
    def read(cls, folder: Path, sides: Mapping[str, str]) -> Judged:
        """From the audit in `folder`."""
        names = ("row_id", "push.S_X", "push.S_Y", "interference", "unintended")
        table = judged_columns(folder / "judged", names)
        ids, columns = tuple(table["row_id"].to_pylist()), [np.asarray(table[n].to_numpy(), float) for n in names[1:]]
        S_X, S_Y, interference, unintended = columns
        scores = {"S": S_X + S_Y, "S_X": S_X, "S_Y": S_Y}
        return cls(ids, scores, interference, unintended, tuple(sides.get(one) for one in ids))

    def group(self, name: str) -> NDArray[np.bool_]:
        """(n,) the rows of one of `GROUPS`."""
        return np.array([name == "all" or side == name for side in self.sides], dtype=bool)


def misaligned(judged: Judged) -> NDArray[np.bool_]:
    """(n,) what the paper's median rule removes, by the file's own word for harmful and harmless; none where a side has
    no pair."""
    calls_for = {HARMFUL: 1.0, HARMLESS: -1.0, None: np.nan}
    expected = torch.tensor([calls_for[side] for side in judged.sides], dtype=torch.float64)
    removed: NDArray[np.bool_] = curate_by_median(torch.from_numpy(judged.scores["S"]), expected)[0].numpy()
    return removed


def figures(judged: Judged) -> dict[str, Any]:
    """By group: ``rows``, of each score ``quartiles`` (three) and ``positive`` (the share that reinforces the policy),
    ``interference`` (median), ``unintended`` (share), ``keep`` and ``remove`` (median rule)."""
    removed = misaligned(judged)
    found = {}
    for name in GROUPS:
        inside = judged.group(name)
        if not inside.any():
            continue
        scores = {
            score: {
                "quartiles": np.quantile(values[inside], (0.25, 0.5, 0.75)).tolist(),
                "positive": float((values[inside] > 0).mean()),
            }
            for score, values in judged.scores.items()
        }
        read = judged.interference[inside & ~np.isnan(judged.interference)]
        found[name] = {
            "rows": int(inside.sum()),
            **scores,
            "interference": float(np.median(read)) if len(read) else float("nan"),
            "unintended": float(judged.unintended[inside].mean()),
            "keep": int((inside & ~removed).sum()),
            "remove": int((inside & removed).sum()),
        }
    return found


def compared(ours: Judged, theirs: Judged) -> dict[str, Any]:
    """How two audits of the same rows agree: ``spearman`` of each score, and of the rows that the median rule removes
    how many are removed by ``both`` and by ``either``."""
    assert ours.ids == theirs.ids
    ranked = {name: spearman(ours.scores[name].tolist(), theirs.scores[name].tolist()) for name in SCORES}
    one, other = misaligned(ours), misaligned(theirs)
    return {"spearman": ranked, "both": int((one & other).sum()), "either": int((one | other).sum())}


def table_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """The cells of one preset's table, a line for each group."""
    return [[name, str(group["rows"]), *_cells(group)] for name, group in found.items()]


def _cells(group: Mapping[str, Any]) -> Sequence[str]:
    scores = [
        f"{median:+.2e} [{low:+.1e}, {high:+.1e}]" for low, median, high in (group[s]["quartiles"] for s in SCORES)
    ]
    positive, unintended = f"{group['S']['positive']:.0%}", f"{group['unintended']:.0%}"
    return [*scores, positive, f"{group['interference']:.2f}", unintended, str(group["keep"]), str(group["remove"])]
