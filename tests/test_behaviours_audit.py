"""`smda audit` for several behaviours: each as it is alone, their scores side by side."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tiny
import yaml

from smda_monitor.cli import main
from smda_monitor.outputs.row_audit_tables import read_judged

ROWS = 12


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model on disk, rows, and configurations: refusal, another behaviour, and two with no folder's name."""
    folder = tmp_path_factory.mktemp("behaviours")
    tiny.tiny_llama().save_pretrained(folder / "model")  # type: ignore[operator]
    tiny.tiny_tokenizer().save_pretrained(folder / "model")
    refusal = {
        **tiny.tiny_config(folder),
        "model": {"name": str(folder / "model")},
        "training": {
            "arguments": {"per_device_train_batch_size": 4, "learning_rate": 1e-3, "max_length": 64, "use_cpu": True},
            "lora": {"r": 4, "target_modules": ["q_proj", "v_proj"]},
        },
        "data_audit": {"probes": 9, "warm_up": 2, "check": 2},
    }
    openings = {"openings": ["Maybe", "Well"], "opposite": ["Surely", "No"]}
    named = {"refusal": refusal}
    for file, name in (("hedging", "hedging"), ("nowhere", "../away"), ("page", "report.html")):
        named[file] = refusal | {"behaviour": {"name": name, **openings}}
    for file, config in named.items():
        (folder / f"{file}.yaml").write_text(yaml.safe_dump(config))
    rows = [
        {"id": row["id"], "prompt": row["prompt"][0]["content"], "response": row["completion"][0]["content"]}
        for row in tiny.tiny_rows(ROWS)
    ]
    # Some are said to be planted, each about one of the behaviours.
    for place, control, kind, about in ((4, 0, "a", "refusal"), (5, 1, "a", "refusal"), (6, 2, "b", "hedging")):
        rows[place] |= {"kind": kind, "control": rows[control]["id"], "behaviour": about}
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def audit(home: Path, out: str, configs: list[str], *more: str) -> int:
    words = [word for name in configs for word in ("--config", str(home / f"{name}.yaml"))]
    return main(["audit", str(home / "rows.jsonl"), *words, "--out", str(home / out), *more])


def test_two_behaviours_are_audited_as_each_alone(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["refusal", "hedging"]
    assert audit(home, "both", names, "--json", str(home / "figures.json")) == 0
    shown = capsys.readouterr().out
    assert "Leading rows by score for refusal" in shown
    assert "Leading rows by score for hedging" in shown
    figures = json.loads((home / "figures.json").read_text())
    assert figures == json.loads((home / "both" / "summary.json").read_text())
    assert {name: figures["behaviours"][name]["rows"] for name in names} == dict.fromkeys(names, ROWS)
    first, second = (figures["behaviours"][name] for name in names)
    own = {"seconds", "auroc_controls_by_kind"}
    assert {key: figures[key] for key in first if key not in own} == {k: v for k, v in first.items() if k not in own}
    by_kind = {"a": first["auroc_controls_by_kind"]["a"], "b": second["auroc_controls_by_kind"]["b"]}
    assert figures["auroc_controls_by_kind"] == by_kind, "each kind by the behaviour that it is about"
    assert figures["seconds"] == pytest.approx(sum(one["seconds"] for one in figures["behaviours"].values()))
    table = pq.read_table(home / "both" / "scores.parquet")
    assert table.column_names == ["line", "row_id", "row_hash", "score.refusal", "score.hedging"]
    lines = table.to_pylist()
    assert [line["line"] for line in lines] == list(range(1, ROWS + 1))
    for name in names:
        assert audit(home, f"alone-{name}", [name]) == 0
        alone = {row["line"]: row for row in pq.read_table(home / f"alone-{name}" / "scores.parquet").to_pylist()}
        for line in lines:
            assert line[f"score.{name}"] == pytest.approx(alone[line["line"]]["score"], rel=1e-6)
            assert line["row_hash"] == alone[line["line"]]["row_hash"]
        pairs = zip(*(read_judged(f / "judged") for f in (home / "both" / name, home / f"alone-{name}")), strict=True)
        assert all(one.entry.push == pytest.approx(other.entry.push, rel=1e-6) for one, other in pairs)
    scores = [[line[f"score.{name}"] for line in lines] for name in names]
    assert scores[0] != pytest.approx(scores[1], rel=0.1), "they are two behaviours"
    assert not (home / "alone-refusal" / "refusal").exists(), "one configuration keeps its layout"
    page = home / "both" / "report.html"
    assert f"report: {page}" in shown
    links = re.findall(r'href="([^"#:]+)"', page.read_text())
    assert links == ["refusal/report.html", "hedging/report.html"]
    assert all(f"{ROWS} rows judged" in (page.parent / link).read_text() for link in links)
    written = page.read_text()
    page.unlink()
    assert main(["report", str(home / "both")]) == 0
    assert page.read_text() == written
    assert main(["curate", str(home / "both")]) == 2
    assert "name one in it: hedging, refusal" in capsys.readouterr().err


def test_what_was_stopped_between_two_behaviours_goes_on(home: Path) -> None:
    """The first is audited, the second was never begun."""
    out = home / "stopped"
    assert audit(home, "stopped/refusal", ["refusal"]) == 0
    (out / "refusal" / "summary.json").unlink()
    assert audit(home, "stopped", ["refusal", "hedging"], "--resume") == 0
    assert len(list(read_judged(out / "hedging" / "judged"))) == ROWS
    assert set(json.loads((out / "summary.json").read_text())["behaviours"]) == {"refusal", "hedging"}
    (out / ".summary.json.tmp").write_text("{")
    (out / "report.html").unlink()
    assert audit(home, "stopped", ["refusal", "hedging"], "--resume") == 0, "what is finished is summed up again"
    assert (out / "report.html").is_file()


def test_what_cannot_stand_side_by_side_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(home, "never", ["refusal", "refusal"]) == 2
    assert "found 'refusal', as in another --config" in capsys.readouterr().err
    for name in ("nowhere", "page"):
        assert audit(home, "never", ["refusal", name]) == 2
        assert "expected a folder's name" in capsys.readouterr().err
    assert not (home / "never").exists()
    (home / "full").mkdir()
    (home / "full" / "notes.txt").write_text("mine")
    for more in ([], ["--resume"]):
        assert audit(home, "full", ["refusal", "hedging"], *more) == 2
        assert "found a folder with notes.txt" in capsys.readouterr().err
    (home / "taken").write_text("mine")
    assert audit(home, "taken", ["refusal", "hedging"]) == 2
    assert "found a file" in capsys.readouterr().err
