"""A run read back from its folder alone: everything that the report needs, nothing that needs a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, describe
from ..records.account import StepAccount
from ..records.alert import Alert
from ..records.audit import AuditEntry
from ..records.probes import Probe, ProbeSet
from . import parts
from .audit_tables import read_audits
from .files import read_json, read_json_lines
from .sink import Past
from .snapshots import SnapshotFiles
from .tables import table_to_accounts, table_to_past, table_to_rows


@dataclass(frozen=True, slots=True)
class Coefficient:
    """One feature of the symbolic policy."""

    feature: int
    """Feature id in the dictionary."""
    coef: float
    """w_k, units of y per activation unit."""
    low: float
    """2.5 % bootstrap quantile."""
    high: float
    """97.5 % bootstrap quantile."""


@dataclass(frozen=True, slots=True)
class TopProbe:
    """One probe on which a feature is strongly active."""

    id: str
    """The probe's id."""
    prompt: str
    """Its text; hostile like any text."""
    activation: float
    """The feature's activation on it."""


@dataclass(frozen=True, slots=True)
class FeatureCard:
    """What a feature seems to stand for."""

    feature: int
    """Feature id in the dictionary."""
    coefficient: float
    """w_k of the symbolic policy."""
    drift: float
    """Mean activation drift over the run."""
    density: float
    """Fraction of the probes on which it is active, in [0, 1]."""
    top_probes: tuple[TopProbe, ...]
    """The probes on which it is strongest."""
    top_tokens: tuple[str, ...]
    """The tokens that its decoder direction writes most strongly."""


@dataclass(frozen=True, slots=True)
class RowText:
    """The text of one training row, present only where the config allows it."""

    id: str
    """The row's id, as in `RowEntry.row_id`."""
    hash: str
    """The row's hash, as in `RowEntry.row_hash`."""
    prompt: str
    """The user's side."""
    response: str
    """The answer that the row teaches."""


@dataclass(frozen=True, slots=True)
class LedgerView:
    """One run, read from disk."""

    folder: Path
    """The run folder."""
    manifest: dict[str, Any]
    """Resolved config, versions, fingerprints, times, status, and plain figures of the policy under ``policy``."""
    probes: ProbeSet
    """The whole probe set; empty where its file is missing."""
    coefficients: tuple[Coefficient, ...]
    """The policy's coefficients, in column order of every snapshot's X; empty where their file is missing."""
    accounts: list[StepAccount]
    """One per step, ordered, with their rows."""
    audits: list[AuditEntry]
    """Rows that were replayed, by step."""
    alerts: list[Alert]
    """In the order in which they were raised."""
    snapshots: SnapshotFiles
    """Ordered by step, read when asked for."""
    row_texts: dict[str, RowText]
    """By row hash; empty where row text is not allowed."""
    feature_cards: list[FeatureCard]
    """Empty where none were written."""
    summary: dict[str, Any] | None
    """The closing figures; None for a run that has not finished."""


def read_ledger(folder: str | Path) -> LedgerView:
    """Reads the run in `folder`.

    Raises `ConfigError` naming the file for a missing folder, a missing or unreadable manifest, and a corrupt part,
    coefficient file, alert line, card or probe. A snapshot is read, and refused, only when it is asked for.
    """
    path = Path(folder)
    if not path.is_dir():
        found = "a file" if path.exists() else "no such folder"
        raise ConfigError(describe(f"run folder {path}", found, "a run folder", "name the folder of a run"))
    manifest_path = path / "manifest.json"
    if not manifest_path.is_file():
        raise ConfigError(
            describe(
                f"run folder {path}",
                "no manifest.json",
                "the manifest that a run writes at its start",
                "name the folder of a run, the one that holds ledger/ and manifest.json",
            )
        )
    manifest = read_json(manifest_path, "manifest")
    if not isinstance(manifest, dict):
        raise _unreadable(manifest_path, "not a JSON object")
    for key, kind in (("policy", dict), ("measured_probes", list), ("fingerprints", dict), ("config", dict)):
        if not isinstance(manifest.get(key, kind()), kind):
            raise _unreadable(manifest_path, f"a {type(manifest[key]).__name__} under {key!r}")
    summary = path / "summary.json"
    accounts = read_accounts(path)
    return LedgerView(
        folder=path,
        manifest=manifest,
        probes=_probes(path / "probes.jsonl"),
        coefficients=_coefficients(path / "ledger" / "coefficients.parquet"),
        accounts=accounts,
        audits=read_audits(path, accounts),
        alerts=_alerts(path / "alerts.jsonl"),
        snapshots=SnapshotFiles(path),
        row_texts=read_row_texts(path),
        feature_cards=_cards(path / "feature_cards.json"),
        summary=read_json(summary, "summary") if summary.is_file() else None,
    )


def read_accounts(folder: Path) -> list[StepAccount]:
    """The accounts of a run with their rows, by step. Raises `ConfigError` naming a corrupt part."""
    home = folder / "ledger"
    try:
        accounts, rows, past = (parts.read_parts(home, stem) for stem in ("accounts", "rows", "past"))
        if accounts is None:
            return []
        rows_found = [] if rows is None else table_to_rows(rows)
        return table_to_accounts(accounts, rows_found, {} if past is None else table_to_past(past))
    except (KeyError, TypeError) as error:
        raise _unreadable(home, f"parts without the column {error}") from error


def read_past(folder: Path) -> Past:
    """What the run in `folder` did so far. Raises `ConfigError` as `read_ledger`."""
    named = frozenset(text.id for text in read_row_texts(folder).values())
    accounts = read_accounts(folder)
    audits = read_audits(folder, accounts)
    alerts = tuple(_alerts(folder / "alerts.jsonl"))
    return Past(tuple(accounts), alerts, named, tuple(audits), SnapshotFiles(folder))


def read_row_texts(folder: Path) -> dict[str, RowText]:
    """The texts in ``rows.jsonl`` by row hash; empty where there is no such file."""
    path = folder / "rows.jsonl"
    try:
        texts = [RowText(*(str(r[k] or "") for k in ("id", "hash", "prompt", "response"))) for r in _lines(path)]
    except (KeyError, TypeError) as error:
        raise _unreadable(path, f"a row without {error}") from error
    return {text.hash: text for text in texts}


def _lines(path: Path) -> list[Any]:
    return read_json_lines(path, "file")


def _unreadable(path: Path, found: str) -> ConfigError:
    return ConfigError(describe(f"{path}", found, "what the ledger writes there", "restore it from a copy"))


def _probes(path: Path) -> ProbeSet:
    try:
        return ProbeSet(tuple(Probe(**line) for line in _lines(path)))
    except TypeError as error:
        raise _unreadable(path, f"a line that is no probe ({error})") from error


def _alerts(path: Path) -> list[Alert]:
    try:
        return [
            Alert(
                **{word: line[word] for word in ("kind", "subject", "quantity", "advice")},
                step=int(line["step"]),
                since=int(line["since"]),
                value=float(line["value"]),
                threshold=float(line["threshold"]),
                evidence=None if line["evidence"] is None else float(line["evidence"]),
                rows=tuple(line["rows"]),
                pushes=tuple(float(push) for push in line["pushes"]),
            )
            for line in _lines(path)
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(path, f"a line that is no alert ({error})") from error


def _coefficients(path: Path) -> tuple[Coefficient, ...]:
    if not path.is_file():
        return ()
    try:
        return tuple(Coefficient(**line) for line in parts.read_part(path).to_pylist())
    except TypeError as error:
        raise _unreadable(path, f"other columns ({error})") from error


def _cards(path: Path) -> list[FeatureCard]:
    if not path.is_file():
        return []
    try:
        return [
            FeatureCard(
                feature=int(card["feature"]),
                coefficient=_float(card["coefficient"]),
                drift=_float(card["drift"]),
                density=_float(card["density"]),
                top_probes=tuple(
                    TopProbe(str(p["id"]), str(p["prompt"]), _float(p["activation"])) for p in card["top_probes"]
                ),
                top_tokens=tuple(str(token) for token in card["top_tokens"]),
            )
            for card in read_json(path, "feature cards")
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(path, f"a card without {error}") from error


def _float(value: Any) -> float:
    return float("nan") if value is None else float(value)  # null is how JSON says NaN
