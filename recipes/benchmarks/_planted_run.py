"""One run of the detection benchmark: a monitored training, and what was said of its rows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from _bed import Bed
from _planted_rows import Order, as_dataset
from _witness import GRADIENT_RIVALS, Witness

from smda_monitor.callback import SMDACallback
from smda_monitor.instruments.products import fast_pass
from smda_monitor.maths.by_kind import readings_by_kind
from smda_monitor.outputs.ledger_reader import LedgerView, read_ledger
from smda_monitor.records.account import RowEntry


@dataclass(frozen=True, slots=True)
class JudgedRow:
    """A row after the warm-up."""

    id: str
    kind: str
    planted: bool
    control: str | None
    """Id of its control; None where there is none, or the row is clean."""
    step: int
    """That trained on it."""
    scores: dict[str, dict[str, float]]
    """By score, then by behaviour where it is read for each, else under one empty name; higher is more suspicious."""


@dataclass(frozen=True, slots=True)
class RaisedAlert:
    """An alert of a run."""

    behaviour: str
    kind: str
    step: int
    subject: str
    rows: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunFound:
    """What one run gave."""

    rows: tuple[JudgedRow, ...]
    alerts: tuple[RaisedAlert, ...]
    drift: dict[str, dict[str, float]]
    """By behaviour and kind: change of the log-odds over the whole probe set from first to last step, nats."""
    seconds: float
    """Of the whole run."""

    def as_json(self) -> dict[str, Any]:
        """As it is written."""
        return asdict(self)

    @staticmethod
    def of_json(raw: Mapping[str, Any]) -> RunFound:
        """Back from `as_json`."""
        rows = tuple(JudgedRow(**row) for row in raw["rows"])
        alerts = tuple(RaisedAlert(**{**alert, "rows": tuple(alert["rows"])}) for alert in raw["alerts"])
        return RunFound(rows, alerts, raw["drift"], raw["seconds"])


Texts = Mapping[str, Mapping[str, Mapping[str, float]]]
"""By score of a row's text, then by behaviour or an empty name, then by row id."""


def planted_run(
    bed: Bed,
    configs: Mapping[str, Mapping[str, Any]],
    order: Order,
    folder: Path,
    batch: int,
    learning_rate: float,
    texts: Texts,
) -> RunFound:
    """Trains LoRA on the rows of `order`, in this order, with a monitor for each of `configs`, by behaviour."""
    began, data = time.perf_counter(), as_dataset(order.rows)
    monitors = {
        name: SMDACallback({**config, "outputs": _outputs(folder / name)}, rows=data)
        for name, config in configs.items()
    }
    witness = Witness(monitors)
    trainer = bed.trainer(
        bed.model("lora"),
        data,
        [*monitors.values(), witness],
        max_steps=-(-len(order.rows) // batch),
        per_device_train_batch_size=batch,
        learning_rate=learning_rate,
        # Adam's first steps are sign-like: at the full rate they would be most of a clean run's drift.
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=order.judged_from // batch,
        train_sampling_strategy="sequential",
    )
    try:
        with fast_pass(torch.device("cpu")):
            trainer.train()
    finally:
        for monitor in monitors.values():
            monitor.close()
    views = {name: read_ledger(folder / name) for name in monitors}
    entries = {
        name: {row.row_id: row for account in view.accounts for row in account.rows} for name, view in views.items()
    }
    return RunFound(
        rows=tuple(_judged(order, place, batch, entries, witness, texts) for place in order.judged),
        alerts=tuple(
            RaisedAlert(name, one.kind, one.step, one.subject, one.rows)
            for name, v in views.items()
            for one in v.alerts
        ),
        drift={name: _drift(view) for name, view in views.items()},
        seconds=time.perf_counter() - began,
    )


def _judged(
    order: Order,
    place: int,
    batch: int,
    entries: Mapping[str, Mapping[str, RowEntry]],
    witness: Witness,
    texts: Texts,
) -> JudgedRow:
    """The row at `place`. The row score is that of its own step, by every behaviour."""
    row = order.rows[place]
    own = {name: found[row.id] for name, found in entries.items()}
    first = next(iter(own.values()))
    scores: dict[str, dict[str, float]] = {
        "smda": {name: entry.score for name, entry in own.items()},
        "expected": {name: entry.expected for name, entry in own.items()},
        "loss": {"": first.loss},
        "gradient_norm": {"": first.gradient_norm},
    }
    for rival in GRADIENT_RIVALS:
        scores[rival] = {name: found[row.id][rival] for name, found in witness.found.items()}
    for rival, by_behaviour in texts.items():
        scores[rival] = {name: found[row.id] for name, found in by_behaviour.items()}
    return JudgedRow(row.id, row.kind, row.planted, order.control_of(row), 1 + place // batch, scores)


def _outputs(folder: Path) -> dict[str, Any]:
    return {"folder": str(folder), "exists": "move_aside", "row_text": "none", "wandb": False}


def _drift(view: LedgerView) -> dict[str, float]:
    first, last = view.snapshots[0], view.snapshots[-1]
    before, after = (readings_by_kind(snapshot, view.probes)[0] for snapshot in (first, last))
    return {name: after[name] - before[name] for name in after}
