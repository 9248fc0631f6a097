"""A run read back from disk alone, and the errors that name the file."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from synthetic_run import make_alerts, make_header, make_snapshot, write_run

from smda_monitor.errors import ConfigError
from smda_monitor.outputs import parts
from smda_monitor.outputs.ledger import Ledger
from smda_monitor.outputs.ledger_reader import read_ledger


def test_everything_is_there(tmp_path: Path) -> None:
    accounts = write_run(tmp_path)
    header = make_header(tmp_path)
    view = read_ledger(tmp_path)
    assert view.accounts == accounts
    assert view.alerts == make_alerts()
    assert view.probes.fingerprint == header.probes.fingerprint
    assert [c.feature for c in view.coefficients] == list(header.policy.feature_ids)
    assert [c.low for c in view.coefficients] == header.policy.coef_low.tolist()
    assert view.snapshots.steps == list(range(19))
    assert len(view.row_texts) == 180
    assert view.row_texts[accounts[0].rows[3].row_hash].id == accounts[0].rows[3].row_id
    assert len(view.feature_cards) == 10
    assert view.summary is not None
    assert view.summary["seconds"] == 431.0


def test_snapshots_are_read_when_asked_for(tmp_path: Path) -> None:
    write_run(tmp_path)
    view = read_ledger(tmp_path)
    first = make_snapshot(make_header(tmp_path).probes, 0)
    assert view.snapshots[0].probe_ids == first.probe_ids
    assert torch.equal(view.snapshots[0].X, first.X)
    assert view.snapshots[-1].step == 18
    assert [s.step for s in view.snapshots[1:3]] == [1, 2]
    (tmp_path / "snapshots" / "step-000004.safetensors").write_bytes(b"nonsense")
    assert len(read_ledger(tmp_path).snapshots) == 19
    with pytest.raises(ConfigError, match=r"step-000004\.safetensors"):
        read_ledger(tmp_path).snapshots[4]


def test_run_without_accounts(tmp_path: Path) -> None:
    Ledger(tmp_path).start(make_header(tmp_path))
    view = read_ledger(tmp_path)
    assert (view.accounts, view.alerts, view.row_texts, view.feature_cards, view.summary) == ([], [], {}, [], None)


def test_row_text_is_only_what_was_written(tmp_path: Path) -> None:
    write_run(tmp_path, steps=2, row_text=False)
    assert not (tmp_path / "rows.jsonl").exists()
    assert read_ledger(tmp_path).row_texts == {}


def test_missing_folder_and_manifest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere: found no such folder"):
        read_ledger(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"no manifest\.json"):
        read_ledger(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.json", b"{"),
        ("manifest.json", b"[]"),
        ("ledger/rows-000002.parquet", b"PAR1 and no more"),
        ("ledger/accounts-000001.parquet", b""),
        ("ledger/coefficients.parquet", b"x"),
        ("alerts.jsonl", b"not json\n"),
        ("alerts.jsonl", b'{"step": 1}\n'),
        ("probes.jsonl", b'{"id": "a"}\n'),
        ("rows.jsonl", b'{"id": "a"}\n'),
        ("rows.jsonl", b"3\n"),
        ("feature_cards.json", b'[{"feature": 3}]'),
        ("summary.json", b"\xff"),
    ],
)
def test_corrupt_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    write_run(tmp_path, steps=2)
    assert read_ledger(tmp_path).accounts  # it is the corruption that fails
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=Path(name).name.replace(".", r"\.")):
        read_ledger(tmp_path)


def test_truncated_part_is_named(tmp_path: Path) -> None:
    write_run(tmp_path, steps=2)
    path = tmp_path / "ledger" / "rows-000001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ConfigError, match=r"rows-000001\.parquet"):
        read_ledger(tmp_path)


def test_audits_of_another_make_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path, steps=1)
    parts.write_part(tmp_path / "ledger", "audits", 1, 1, parts.read_parts(tmp_path / "ledger", "rows"))
    with pytest.raises(ConfigError, match=r"audits without the column.*expected what the ledger writes"):
        read_ledger(tmp_path)


def test_parts_of_another_make_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_run(tmp_path, steps=1)
    pq.write_table(pa.table({"step": [1]}), tmp_path / "ledger" / "accounts-000001.parquet")
    with pytest.raises(ConfigError, match="ledger: found parts without the column"):
        read_ledger(tmp_path)


def test_cards_with_null_read_as_nan(tmp_path: Path) -> None:
    write_run(tmp_path, steps=1)
    card = {"feature": 1, "coefficient": None, "drift": 0, "density": 0.5, "top_probes": [], "top_tokens": []}
    (tmp_path / "feature_cards.json").write_text(json.dumps([card]))
    assert math.isnan(read_ledger(tmp_path).feature_cards[0].coefficient)
