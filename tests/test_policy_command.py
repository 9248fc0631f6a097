"""`smda policy` end to end on a real, tiny model folder: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny
import yaml
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from smda_monitor.cli import main
from smda_monitor.instruments.assemble import assemble, open_bench
from smda_monitor.instruments.config_file import load_config
from smda_monitor.instruments.embedded import load_model
from smda_monitor.instruments.probe_files import read_probes
from smda_monitor.outputs.findings_folder import FILES


def write_config(folder: Path, preset: str = "robust") -> Path:
    """A configuration file whose model lies in a folder."""
    tiny.tiny_llama().save_pretrained(folder / "model")
    tiny.tiny_tokenizer().save_pretrained(folder / "model")
    config = tiny.tiny_config(folder / "monitor")
    config["model"] = {"name": str(folder / "model")}
    config["policy"]["preset"] = preset
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def robust(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """(configuration, folder written, JSON) of one run of the command."""
    home = tmp_path_factory.mktemp("robust")
    path = write_config(home)
    assert main(["policy", "--config", str(path), "--out", str(home / "out"), "--json", str(home / "policy.json")]) == 0
    return path, home / "out", json.loads((home / "policy.json").read_text())


def test_it_prints_all_tables_and_names_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write_config(tmp_path), tmp_path / "deep" / "out"
    assert main(["policy", "--config", str(path), "--out", str(out)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    expected = (
        "preset robust",
        "the 24 probes among them",
        "Fidelity on 12 held-out prompts; threshold +0.00 log-odds",
        "with intercept (the policy)",
        "without intercept",
        "constant: mean of the fit set",
        "majority: always the same side",
        "coefficients by |w|·std(X)",
        "refusal by category, as probability",
        "Harmful less look-alike, log-odds",
        "fraud",
        "privacy",
        "of 2 categories are flagged",
        *(str(out / name) for name in FILES),
    )
    assert [part for part in expected if part not in shown] == []
    assert sorted(p.name for p in out.iterdir()) == sorted(FILES)


def test_the_files_say_the_same(robust: tuple[Path, Path, dict[str, Any]]) -> None:
    _, out, found = robust
    assert json.loads((out / "symbolic_policy.json").read_text()) == found
    coefficients = pq.read_table(out / "coefficients.parquet").to_pylist()
    assert coefficients == found["coefficients"]
    effects = [c["effect"] for c in coefficients]
    assert effects == sorted(effects, reverse=True)
    assert effects[0] > 0
    gaps = pq.read_table(out / "gaps.parquet").to_pylist()
    assert [g["category"] for g in gaps] == [g["category"] for g in found["gaps"]] == ["fraud", "privacy"]
    for row, gap in zip(gaps, found["gaps"], strict=True):
        assert (row["n_harmful"], row["n_lookalike"]) == (gap["n_harmful"], gap["n_lookalike"]) == (4, 4)
        assert row["difference.measured_y.low"] == gap["difference"]["measured_y"]["low"]
        assert row["harmful.predicted"] == gap["harmful"]["predicted"]["value"]
        assert (row["flags"], row["features"]) == (gap["flags"], gap["features"])
    cards = {card["feature"] for card in found["cards"]}
    assert {c["feature"] for c in coefficients[:10] if c["effect"] > 0} <= cards
    assert {f["feature"] for gap in found["gaps"] for f in gap["features"]} <= cards


def test_the_figures_are_those_of_scikit_learn_on_what_the_model_does(
    robust: tuple[Path, Path, dict[str, Any]],
) -> None:
    path, _, found = robust
    config = load_config(path)
    instruments = assemble(open_bench(config, *load_model(config.model.name)))
    policy = instruments.policy
    heldout = read_probes(config.probes.heldout)
    judged = instruments.reader.measure([instruments.bench.encode(p.prompt) for p in heldout])
    X, y = judged.X.double().numpy(), judged.readings.mass.numpy()
    for variant in found["fidelity"]["variants"]:
        ridge = Ridge(alpha=policy.alpha, fit_intercept=variant["intercept"], solver="svd")
        prediction = ridge.fit(policy.X.double().numpy(), policy.y.numpy()).predict(X)
        assert variant["r2"]["value"] == pytest.approx(r2_score(y, prediction), abs=1e-4)
        assert variant["accuracy"]["value"] == np.mean((prediction > 0) == (y > 0))
    assert found["fidelity"]["variants"][0]["r2"]["value"] == pytest.approx(policy.quality.r2_heldout, abs=1e-4)
    # The probes are the first rows of the policy's own data, measured on the same weights.
    for gap in found["gaps"]:
        rows = [
            i for i, p in enumerate(instruments.bench.probes) if (p.category, p.kind) == (gap["category"], "harmful")
        ]
        measured = policy.y[rows].sigmoid().mean()
        assert gap["harmful"]["measured"]["value"] == pytest.approx(float(measured), abs=1e-6)
        features = [float(policy.coef[policy.feature_ids.index(f["feature"])]) for f in gap["features"]]
        assert features == pytest.approx([f["coef"] for f in gap["features"]], abs=1e-6)


def test_the_papers_preset_shows_the_variant_with_intercept_beside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path, "paper")
    assert main(["policy", "--config", str(path), "--out", str(tmp_path / "out")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "without intercept (the policy)" in shown
    assert "log-probability" in shown
    found = json.loads((tmp_path / "out" / "symbolic_policy.json").read_text())
    assert [(v["intercept"], v["is_policy"]) for v in found["fidelity"]["variants"]] == [(False, True), (True, False)]
    assert found["fidelity"]["threshold"] < 0
    assert found["limit"] == found["fidelity"]["threshold"]


def test_earlier_findings_are_replaced_and_other_files_never(
    robust: tuple[Path, Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out, _ = robust
    before = (out / "symbolic_policy.json").read_bytes()
    (out / "gaps.parquet").write_bytes(b"old")
    assert main(["policy", "--config", str(path), "--out", str(out)]) == 0
    assert (out / "symbolic_policy.json").read_bytes() == before, "the same figures a second time"
    assert pq.read_table(out / "gaps.parquet").num_rows == 2
    (tmp_path / "mine.txt").write_text("keep")
    assert main(["policy", "--config", str(path), "--out", str(tmp_path)]) == 2
    assert "a folder with other files (mine.txt)" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "{file}"], "found a file; expected a folder"),
        (["--out", "{home}/out", "--json", "{home}"], "--json"),
        (["--out", "{home}/out", "--config", "{home}/nowhere.yaml"], "no such file"),
        (["--out", "{file}/below"], "files that can be written"),
    ],
)
def test_what_is_wrong_is_said(
    robust: tuple[Path, Path, dict[str, Any]],
    arguments: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("")
    places = {"file": str(tmp_path / "file"), "home": str(tmp_path)}
    given = [argument.format(**places) for argument in arguments]
    assert main(["policy", "--config", str(robust[0]), *given]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
