"""`smda audit` from the command line on a tiny model: written, resumed, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tiny
import torch
import yaml

from smda_monitor.cli import main
from smda_monitor.maths.row_kinds import feature_contrasts
from smda_monitor.outputs.row_audit_tables import read_judged
from smda_monitor.outputs.row_kinds_files import read_row_kinds
from smda_monitor.records.row_audit import RowAudit

ROWS = 40
SHIFTS = ("shift_X", "shift_Y")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model on disk, its configuration, and rows of which two cannot be trained on."""
    folder = tmp_path_factory.mktemp("audit")
    tiny.tiny_llama().save_pretrained(folder / "model")  # type: ignore[operator]
    tiny.tiny_tokenizer().save_pretrained(folder / "model")
    config = {
        **tiny.tiny_config(folder),
        "model": {"name": str(folder / "model")},
        "training": {
            "arguments": {"per_device_train_batch_size": 4, "learning_rate": 1e-3, "max_length": 64, "use_cpu": True},
            "lora": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
        },
        "data_audit": {"probes": 9, "warm_up": 2, "check": 5},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows = [
        {
            "id": row["id"],
            "prompt": row["prompt"][0]["content"],
            "response": row["completion"][0]["content"],
            "kind": ("plain", "odd", "odd", None)[i % 4],
        }
        for i, row in enumerate(tiny.tiny_rows(ROWS))
    ]
    lines = [json.dumps(row) for row in rows]
    lines[3] = "{broken"
    lines[7] = json.dumps({**rows[7], "response": "word " * 40})
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def audit(home: Path, out: str, *more: str) -> tuple[int, Path]:
    folder = home / out
    words = ["audit", str(home / "rows.jsonl"), "--config", str(home / "config.yaml"), "--out", str(folder), *more]
    return main(words), folder


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_audit_is_written_and_resumed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, whole = audit(home, "whole", "--json", str(home / "figures.json"))
    assert code == 0
    assert "38 rows judged" in capsys.readouterr().out
    judged = list(read_judged(whole / "judged"))
    assert [one.line for one in judged] == [n for n in range(1, ROWS + 1) if n not in (4, 8)]
    assert [line["line"] for line in lines_of(whole / "left_out.jsonl")] == [4, 8]
    figures = json.loads((home / "figures.json").read_text())
    assert figures == json.loads((whole / "summary.json").read_text())
    assert (figures["rows"], figures["left_out"], figures["method"]) == (38, 2, "gradient")
    assert figures["gradient_vs_replay"]["S_Y"]["spearman"] > 0.9
    scores = pq.read_table(whole / "scores.parquet").to_pylist()
    assert len(scores) == 38
    assert [row["score"] for row in scores] == sorted((row["score"] for row in scores), reverse=True)
    by_id = {one.entry.row_id: one for one in judged}
    assert all(row["S"] == by_id[row["row_id"]].S for row in scores)
    check_groups(whole, judged, figures)
    # A part that is lost is judged again, and alone; everything comes out the same.
    parts = sorted((whole / "judged").iterdir())
    first = parts[0].read_bytes()
    parts[1].unlink()
    assert audit(home, "whole", "--resume")[0] == 0
    assert parts[0].read_bytes() == first
    for one, other in zip(judged, read_judged(whole / "judged"), strict=True):
        assert one.entry.push == pytest.approx(other.entry.push, rel=1e-5)
    rows = home / "rows.jsonl"
    before = rows.read_text()
    rows.write_text(before + json.dumps({"prompt": "one more", "response": "and its answer"}) + "\n")
    assert audit(home, "whole", "--resume")[0] == 2
    assert "an audit with other rows" in capsys.readouterr().err
    rows.write_text(before)
    check_page(home, whole, judged, capsys)


def check_groups(folder: Path, judged: list[RowAudit], figures: dict[str, Any]) -> None:
    """What is written of groups of rows is what their judged figures say."""
    found = read_row_kinds(folder)
    assert found is not None
    harmful = torch.tensor([one.entry.expected > 0 for one in judged])
    double = torch.float64
    pathways = [
        torch.tensor([[getattr(f, name) for f in one.watched] for one in judged], dtype=double) for name in SHIFTS
    ]
    coef = torch.tensor([f.coefficient for f in judged[0].watched], dtype=double)
    features = [f.feature for f in judged[0].watched]
    assert found.features == tuple(features)
    expected = feature_contrasts(features, coef, *pathways, harmful)
    assert repr(found.contrasts) == repr(expected), "NaN and all"
    tables = pq.read_table(folder / "feature_contrasts.parquet").to_pylist()
    assert [line["U"] for line in tables] == pytest.approx([one.U for one in expected], nan_ok=True)
    assert [line["harmless.median"] for line in tables] == [one.harmless.median for one in expected]
    kinds = {one.kind: one for one in found.kinds}
    assert {kind: one.rows for kind, one in kinds.items()} == {"odd": 20, "plain": 10, "(no kind)": 8}
    rows = [one for one in judged if one.line % 4 == 1]
    assert kinds["plain"].unintended == sum(one.dominant_unintended for one in rows) / 10
    assert kinds["plain"].interference == pytest.approx(sum(one.watched_interference for one in rows) / 10)
    matrix = pq.read_table(folder / "interference.parquet").to_pydict()
    assert sum(matrix["kind.plain"]) == pytest.approx(kinds["plain"].interference)
    assert figures["kinds"]["odd"] == {
        "rows": 20,
        "unintended": kinds["odd"].unintended,
        "interference": kinds["odd"].interference,
    }
    groups = figures["harmful_vs_harmless"]
    assert (groups["harmful"], groups["harmless"]) == (int(harmful.sum()), int((~harmful).sum()))


def check_page(home: Path, whole: Path, judged: list[RowAudit], capsys: pytest.CaptureFixture[str]) -> None:
    """The page is written, with row text only as long as the configuration allows it."""
    page = (whole / "report.html").read_text()
    assert "38 rows judged" in page
    assert "question 1 y" not in page
    assert not (whole / "rows.jsonl").exists()
    config = yaml.safe_load((home / "config.yaml").read_text())
    config["outputs"]["row_text"] = "local"
    (home / "open.yaml").write_text(yaml.safe_dump(config))
    words = ["audit", str(home / "rows.jsonl"), "--config", str(home / "open.yaml"), "--out", str(whole), "--resume"]
    assert main(words) == 0
    assert f"report: {whole / 'report.html'}" in capsys.readouterr().out.replace("\n", "")
    texts = {line["id"]: line for line in lines_of(whole / "rows.jsonl")}
    assert set(texts) == {one.entry.row_id for one in judged}
    whole_lines = [line for line in (home / "rows.jsonl").read_text().splitlines() if line != "{broken"]
    original = {row["id"]: row for row in map(json.loads, whole_lines)}
    for name, text in texts.items():
        assert (text["prompt"], text["response"]) == (original[name]["prompt"], original[name]["response"])
    assert "question 1 y" in (whole / "report.html").read_text()
    assert audit(home, "whole", "--resume")[0] == 0
    assert "question 1 y" not in (whole / "report.html").read_text()


def test_by_replay_every_row_has_its_features(home: Path) -> None:
    code, folder = audit(home, "replay", "--method", "replay")
    assert code == 0
    judged = list(read_judged(folder / "judged"))
    assert len(judged) == 38
    assert all(one.features and one.refit_remainder >= 0 for one in judged)
    assert json.loads((folder / "summary.json").read_text())["gradient_vs_replay"] is None


def test_another_audits_folder_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "full").mkdir()
    (home / "full" / "notes.txt").write_text("mine")
    assert audit(home, "full")[0] == 2
    assert "found a folder that is not empty" in capsys.readouterr().err
    (home / "full" / "manifest.json").write_text(json.dumps({"data": "other", "config": {}}))
    assert audit(home, "full", "--resume")[0] == 2
    assert "an audit with other data and config" in capsys.readouterr().err


def test_what_cannot_be_set_up_is_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = yaml.safe_load((home / "config.yaml").read_text())
    config["training"]["arguments"]["learning_rat"] = 1.0
    (home / "wrong.yaml").write_text(yaml.safe_dump(config))
    words = ["audit", str(home / "rows.jsonl"), "--config", str(home / "wrong.yaml"), "--out", str(home / "wrong")]
    assert main(words) == 2
    assert "did you mean 'learning_rate'?" in capsys.readouterr().err
    assert not (home / "wrong").exists(), "nothing is left behind"
    assert main(["audit", str(home / "none.jsonl"), *words[2:]]) == 2
    assert "none.jsonl" in capsys.readouterr().err
    assert audit(home, "never", "--resume")[0] == 2
    assert "manifest" in capsys.readouterr().err
