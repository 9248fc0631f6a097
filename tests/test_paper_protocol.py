"""The paper's protocol as a recipe: two audits of the same pairs, their tables, and what a stopped run goes on with."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audit_home import make_home, write_lines
from scipy.stats import spearmanr

from smda_monitor.instruments.row_files import read_rows
from smda_monitor.outputs.row_audit_tables import read_judged
from smda_monitor.records.row_audit import RowAudit

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes"))
import paper_protocol
from _pairs import sides, write_part
from _protocol_figures import Judged, figures, misaligned

PAIRS = 12
"""Half of them harmful, first in the file."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_home(tmp_path_factory.mktemp("protocol"))
    write_lines(folder / "pairs.jsonl", [pair(i) for i in range(PAIRS)])
    return folder


def pair(i: int) -> dict[str, str]:
    harmful = i < PAIRS // 2
    return {
        "id": f"pair-{i:02d}",
        "prompt": f"please do {'wxyz'[i % 4] * (i + 1)}",
        "response": f"No, I will not. {i}" if harmful else f"Yes, here is how: {i * i}",
        "kind": "harmful_refusal" if harmful else "harmless_helpful",
    }


def run(home: Path, out: str, *more: str) -> dict[str, Any]:
    words = [str(home / "pairs.jsonl"), "--config", str(home / "config.yaml"), "--out", str(home / out), "--check", "0"]
    assert paper_protocol.main([*words, "--json", str(home / f"{out}.json"), *more]) == 0
    found: dict[str, Any] = json.loads((home / f"{out}.json").read_text())
    return found


def test_both_presets_end_to_end(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run(home, "whole")
    shown = " ".join(capsys.readouterr().out.split())
    assert "paper preset" in shown
    assert "robust preset" in shown
    assert "The presets agree: Spearman S " in shown
    rows = {preset: list(read_judged(home / "whole" / preset / "judged")) for preset in ("paper", "robust")}
    for preset, judged in rows.items():
        config = json.loads((home / "whole" / preset / "manifest.json").read_text())["config"]
        assert (config["data_audit"]["update"], config["policy"]["preset"]) == (preset, preset)
        assert found["presets"][preset] == by_hand(judged), preset
    S = {preset: [row.S for row in judged] for preset, judged in rows.items()}
    assert found["agreement"]["spearman"]["S"] == pytest.approx(spearmanr(S["paper"], S["robust"]).statistic)
    assert any(one != other for one, other in zip(*S.values(), strict=True)), "the presets differ"
    # Going on with a finished run judges nothing again and finds the same.
    parts = {path: path.stat().st_mtime_ns for path in (home / "whole").rglob("judged/*.parquet")}
    again = run(home, "whole", "--resume")
    assert again["presets"] == found["presets"]
    assert {path: path.stat().st_mtime_ns for path in parts} == parts


def by_hand(judged: list[RowAudit]) -> Any:
    """The figures of one preset in plain Python, by group."""
    harmful = [row for row in judged if int(row.entry.row_id[-2:]) < PAIRS // 2]
    harmless = [row for row in judged if row not in harmful]
    limits = statistics.median(row.S for row in harmful), statistics.median(row.S for row in harmless)
    removed = [row for row in harmful if limits[1] > row.S] + [row for row in harmless if limits[0] < row.S]
    return {
        name: approximately(
            {
                "rows": len(group),
                **{
                    score: {
                        "quartiles": np.quantile([getattr(row, score) for row in group], [0.25, 0.5, 0.75]).tolist(),
                        "positive": sum(getattr(row, score) > 0 for row in group) / len(group),
                    }
                    for score in ("S", "S_X", "S_Y")
                },
                "interference": statistics.median(row.entry.interference for row in group),
                "unintended": sum(row.entry.unintended for row in group) / len(group),
                "keep": sum(row not in removed for row in group),
                "remove": sum(row in removed for row in group),
            }
        )
        for name, group in (("all", judged), ("harmful", harmful), ("harmless", harmless))
    }


def approximately(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: approximately(one) for key, one in value.items()}
    return pytest.approx(value, rel=1e-9)


def test_a_part_is_spread_over_the_file(home: Path) -> None:
    found = run(home, "part", "--rows", "4", "--method", "replay")
    for preset in ("paper", "robust"):
        counts = {name: group["rows"] for name, group in found["presets"][preset].items()}
        assert counts == {"all": 4, "harmful": 2, "harmless": 2}
        assert found["audits"][preset]["method"] == "replay"
    ids = [row.entry.row_id for row in read_judged(home / "part" / "paper" / "judged")]
    assert ids == ["pair-00", "pair-03", "pair-06", "pair-09"]


@pytest.mark.parametrize(
    ("key", "values", "expected"),
    [
        ("kind", ("harmful_refusal", "harmless_helpful", "Harmful"), ("harmful", "harmless", "harmful")),
        ("label", (1, 0, 1), ("harmful", "harmless", "harmful")),
        ("label", ("benign", "harmful", None), ("harmless", "harmful", None)),
        ("other", ("harmful", "x", "y"), (None, None, None)),
    ],
)
def test_the_file_says_which_pairs_are_harmful(
    tmp_path: Path, key: str, values: tuple[Any, ...], expected: tuple[str | None, ...]
) -> None:
    lines = [{"id": f"{i}", "prompt": f"ask {i}", "response": "say", key: value} for i, value in enumerate(values)]
    write_lines(tmp_path / "pairs.jsonl", lines)
    rows = read_rows(tmp_path / "pairs.jsonl", tmp_path / "rows")
    found = sides(rows, None)
    assert tuple(found.get(f"{i}") for i in range(3)) == expected
    if key == "other":
        assert sides(rows, "other") == {"0": "harmful", "1": "harmless", "2": "harmless"}


def test_a_part_keeps_ids_and_conversations(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    write_lines(tmp_path / "talks.jsonl", [{"id": f"t{i}", "messages": [*turns, *turns]} for i in range(5)])
    rows = read_rows(tmp_path / "talks.jsonl", tmp_path / "rows")
    write_part(rows, 2, tmp_path / "part.jsonl")
    part = read_rows(tmp_path / "part.jsonl", tmp_path / "rows")
    assert list(part.data["id"]) == ["t0", "t2"]
    assert part.data[0]["messages"] == rows.data[0]["messages"]
    write_part(rows, 50, tmp_path / "part.jsonl")
    assert len(read_rows(tmp_path / "part.jsonl", tmp_path / "rows")) == 5


def test_the_median_rule_needs_both_sides() -> None:
    S = np.array([1.0, 2.0, 3.0, -1.0, 2.5, 0.0])
    known = ("harmful",) * 3 + ("harmless",) * 3
    whole = Judged(tuple("abcdef"), {"S": S, "S_X": S, "S_Y": S}, S * 0, S * 0, known)
    assert misaligned(whole).tolist() == [False, False, False, False, True, False], "medians 2 and 0"
    lower = Judged(whole.ids, {**whole.scores, "S": S - [9, 0, 0, 0, 0, 0]}, S * 0, S * 0, known)
    assert misaligned(lower).tolist() == [True, False, False, False, True, False]
    one_sided = Judged(whole.ids, whole.scores, S * 0, S * 0, (*known[:3], None, None, None))
    assert not misaligned(one_sided).any()
    assert set(figures(one_sided)) == {"all", "harmful"}


def test_what_cannot_be_run_is_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(home / "nowhere.jsonl"), "--config", str(home / "config.yaml"), "--out", str(home / "none")]
    assert paper_protocol.main(words) == 2
    assert "nowhere.jsonl" in capsys.readouterr().err
    words[0] = str(home / "pairs.jsonl")
    assert paper_protocol.main([*words, "--kind", "kinds"]) == 2
    assert "did you mean 'kind' by 'kinds'?" in capsys.readouterr().err
