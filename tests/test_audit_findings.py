"""`smda audit` on a tiny model: rows by group as their judged figures say, and a page with row text only if allowed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from audit_home import ROWS, audit, lines_of, make_home, write_lines

from smda_monitor.maths.row_kinds import feature_contrasts
from smda_monitor.outputs.row_audit_tables import read_judged
from smda_monitor.outputs.row_kinds_files import read_row_kinds
from smda_monitor.records.row_audit import RowAudit

KINDS = ("plain", "odd", "odd", None)
SHIFTS = ("shift_X", "shift_Y")
WORDS = "question 1 y"
"""The prompt of one row, and part of no other text."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As other audits' home, with kinds of rows."""
    folder = make_home(tmp_path_factory.mktemp("findings"))
    lines = (folder / "rows.jsonl").read_text().splitlines()
    rows = [line if line == "{broken" else {**json.loads(line), "kind": KINDS[i % 4]} for i, line in enumerate(lines)]
    write_lines(folder / "rows.jsonl", rows)
    return folder


@pytest.fixture(scope="module")
def finished(home: Path) -> Path:
    code, folder = audit(home, "finished")
    assert code == 0
    return folder


def test_groups_are_what_the_judged_rows_say(finished: Path) -> None:
    judged, found = list(read_judged(finished / "judged")), read_row_kinds(finished)
    assert found is not None
    assert len(judged) == ROWS - 2
    harmful = torch.tensor([one.entry.expected > 0 for one in judged])
    features = [f.feature for f in judged[0].watched]
    assert found.features == tuple(features)
    assert len(features) == 16
    expected = feature_contrasts(features, *contrasted(judged), harmful)
    assert repr(found.contrasts) == repr(expected), "NaN and all"
    tables = pq.read_table(finished / "feature_contrasts.parquet").to_pylist()
    for name, figures in (
        ("U", [one.U for one in expected]),
        ("harmful.median", [one.harmful.median for one in expected]),
        ("harmless.median", [one.harmless.median for one in expected]),
    ):
        assert repr([line[name] for line in tables]) == repr(figures), "a group may be empty: then it is NaN"
    groups = json.loads((finished / "summary.json").read_text())["harmful_vs_harmless"]
    assert (groups["harmful"], groups["harmless"]) == (int(harmful.sum()), int((~harmful).sum()))


def contrasted(judged: list[RowAudit]) -> list[torch.Tensor]:
    """w, ΔW_X and ΔW_Y."""
    coef = [f.coefficient for f in judged[0].watched]
    shifts = [[[getattr(f, name) for f in one.watched] for one in judged] for name in SHIFTS]
    return [torch.tensor(one, dtype=torch.float64) for one in (coef, *shifts)]


def test_kinds_are_the_datas_own(finished: Path) -> None:
    judged, found = list(read_judged(finished / "judged")), read_row_kinds(finished)
    assert found is not None
    kinds = {one.kind: one for one in found.kinds}
    assert {kind: one.rows for kind, one in kinds.items()} == {"odd": 20, "plain": 10, "(no kind)": 8}
    rows = [one for one in judged if one.line % 4 == 1]
    assert kinds["plain"].unintended == sum(one.dominant_unintended for one in rows) / 10
    assert kinds["plain"].interference == pytest.approx(sum(one.watched_interference for one in rows) / 10)
    matrix: dict[str, Any] = pq.read_table(finished / "interference.parquet").to_pydict()
    assert sum(matrix["kind.plain"]) == pytest.approx(kinds["plain"].interference)
    summary = json.loads((finished / "summary.json").read_text())["kinds"]["odd"]
    assert (summary["unintended"], summary["interference"]) == (kinds["odd"].unintended, kinds["odd"].interference)


def test_row_text_is_on_the_page_as_long_as_the_configuration_allows_it(
    home: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = finished / "report.html"
    assert f"{ROWS - 2} rows judged" in page.read_text()
    assert WORDS not in page.read_text()
    assert not (finished / "rows.jsonl").exists()
    closed = (home / "config.yaml").read_text()
    config = yaml.safe_load(closed)
    config["outputs"]["row_text"] = "local"
    (home / "config.yaml").write_text(yaml.safe_dump(config))
    assert audit(home, "finished", "--resume")[0] == 0
    assert f"report: {page}" in capsys.readouterr().out
    texts = {line["id"]: line for line in lines_of(finished / "rows.jsonl")}
    first = pq.read_table(finished / "scores.parquet").to_pylist()[0]["row_id"]
    assert f"<dd>{texts[first]['prompt']}</dd>" in page.read_text()
    assert set(texts) == {one.entry.row_id for one in read_judged(finished / "judged")}
    lines = [line for line in (home / "rows.jsonl").read_text().splitlines() if line != "{broken"]
    for row in map(json.loads, lines):
        if row["id"] in texts:
            assert (texts[row["id"]]["prompt"], texts[row["id"]]["response"]) == (row["prompt"], row["response"])
    (home / "config.yaml").write_text(closed)
    assert audit(home, "finished", "--resume")[0] == 0
    assert not (finished / "rows.jsonl").exists()
    assert WORDS not in page.read_text()
