"""What is made of an audit's judged rows beside their scores: groups compared, texts of leading rows. Wiring."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from ..instruments.row_store import TrainingRows, before_answer, turns
from ..maths.row_kinds import feature_contrasts, kind_interference, reads_harmful
from ..outputs.row_audit_tables import read_scores
from ..outputs.row_kinds_files import read_watched, summarise, write_row_kinds
from ..outputs.row_texts import KEPT, drop_row_texts, write_row_texts
from ..records.config import WantedOn
from ..records.row_kinds import RowKinds
from ..records.training_row import Message

GROUPS = ("harmful prompt", "harmless prompt")
"""Names of the kinds where the data name none."""
UNNAMED = "(no kind)"
"""Rows without a kind in data that name kinds."""


def compare_groups(folder: Path, labels: Mapping[int, str], wanted_on: WantedOn = "harmful") -> dict[str, Any]:
    """Compares the rows judged in `folder` by group, writes what was found there, and returns its figures for the
    summary (`row_kinds_files.summarise`). `labels`: what the data call the kinds of rows, by line, if they do;
    `wanted_on`: on which prompts the behaviour is right."""
    rows = read_watched(folder / "judged")
    if rows is None:
        return summarise(None)
    harmful = reads_harmful(rows.expected, wanted_on)
    groups = [GROUPS[0] if is_harmful else GROUPS[1] for is_harmful in harmful.tolist()]
    kinds = [labels.get(line, UNNAMED) for line in rows.lines] if labels else groups
    found = RowKinds(
        named=bool(labels),
        features=rows.features,
        contrasts=feature_contrasts(rows.features, rows.coef, rows.shift_X, rows.shift_Y, harmful),
        kinds=kind_interference(rows.coef, rows.shift_X, rows.shift_Y, rows.intended, rows.unintended, kinds),
    )
    write_row_kinds(folder, found)
    return summarise(found)


def keep_texts(folder: Path, rows: TrainingRows, allowed: Literal["none", "local", "upload"]) -> None:
    """Keeps the texts of the rows with the highest scores in `folder`, for its report, where that is `allowed`."""
    if allowed == "none":
        drop_row_texts(folder)
    else:
        write_row_texts(folder, _leading_texts(rows, read_scores(folder / "scores.parquet", KEPT)))


def _leading_texts(rows: TrainingRows, leading: list[dict[str, Any]]) -> Iterator[Mapping[str, str]]:
    lines = rows.data["line"]
    for one in leading:
        row = rows.data[bisect_left(lines, one["line"])]
        before, whole = before_answer(row), turns(row)
        texts = {"prompt": _text(before), "response": _text(whole[len(before) :])}
        yield {"id": one["row_id"], "hash": one["row_hash"], **texts}


def _text(messages: tuple[Message, ...]) -> str:
    """A lone message as it is; of several, each with its role."""
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"{message.role}: {message.content}" for message in messages)
