"""Figures for Weights & Biases: few scalars, one table of rows, alerts, and one artifact at the end.

Follows the user's own W&B run and never opens one. Without wandb, or without a run in progress, it does nothing.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from ..maths.fidelity import pooled_fidelity
from ..maths.interference import Pooled
from ..records.account import StepAccount
from ..records.alert import Alert
from ..records.audit import AuditEntry
from ..records.config import REFUSAL
from ..records.snapshot import Snapshot
from .ledger_reader import read_row_texts
from .sink import RunHeader
from .text import plain

POLICY_TARGETS = ("S_X", "S_Y")
"""Targets whose measured shift and unexplained fraction are logged."""
COLUMNS = (
    "step", "row_id", "row_hash", "tokens", "loss", "gradient_norm", "push_S_X", "push_S_Y", "own_push", "own_mass",
    "own_predicted", "expected", "interference", "dominant_feature", "unintended", "score",
)  # fmt: skip
"""Columns of the table of rows; ``prompt`` and ``response`` follow only under ``row_text="upload"``."""


PART = 20
"""In a long run the table of rows follows when one in so many accounts is not yet in it."""


class WandbSink:
    """A `Sink` on the W&B run in progress.

    Scalars are ``smda/…`` beside ``train/global_step``, those of another behaviour than refusal ``smda/<name>/…`` (see
    `prefix`); ``step=`` is never passed, because the trainer logs under its own. Rows go up as ids and hashes; their
    text, ``rows.jsonl`` and the report only with ``row_text="upload"``. The table is incremental and every flush lists
    all earlier ones: it comes every `flush_every` accounts, in a long run after one `PART`th of all so far, so that
    what is written grows no faster than the run.
    """

    def __init__(self, row_text: Literal["none", "local", "upload"] = "none", flush_every: int = 50) -> None:
        self._upload_text = row_text == "upload"
        self._flush_every = flush_every
        self._folder: Path | None = None
        self._behaviour = REFUSAL
        self._run_id: str | None = None
        self._table: Any = None
        self._pending: list[StepAccount] = []
        self._logged = 0
        self._alerted: set[str] = set()
        self._audits: list[AuditEntry] = []
        self._effects = Pooled()

    def start(self, run: RunHeader) -> None:
        """Remembers the run folder; nothing is logged before the first account."""
        self._folder, self._behaviour = run.folder, run.behaviour
        self._audits = list(run.past.audits)
        self._effects = Pooled.of(row for account in run.past.accounts for row in account.rows)

    def snapshot(self, s: Snapshot) -> None:
        """Snapshots go up with the final artifact."""

    def audits(self, audits: Sequence[AuditEntry]) -> None:
        """Logs the fidelity of all rows replayed so far."""
        self._audits += audits
        if (run := self._run()) is not None:
            run.log({**fidelity_scalars(self._audits, self._behaviour), "train/global_step": audits[0].step})

    def account(self, a: StepAccount) -> None:
        """Logs the scalars, and the table of rows every `flush_every` accounts."""
        effects = Pooled.of(a.rows)
        self._effects += effects
        run = self._run()
        if run is None:
            return
        effect = effect_scalars(effects, self._effects, self._behaviour)
        run.log({**scalars(a, self._behaviour), **effect, "train/global_step": a.step})
        self._pending.append(a)
        if len(self._pending) >= max(self._flush_every, self._logged / PART):
            self._flush(run)

    def alert(self, a: Alert) -> None:
        """Raises a W&B alert, once per subject."""
        run = self._run()
        if run is None or a.subject in self._alerted:
            return
        self._alerted.add(a.subject)
        rows = (
            ", ".join(f"{plain(row, 80)} ({push:+.3g})" for row, push in zip(a.rows, a.pushes, strict=True)) or "none"
        )
        text = f"Step {a.step} (since step {a.since}): {a.title}\nRows behind it, with their pushes: {rows}\n{a.advice}"
        run.alert(title=plain(a.title, 200), text=text, level="WARN")

    def finish(self, summary: dict[str, Any]) -> None:
        """Logs the rest of the table and the artifact."""
        run = self._run()
        if run is None:
            return
        self._flush(run)
        self._log_artifact(run)

    def _run(self) -> Any:
        """The run in progress, read anew each time, or None. Whoever opened a run has imported wandb."""
        if sys.modules.get("wandb") is None:
            return None
        import wandb

        run = wandb.run
        if run is not None and run.id != self._run_id:
            self._run_id = run.id
            self._table, self._logged = None, 0
            run.define_metric("train/global_step")
            run.define_metric("smda/*", step_metric="train/global_step")
        return run

    def _flush(self, run: Any) -> None:
        if not self._pending:
            return
        import wandb

        if self._table is None:
            columns: list[str | int] = [*COLUMNS, *(("prompt", "response") if self._upload_text else ())]
            self._table = wandb.Table(columns=columns, log_mode="INCREMENTAL")
        texts = read_row_texts(self._folder) if self._upload_text and self._folder else {}  # it grows during the run
        for account in self._pending:
            for row in account.rows:
                cells: list[Any] = [plain(row.row_id) if name == "row_id" else _cell(row, name) for name in COLUMNS]
                if self._upload_text:
                    text = texts.get(row.row_hash)
                    cells += [text.prompt, text.response] if text else ["", ""]
                self._table.add_data(*cells)
        run.log({f"{prefix(self._behaviour)}/rows": self._table, "train/global_step": self._pending[-1].step})
        self._logged += len(self._pending)
        self._pending = []

    def _log_artifact(self, run: Any) -> None:
        if self._folder is None or not self._folder.is_dir():
            return
        import wandb

        name = f"{prefix(self._behaviour)}-ledger-{run.id}"
        artifact = wandb.Artifact(re.sub(r"[^\w.-]", "-", name), type="smda-ledger")
        for path in artifact_files(self._folder, self._upload_text):
            artifact.add_file(str(path), name=path.relative_to(self._folder).as_posix())
        run.log_artifact(artifact)


def _cell(row: Any, name: str) -> Any:
    if name.startswith("push_"):
        return row.push.get(name.removeprefix("push_"))
    return getattr(row, name)


def prefix(behaviour: str) -> str:
    """Of all W&B names of a monitor: ``smda`` for refusal, ``smda/<name>`` for another behaviour, so that the monitors
    of one run stay apart."""
    return "smda" if behaviour == REFUSAL else "smda/" + re.sub(r"[^\w.-]", "-", behaviour)


def scalars(account: StepAccount, behaviour: str = REFUSAL) -> dict[str, float]:
    """The few scalars of one account, by W&B name; the readings of a behaviour are ``smda/<its name>/<reading>``."""
    name = prefix(behaviour)
    readings = "smda/refusal" if behaviour == REFUSAL else name
    values = {f"{readings}/{reading}": value for reading, value in account.refusal.items()}
    for balance in account.balances:
        if balance.target in POLICY_TARGETS:
            values[f"{name}/measured/{balance.target}"] = balance.measured
            values[f"{name}/unexplained/{balance.target}"] = balance.unexplained_fraction
    values[f"{name}/health/fvu"] = account.health.fvu
    values[f"{name}/health/l0"] = account.health.l0
    values[f"{name}/health/dead"] = account.health.dead
    values[f"{name}/capture_error"] = account.capture_error
    values[f"{name}/refit_remainder"] = account.refit_remainder
    values[f"{name}/seconds"] = account.seconds
    return values


def effect_scalars(account: Pooled, so_far: Pooled, behaviour: str = REFUSAL) -> dict[str, float]:
    """What the rows of one account, and those of the run `so_far`, did to the policy that their prompts did not call
    for, by W&B name; what is not known is left out."""
    name = prefix(behaviour)
    values = {
        f"{name}/interference": account.interference,
        f"{name}/run/interference": so_far.interference,
        f"{name}/run/unintended": so_far.unintended,
    }
    return {key: value for key, value in values.items() if value == value}


def fidelity_scalars(audits: Sequence[AuditEntry], behaviour: str = REFUSAL) -> dict[str, float]:
    """Over all targets, by W&B name; what cannot be said yet is left out. ``after_warm_up`` is 0 while there are only
    rows of warm-up steps, whose figures are of low confidence."""
    pooled = pooled_fidelity(audits)
    names = ("relative_error", "sign", "spearman")
    values = {name: float(getattr(pooled.overall, name)) for name in names}
    values["after_warm_up"] = float(pooled.after_warm_up)
    return {f"{prefix(behaviour)}/audit/{name}": value for name, value in values.items() if value == value}


def artifact_files(folder: Path, row_text: bool) -> list[Path]:
    """What the final artifact holds: Parquet, manifest, policy, snapshots; with `row_text` the report and the rows'
    text, too. Everything else in the folder (probe texts, cards) stays local."""
    patterns = ["manifest.json", "ledger/*.parquet", "policy/**/*", "snapshots/*.safetensors"]
    patterns += ["report.html", "rows.jsonl"] if row_text else []
    return sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
