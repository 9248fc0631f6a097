"""A finished audit of data made of numbers alone: 60 rows, six of them planted, by gradient and partly by replay."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from smda_monitor.commands.audit_findings import compare_groups
from smda_monitor.outputs.row_audit_tables import write_judged
from smda_monitor.records.account import FeatureShift, RowEntry
from smda_monitor.records.row_audit import RowAudit

ROWS, PART = 60, 25
FEATURES = (101, 7, 33, 58)
COEF = (1.5, -0.8, 0.4, 0.1)
CHECKED = (0, 20, 40, 59)
LEFT_OUT = [(4, "odd-one", "no prompt; keys: 'text'"), (9, None, "no JSON: Expecting value, at character 1")]
PLANTED = "over-refusal"


def make_row(i: int) -> RowAudit:
    """Row i: harmful where i % 3 is 0, planted where i % 10 is 9. Harmful rows push feature 101 up through features,
    and planted ones feature 33, which no prompt calls for."""
    g = torch.Generator().manual_seed(i)
    noise = torch.randn(2, len(FEATURES), generator=g, dtype=torch.float64) * 1e-3
    noise[0, 0] += 2e-3 * (i % 3 == 0)
    noise[1, 2] += 4e-2 * (i % 10 == 9)
    watched = tuple(
        FeatureShift(f, w, x, y, math.nan) for f, w, x, y in zip(FEATURES, COEF, *noise.tolist(), strict=True)
    )
    parts = {one.feature: abs((one.shift_X + one.shift_Y) * one.coefficient) for one in watched}
    intended = (101, 7) if i % 3 == 0 else (7,)
    outside = sum(size for feature, size in parts.items() if feature not in intended)
    S_X, S_Y = (sum(c * float(v) for c, v in zip(COEF, noise[p], strict=True)) for p in (0, 1))
    return RowAudit(
        line=i + 20,
        entry=RowEntry(
            step=0,
            row_id=f"mine-{i:03d}",
            row_hash=f"{i:016x}",
            tokens=20,
            loss=1.5,
            gradient_norm=0.4,
            share={},
            push={"S_X": S_X, "S_Y": S_Y, "mass.harmful": 0.01 * i},
            own_push=0.1 * (i % 5) - 0.2,
            own_mass=-3.0,
            own_predicted=-1.0,
            expected=0.7 if i % 3 == 0 else -0.9,
            interference=0.4,
            dominant_feature=7,
            unintended=i % 10 == 9,
            answer_reading=0.3,
            score=math.nan,
            probe_share={},
            probe_push={"mass": (0.5, 0.25)},
        ),
        features=tuple(sorted(watched, key=lambda one: -parts[one.feature])),
        refit_remainder=math.nan,
        seconds=0.25,
        watched=watched,
        intended=intended,
        watched_interference=outside / sum(parts.values()),
        watched_dominant=max(parts, key=lambda feature: parts[feature]),
    )


def score(i: int) -> float | None:
    """Planted rows lead; row 5 has none."""
    return None if i == 5 else 2.0 + i / 100 if i % 10 == 9 else math.sin(i)


def make_rows() -> list[RowAudit]:
    return [make_row(i) for i in range(ROWS)]


def replayed(row: RowAudit) -> RowAudit:
    """The same by replay: a hundredth larger."""
    push = {name: 1.01 * value for name, value in row.entry.push.items()}
    return replace(row, entry=replace(row.entry, push=push), refit_remainder=0.02)


def write_scores(folder: Path, rows: list[RowAudit], scores: list[float | None]) -> None:
    """By score, those without one last."""
    order = sorted(range(len(rows)), key=lambda i: -math.inf if scores[i] is None else scores[i] or 0.0, reverse=True)
    lines = [
        {
            "row_id": rows[i].entry.row_id,
            "row_hash": rows[i].entry.row_hash,
            "score": scores[i],
            "line": rows[i].line,
            "S": rows[i].S,
            "S_X": rows[i].S_X,
            "S_Y": rows[i].S_Y,
        }
        for i in order
    ]
    pq.write_table(pa.Table.from_pylist(lines), folder / "scores.parquet")


def write_audit(folder: Path, rows: list[RowAudit] | None = None, kinds: bool = True) -> list[RowAudit]:
    """Writes the whole audit, as `smda audit` leaves it, without row text."""
    folder.mkdir(parents=True)
    rows = make_rows() if rows is None else rows
    for first in range(0, len(rows), PART):
        write_judged(folder / "judged", first + 1, rows[first : first + PART])
    checked = [i for i in CHECKED if i < len(rows)]
    for i in checked:
        write_judged(folder / "checked", i + 1, [replayed(rows[i])])
    write_scores(folder, rows, [score(i) for i in range(len(rows))])
    left_out = [{"line": line, "id": name, "reason": reason} for line, name, reason in LEFT_OUT]
    (folder / "left_out.jsonl").write_text("".join(json.dumps(one) + "\n" for one in left_out))
    groups = compare_groups(folder, labels(rows) if kinds else {})
    close = {"S_X": 1.0, "S_Y": 1.0, "relative_error": {"S_X": 0.0099, "S_Y": 0.0099}, "rows": 4, "times_faster": 6.2}
    summary: dict[str, Any] = {
        "rows": len(rows),
        "scored": len(rows) - 1,
        "unintended": 0.1,
        "gradient_vs_replay": close,
        "method": "gradient",
        "left_out": len(left_out),
        "seconds": 83.0,
        **groups,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    manifest = {"kind": "audit", "status": "finished", "started": "2026-01-02T03:04:05+00:00", "data": "rows.jsonl"}
    (folder / "manifest.json").write_text(json.dumps({**manifest, "config": {"data_audit": {"method": "gradient"}}}))
    return rows


def labels(rows: list[RowAudit]) -> dict[int, str]:
    """What the data call the kinds of rows; a third of them nothing."""
    named = {row.line: PLANTED if i % 10 == 9 else "helpful" for i, row in enumerate(rows)}
    return {line: kind for line, kind in named.items() if kind == PLANTED or line % 3}


def write_texts(folder: Path, rows: list[RowAudit], prompt: str, response: str) -> None:
    """Row texts, as they are kept where the configuration allows it."""
    texts = [
        {"id": row.entry.row_id, "hash": row.entry.row_hash, "prompt": prompt, "response": response} for row in rows
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))


CURATION = {"rule": "score", "rate": 0.1, "threshold": 1.25, "rows": {"keep": 50, "review": 4, "remove": 6}}
PROOF: dict[str, Any] = {
    "finding": "shown",
    "recovered": {"flagged": [0.91, 0.83, 0.99], "random": [0.04, -0.06, 0.13]},
    "recovered_across_seeds": {"flagged": 0.95, "random": None},
    "effects": {
        "flagged": {
            "harmful": {
                "prompts": 40,
                "level": {"log_odds": [1.5, 1.1, 1.9]},
                "change": {"log_odds": [0.4, 0.2, 0.6], "decoding": [0.05, -0.01, 0.11]},
            }
        },
        "all": {"harmful": {"prompts": 40, "level": {"log_odds": [1.1, 0.8, 1.5]}, "change": {}}},
    },
    "flagged_rows": 6,
    "planted_rows": 6,
    "tokens_left_out": {"flagged": [200, 190, 210]},
}


def write_curation(folder: Path, reasons: list[str]) -> None:
    """What `smda curate` leaves: the closing figures, and the buckets with the rows' own columns."""
    home = folder / "curation"
    home.mkdir()
    (home / "curation.json").write_text(json.dumps(CURATION))
    row = {"id": "mine-009", "line": 29, "prompt": "the row's own words", "reasons": reasons}
    (home / "remove.jsonl").write_text(json.dumps(row) + "\n")
    (home / "review.jsonl").write_text("")


def write_proof(folder: Path) -> None:
    """What `smda prove` leaves."""
    (folder / "proof").mkdir()
    (folder / "proof" / "proof.json").write_text(json.dumps(PROOF))
