"""The local ledger: the truth of a run, complete on disk at every step.

    manifest.json            what ran: config, versions, fingerprints, times, status (running until `finish`)
    probes.jsonl             the probe set
    ledger/rows-*.parquet    one line per training row and step      ledger/accounts-*.parquet   one line per account
    ledger/past-*.parquet    one line per account and earlier row to whom momentum's part is handed on
    ledger/audits-*.parquet  one line per row that was replayed
    ledger/coefficients.parquet   the policy's coefficients with their bootstrap intervals
    alerts.jsonl             one line per alert; review.jsonl the rows that they name (`review`)
    snapshots/step-*.safetensors  features and behaviour of the probes
    rows.jsonl               id, hash, prompt, response; only where the config allows row text
    feature_cards.json, summary.json   closing figures

A step is in the ledger once its accounts part is: audits and rows are written first, and those without an account are
not read. So a kill loses at most the account in progress.
"""

from __future__ import annotations

import datetime
import os
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import ConfigError, describe
from ..records.account import StepAccount
from ..records.alert import Alert
from ..records.audit import AuditEntry
from ..records.policy import SymbolicPolicy
from ..records.snapshot import Snapshot
from . import parts
from .audit_tables import audits_to_table
from .files import read_json, read_json_lines, to_json, write_atomic, write_text
from .sink import RunHeader
from .snapshots import save_snapshot, snapshot_files
from .tables import accounts_to_table, past_to_table, rows_to_table
from .text import storable

FORMAT = 1
"""Version of the layout, in the manifest."""
STEMS = ("accounts", "rows", "past", "audits")
"""The tables that grow by step, the one that decides what is read first."""
MERGE = 64
"""Parts that are merged into one range."""


def now() -> str:
    """The time in UTC, to the second, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class Ledger:
    """Writes one run folder. A `Sink` whose errors stop the run.

    `resume` goes on in a folder that already holds the run; call `drop_after` with the checkpoint's step before the
    first account. Raises `ConfigError` where there is nothing to resume from that can be read, `OSError` where the
    disk refuses.
    """

    def __init__(self, folder: str | Path, resume: bool = False, merge: int = MERGE) -> None:
        self.folder = Path(folder)
        self.home = self.folder / "ledger"
        assert merge > 1, "a range holds at least two parts"
        self._merge = merge
        self.last_step = 0
        """The last step that has an account; 0 where there is none."""
        self._resumed, self._started = resume, False
        self.home.mkdir(parents=True, exist_ok=True)
        if resume:
            parts.tidy(self.home)
            self.drop_after(max((p.last for p in parts.live_parts(self.home, "accounts")), default=0), alerts=False)
            for name in ("alerts.jsonl", "rows.jsonl"):
                _cut_unfinished_line(self.folder / name)

    @property
    def run_id(self) -> str:
        """The run's own name, the same when it is resumed."""
        return str(read_json(self.folder / "manifest.json", "manifest")["id"])

    def start(self, run: RunHeader) -> None:
        """Writes the manifest (status ``running``), the probe set and the policy's coefficients."""
        path = self.folder / "manifest.json"
        earlier: dict[str, Any] = read_json(path, "manifest") if self._resumed and path.exists() else {}
        manifest = {
            **run.manifest,
            "format": FORMAT,
            "id": earlier.get("id", uuid.uuid4().hex),
            "status": "running",
            "started": earlier.get("started", now()),
            "resumed": [*earlier.get("resumed", []), now()] if earlier else [],
            "finished": None,
            "probes": {"count": len(run.probes), "fingerprint": run.probes.fingerprint},
            "policy": describe_policy(run.policy),
        }
        write_text(self.folder / "probes.jsonl", "".join(to_json(asdict(probe)) + "\n" for probe in run.probes))
        write_atomic(self.home / "coefficients.parquet", lambda temporary: _write_coefficients(temporary, run.policy))
        write_text(path, to_json(manifest, indent=2))
        self._started = True

    def snapshot(self, s: Snapshot) -> None:
        """Writes ``snapshots/step-<step>.safetensors``."""
        save_snapshot(self.folder, s)

    def audits(self, audits: Sequence[AuditEntry]) -> None:
        """Writes the audits of the steps whose account comes next. Raises `ConfigError` as `account`."""
        steps = [audit.step for audit in audits]
        self._check_next(min(steps), "audits")
        parts.write_part(self.home, "audits", min(steps), max(steps), audits_to_table(audits))

    def account(self, a: StepAccount) -> None:
        """Appends the account. Raises `ConfigError` where its step is already in the ledger, or the run is gone."""
        self._check_next(a.step, "an account")
        if self._started and not (self.folder / "manifest.json").exists():
            remedy = "leave the run folder where it is while the run goes on."
            raise ConfigError(describe(f"ledger {self.folder}", "no manifest.json", "the run's own folder", remedy))
        parts.write_part(self.home, "rows", a.step, a.step, rows_to_table(a.rows))
        parts.write_part(self.home, "past", a.step, a.step, past_to_table(a.step, a.past))
        parts.write_part(self.home, "accounts", a.step, a.step, accounts_to_table([a]))
        self.last_step = a.step
        for stem in STEMS:
            parts.merge(self.home, stem, self._merge)

    def _check_next(self, step: int, what: str) -> None:
        if step <= self.last_step:
            found = f"{what} of step {step} after the account of step {self.last_step}"
            remedy = "a resumed run must call drop_after(step of its checkpoint) first; a new run needs a new folder"
            raise ConfigError(describe(f"ledger {self.folder}", found, "steps that only grow", remedy))

    def alert(self, a: Alert) -> None:
        """Appends one line to ``alerts.jsonl``; NaN and infinities are written as strings."""
        with (self.folder / "alerts.jsonl").open("a", encoding="utf-8") as handle:
            handle.write(to_json(asdict(a), spell=True) + "\n")
            handle.flush()
            os.fsync(handle.fileno())

    def row_texts(self, rows: list[dict[str, Any]]) -> None:
        """Appends to ``rows.jsonl`` (``id``, ``hash``, ``prompt``, ``response``; the last of an id counts). Only call
        it where the config's ``outputs.row_text`` is not ``none``: training text is private."""
        lines = ({name: row.get(name) for name in ("id", "hash", "prompt", "response")} for row in rows)
        with (self.folder / "rows.jsonl").open("a", encoding="utf-8") as handle:
            handle.write("".join(to_json(line) + "\n" for line in lines))

    def feature_cards(self, cards: list[dict[str, Any]]) -> None:
        """Writes ``feature_cards.json``: feature, coefficient, drift, density, top_probes, top_tokens of each."""
        write_text(self.folder / "feature_cards.json", to_json(cards, indent=1))

    def drop_after(self, step: int, alerts: bool = True) -> None:
        """Removes accounts, rows, audits, snapshots and alerts later than `step`, so that a run resumed from the
        checkpoint of `step` leaves no gap and no duplicate. Accounts go first: a kill in between leaves rows that
        nobody reads."""
        for stem in STEMS:
            parts.keep_until(self.home, stem, step)
        if alerts:
            for at, path in snapshot_files(self.folder).items():
                if at > step:
                    path.unlink()
            path = self.folder / "alerts.jsonl"
            kept = [a for a in read_json_lines(path, "alerts") if a["step"] <= step]
            if path.exists():
                write_text(path, "".join(to_json(a) + "\n" for a in kept))
        self.last_step = max((p.last for p in parts.live_parts(self.home, "accounts")), default=0)

    def finish(self, summary: dict[str, Any]) -> None:
        """Writes ``summary.json`` and closes the manifest with the summary's status, ``finished`` unless it says."""
        write_text(self.folder / "summary.json", to_json(summary, indent=2))
        path = self.folder / "manifest.json"
        manifest = {**read_json(path, "manifest"), "status": summary.get("status", "finished"), "finished": now()}
        write_text(path, to_json(manifest, indent=2))


def update_summary(folder: str | Path, figures: dict[str, Any]) -> None:
    """Adds closing figures to ``summary.json`` that only the recipe knows, e.g. AUROC against planted rows."""
    path = Path(folder) / "summary.json"
    write_text(path, to_json({**read_json(path, "summary"), **figures}, indent=2))


def describe_policy(policy: SymbolicPolicy) -> dict[str, Any]:
    """The policy's plain figures for the manifest; the policy itself is saved beside, under ``policy/``."""
    return {
        "preset": policy.preset,
        "alpha": policy.alpha,
        "intercept": policy.intercept,
        "has_intercept": policy.has_intercept,
        "features": len(policy.feature_ids),
        "fit_prompts": len(policy.fit_ids),
        "quality": asdict(policy.quality),
        "fingerprints": asdict(policy.fingerprints),
        "notes": {storable(key): storable(value) for key, value in policy.notes.items()},
    }


def _write_coefficients(path: Path, policy: SymbolicPolicy) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"coef": policy.coef, "low": policy.coef_low, "high": policy.coef_high}
    arrays = {name: pa.array(values.double().tolist(), pa.float64()) for name, values in columns.items()}
    pq.write_table(pa.table({"feature": pa.array(policy.feature_ids, pa.int64()), **arrays}), path, compression="zstd")


def _cut_unfinished_line(path: Path) -> None:
    """Drops what a kill left after the last newline, so that the next line does not grow out of it."""
    if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        whole = content[: content.rfind(b"\n") + 1]
        write_atomic(path, lambda temporary: temporary.write_bytes(whole))
