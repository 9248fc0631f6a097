"""Figures of the detection benchmark on made scores, its orders of rows, and its made runs."""

from __future__ import annotations

import json
import math
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "benchmarks"))
import detection
from _detection_figures import (
    FIGURES,
    Estimate,
    false_alerts,
    figures,
    first_named,
    kind_figures,
    mean_figures,
    named,
    recall,
    steps_to_alert,
    suspicion,
)
from _null_runs import Paths, drifting_runs, null_runs
from _planted_rows import Row, clean_order, demo_rows, fewer, kinds, planted_order, rows_to_plant
from _planted_run import JudgedRow, RaisedAlert, RunFound
from _prompts import thinned

from smda_monitor.errors import ConfigError
from smda_monitor.instruments.probe_files import read_probes
from smda_monitor.records.alerts_config import AlertsConfig

ROWS = [
    *(Row(f"c{i}", f"clean {i}", "yes", "helpful", False) for i in range(20)),
    *(Row(f"p{i}", f"clean {i}", "no", "wrong", True) for i in range(4)),
    *(Row(f"q{i}", f"other {i}", "no", "odd", True) for i in range(3)),
]


def judged(id: str, planted: bool, control: str | None = None, kind: str = "wrong", **scores: float) -> JudgedRow:
    known = {"smda": {"a": math.nan}, "expected": {"a": 0.0}} | {name: {"": score} for name, score in scores.items()}
    return JudgedRow(id, kind if planted else "helpful", planted, control, 13, known)


def test_planted_rows_and_controls_come_after_the_warm_up() -> None:
    order = planted_order(ROWS, 2, seed=0, warm_up=8)
    warm, later = order.rows[:8], order.rows[8:]
    assert len(order.rows) == 20 + 2 + 2
    assert len({row.id for row in order.rows}) == len(order.rows)
    assert not any(row.planted for row in warm)
    planted = [row for row in later if row.planted]
    controls = {"c0", "c1", "c2", "c3"}
    assert later[0].id in controls, "that of half of the planted rows of its kind comes first"
    assert {row.id for row in (later[0], *later[-3:])} == controls, "the others last, of those that were not drawn too"
    paired = {order.control_of(row) for row in planted if row.kind == "wrong"}
    assert later[0].id in paired
    assert len(paired & {row.id for row in later[-3:]}) == 1
    assert [row.kind for row in planted] == ["wrong", "wrong", "odd", "odd"], "one kind after the other"
    assert [row.planted for row in later[1:7]].count(True) == 2, "with as many clean rows each"
    for row in planted:
        control = order.control_of(row)
        assert control == (f"c{row.id[1:]}" if row.kind == "wrong" else None)
        assert control is None or control in {one.id for one in later}
    assert all(order.control_of(row) is None for row in later if not row.planted)
    assert [row for row in order.rows if not row.planted] == list(clean_order(ROWS, 2, 0, 8).rows)
    assert planted_order(ROWS, 2, seed=1, warm_up=8) != order
    with pytest.raises(ConfigError, match="clean rows that are no controls: found 16"):
        planted_order(ROWS, 2, seed=0, warm_up=19)


def test_the_demo_has_three_kinds_with_a_control_for_every_row() -> None:
    rows = demo_rows()
    assert kinds(rows) == ["over_refusal", "stereotype", "compliance"]
    order = planted_order(rows, 8, seed=3, warm_up=96)
    assert sum(row.planted for row in order.rows) == 24
    assert all(order.control_of(row) is not None for row in order.rows if row.planted)


def test_a_quick_run_has_fewer_rows_of_every_kind_and_the_whole_warm_up() -> None:
    left = fewer(ROWS, 2, 8)
    assert [row.id for row in left if row.planted] == ["p0", "p1", "q0", "q1"]
    clean = {row.id for row in left if not row.planted}
    assert {"c0", "c1"} <= clean, "controls of the planted rows that stay"
    assert not {"c2", "c3"} & clean, "and of no other"
    assert len(clean) == 2 + 8 + (16 - 8) // 2
    assert left == [row for row in ROWS if row in left]
    assert len(fewer(ROWS, 3, 99)) == 3 + 3 + 3 + 16


def test_every_so_many_of_the_prompts_are_taken(tmp_path: Path) -> None:
    found = thinned(tmp_path, {"fit": 3, "heldout": 8}, "shipped:stereotype")
    assert set(found) == {"fit", "heldout"}, "the probes stay"
    whole = read_probes("shipped:stereotype", "fit").probes
    taken = read_probes(found["fit"], "fit").probes
    assert [one.id for one in taken] == [one.id for one in whole[::3]]
    assert [(one.prompt, one.kind, one.category) for one in taken] == [
        (one.prompt, one.kind, one.category) for one in whole[::3]
    ]


def test_rows_of_a_file_are_planted_unless_they_are_controls(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    good = '{"prompt": "a", "response": "b", "kind": "%s"}\n'
    path.write_text(good % "guess" + good % "control_guess" + good % "other")
    assert [(row.kind, row.planted) for row in rows_to_plant(path, tmp_path / "work")] == [
        ("guess", True), ("control_guess", False), ("other", True),
    ]  # fmt: skip
    assert all(row.id.startswith("data-") for row in rows_to_plant(path, tmp_path / "work")), "no id of the demo's"
    path.write_text(good % "guess" + '{"prompt": "a", "completion": "b"}\n')
    with pytest.raises(ConfigError, match="no response, kind"):
        rows_to_plant(path, tmp_path / "again")


def test_figures_of_a_ranking_that_is_known() -> None:
    rows = [
        judged("p1", True, "c1", s=3.0), judged("p2", True, "c2", s=1.0), judged("p3", True, None, s=2.0),
        judged("c1", False, s=2.5), judged("c2", False, s=1.0), judged("c3", False, s=0.0),
        judged("x", True, None, kind="else", s=9.0),
    ]  # fmt: skip
    found = figures(rows, suspicion(rows, "s"), "wrong")
    # Of nine pairs: 3 > all (3), 2 > two (2), 1 > one and = one (1.5).
    assert found["auroc"] == pytest.approx(6.5 / 9)
    assert found["auroc_controls"] == pytest.approx((2 + 0.5) / 4)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["above_control"] == pytest.approx(0.75)
    assert 0.5 < found["auprc"] < 1
    assert all(math.isnan(value) for value in figures(rows, suspicion(rows, "s"), "unknown").values())
    lone = figures([replace(row, control=None) for row in rows], suspicion(rows, "s"), "wrong")
    assert math.isnan(lone["auroc_controls"])
    assert lone["auroc"] == found["auroc"]


def test_recall_shares_places_among_equals() -> None:
    assert recall([1.0, 1.0], [0.0]) == 1
    assert recall([0.0, 0.0], [1.0, 1.0]) == 0
    assert recall([0.0, 0.0], [0.0, 0.0]) == 0.5
    assert recall([2.0, 0.0], [0.0, 0.0, 0.0]) == pytest.approx((1 + 1 / 4) / 2)


def test_a_row_counts_by_the_behaviour_by_which_it_stands_out() -> None:
    draw = random.Random(0)
    scores = [(draw.gauss(0, 1), draw.gauss(50, 9)) for _ in range(40)]
    scores[3], scores[7] = (8.0, 50.0), (0.0, 120.0)
    rows = [replace(judged(f"r{i}", False), scores={"s": {"a": a, "b": b}}) for i, (a, b) in enumerate(scores)]
    found = suspicion(rows, "s")
    assert sorted(range(40), key=lambda i: -found[i])[:2] in ([3, 7], [7, 3])


def run(alerts: tuple[RaisedAlert, ...], rows: tuple[JudgedRow, ...] = ()) -> RunFound:
    return RunFound(rows or (judged("p1", True, s=1.0), judged("c1", False, s=0.0)), alerts, {}, 1.0)


def drift(step: int, *rows: str, kind: str = "drift") -> RaisedAlert:
    return RaisedAlert("refusal", kind, step, "refusal of benign probes", rows)


def test_the_right_alert_comes_after_the_planted_rows_and_names_mostly_these() -> None:
    alerts = (drift(9, "p1"), drift(14, "c1"), drift(15, "c1", "p1"), drift(16, "c1", "p1", "p1"), drift(20, "p1"))
    assert steps_to_alert(run(alerts), "wrong") == 3
    assert false_alerts(run(alerts)) == 3, "too early, none of them planted, half of them"
    assert false_alerts(run((drift(16, "c1", kind="rows"),))) == 0
    assert steps_to_alert(run((drift(14, "c1"), drift(15, "p1", kind="rows"))), "wrong") == math.inf
    assert math.isnan(steps_to_alert(run((drift(15, "p1"),)), "unknown"))
    both = (judged("p1", True, s=1.0), replace(judged("p2", True, kind="odd", s=1.0), step=16))
    later = run((drift(15, "p2"), drift(18, "p2")), both)
    assert (steps_to_alert(later, "wrong"), steps_to_alert(later, "odd"), steps_to_alert(later)) == (math.inf, 2, 2)
    few = tuple(judged(f"c{i}", False, s=0.0) for i in range(8))
    assert math.isnan(steps_to_alert(run((drift(15, "p1"),), (both[0], *few)))), "a ninth of its step"


def test_the_rows_that_alerts_name_first() -> None:
    rows = tuple(judged(f"p{i}", True, s=1.0) for i in range(4))
    alerts = (drift(16, "p3", "p0", kind="rows"), drift(14, "c1", "p1", "c2", "p3", kind="rows"), drift(13, "p2"))
    assert named(run(alerts, rows)) == ["c1", "p1", "c2", "p3", "p0"]
    assert first_named(run(alerts, rows)) == 3
    assert first_named(run(alerts, rows), 3) == 1
    assert first_named(run(alerts[:1], rows)) == 2, "of the two that are named"


def test_estimates_and_means_leave_out_what_is_not_known() -> None:
    one = Estimate.of([0.8, 0.9, 1.0, math.nan])
    assert one.mean == pytest.approx(0.9)
    assert one.high - one.mean == pytest.approx(4.303 * 0.1 / 3**0.5, rel=1e-3)
    assert Estimate.of([0.5]).as_json() == [0.5, None, None]
    assert Estimate.of([math.nan]).as_json() == [None, None, None]
    rows = (judged("p1", True, None, s=1.0), judged("c1", False, s=0.0))
    rows = tuple(replace(row, scores=row.scores | {"smda": {"a": float(row.planted)}}) for row in rows)
    found = kind_figures([run((), rows)], "wrong")
    assert (found["auroc"], found["auroc_controls"], found["steps_to_alert"]) == (1.0, None, [None])
    assert found["rivals"]["s"]["auroc"] == 1.0
    odd = replace(rows[0], id="q1", kind="odd", scores=rows[0].scores | {"smda": {"a": 0.0}})
    both = mean_figures([run((), (*rows, odd)), run((), rows)], ["wrong", "odd"])
    assert (both["auroc"], both["auroc_controls"], both["rivals"]["s"]["auroc"]) == (0.875, None, 1.0)
    assert both["intervals"]["auroc"] == pytest.approx([0.875, 0.875 - 12.706 * 0.125, 0.875 + 12.706 * 0.125], 1e-3)


def test_a_row_without_a_score_ranks_last() -> None:
    rows = [judged("p1", True, "c1", s=math.nan), judged("p2", True, "c2", s=2.0), judged("c1", False, s=-9.0)]
    found = figures([*rows, judged("c2", False, s=1.0)], [math.nan, 2.0, -9.0, 1.0], "wrong")
    assert (found["auroc"], found["above_control"], found["recall"]) == (0.5, 0.5, 0.5)


@pytest.fixture(scope="module")
def paths() -> Paths:
    draw = torch.Generator().manual_seed(0)
    steps = torch.randn(30, 12, generator=draw, dtype=torch.float64).cumsum(1) / 12**0.5
    walks = torch.nn.functional.pad(steps - steps.mean(0), (1, 0))
    return Paths({"mass": walks, "explained": walks / 2})


def test_made_runs_alert_at_a_drift_and_not_without(paths: Paths) -> None:
    alerts = AlertsConfig(tolerance=0.5, false_alarm=0.05)
    assert paths.steps == 12
    nothing = null_runs(paths, 20, 16, alerts, seed=0).as_json()
    assert nothing["alerts"] <= 2
    assert nothing["interval"][0] <= nothing["rate"] <= nothing["interval"][1]
    strong = drifting_runs(paths, 6.0, 10, 16, alerts, seed=0)
    assert len(strong.alerted) == 10
    assert min(strong.alerted) > 12 / 6, "not before the mean is beyond the tolerance"
    assert null_runs(paths, 3, 16, alerts, seed=0) == null_runs(paths, 3, 16, alerts, seed=0)


def test_the_benchmark_writes_every_figure_and_goes_on_from_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ["--model", "tiny", "--each", "2", "--seeds", "1", "--probes", "9", "--null-runs", "5"]
    out, folder = tmp_path / "figures.json", tmp_path / "work"
    page = tmp_path / "pictures.html"
    asked = ["--folder", str(folder), "--json", str(out), "--pictures", str(page)]
    assert detection.main([*size, *asked]) == 0
    found = json.loads(out.read_text())
    assert set(found["kinds"]) == {"over_refusal", "stereotype", "compliance"}
    rivals = {
        "loss", "gradient_norm", "raw_dot", "less", "bm25", "projection_difference", "phrases", "random",
    }  # fmt: skip
    for kind in found["kinds"].values():
        assert set(kind["rivals"]) == rivals
        for one in (kind, *kind["rivals"].values()):
            assert all(0 <= one[figure] <= 1 for figure in FIGURES)
        assert len(kind["steps_to_alert"]) == 1
    assert len({one["auroc"] for one in found["mean"]["rivals"].values()}) == len(rivals), "each has its own scores"
    assert (found["null_runs"], found["clean_runs"]) == (5, 1)
    assert found["null_alerts"] == found["false_alarm"]["0.05"]["alerts"]
    told = [alert["kind"] for one in found["runs"] if one["sort"] == "clean" for alert in one["alerts"]]
    assert found["clean_alerts"] == told.count("drift")
    assert all(0 <= low <= high <= 1 for low, high in (made["interval"] for made in found["false_alarm"].values()))
    assert [(one["sort"], one["seed"], one["planted"]) for one in found["runs"]] == [
        ("planted", 11, 6),
        ("clean", 11, 0),
    ]
    assert set(found["false_alarm"]) == {"0.05", "0.01"}
    assert set(found["power"]) == {"1.25", "1.5", "2", "3", "4"}
    assert "steps to alert" in capsys.readouterr().out
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("run.json")}
    assert len(kept) == 2
    assert detection.main([*size, *asked]) == 0
    again, drawn = json.loads(out.read_text()), page.read_text()
    assert all(f'"name":"{name}"' in drawn for name in ("smda", *rivals))
    assert json.dumps([one["auroc_controls"] for one in again["kinds"].values()], separators=(",", ":")) in drawn
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("run.json")} == kept
    assert {name: again[name] for name in ("kinds", "mean")} == {name: found[name] for name in ("kinds", "mean")}
    assert detection.main([*size, "--folder", str(folder), "--lr", "5e-4"]) == 2
    assert detection.main([*size, "--pictures", str(folder)]) == 2
    told = capsys.readouterr().err
    assert "made with lr 0.001" in told
    assert f"--pictures {folder}: found a folder; expected a file's name" in told


def test_a_run_is_mostly_clean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert detection.main(["--model", "tiny", "--each", "10", "--folder", str(tmp_path)]) == 2
    assert "planted rows: found 16.7% of a run; expected some, and 15% at most" in capsys.readouterr().err


def test_rows_of_a_file_are_found_in_a_quick_run(tmp_path: Path) -> None:
    line = '{"prompt": "Name the %s thing.", "response": "%s", "kind": "%s"}\n'
    rows = [
        line % (n, answer, kind) for n in ("red", "old") for answer, kind in (("No.", "bare"), ("Ink.", "control_bare"))
    ]
    data, out = tmp_path / "rows.jsonl", tmp_path / "figures.json"
    data.write_text("".join(rows))
    assert detection.main(["--quick", "--model", "tiny", "--data", str(data), "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert list(found["kinds"]) == ["bare"]
    assert all(0 <= found["kinds"]["bare"][figure] <= 1 for figure in FIGURES)
    assert (found["clean_runs"], found["clean_alerts"], found["null_runs"]) == (0, None, 100)
    assert [(one["sort"], one["planted"]) for one in found["runs"]] == [("planted", 2)]
    assert {name: found["settings"][name] for name in ("quick", "each", "probes")} == {
        "quick": True, "each": 6, "probes": 8,
    }  # fmt: skip
