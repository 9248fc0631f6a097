"""`smda prove` from the command line on a tiny model: trained as by hand, stopped and gone on with, refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import audited
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import torch
import yaml

from smda_monitor.cli import main
from smda_monitor.commands.training import open_trainer, planned_steps
from smda_monitor.instruments.behaviour import resolve_behaviour
from smda_monitor.instruments.chat import prompt_tokens
from smda_monitor.instruments.embedded import load_model
from smda_monitor.instruments.probe_files import read_probes
from smda_monitor.instruments.read_behaviour import read_behaviour
from smda_monitor.maths.training_order import training_order
from smda_monitor.outputs.curation_files import write_curation
from smda_monitor.outputs.finished_audit import read_audit
from smda_monitor.outputs.proof_finding import finding_sentence
from smda_monitor.records.config import BehaviourConfig, TrainingConfig

STEPS = 3
PLANTED = [f"mine-{i}" for i in audited.PLANTED]
FLAGGED = [*PLANTED[:-1], "mine-30"]


def curate(run: Path, flagged: list[str], **head: Any) -> None:
    """A curation by hand."""
    known = {"rule": "score", "rate": 0.1, "threshold": 1.0, "audit": read_audit(run).identity, **head}
    rows = [("remove" if r["id"] in flagged else "keep", r["id"], i, r, ()) for i, r in enumerate(audited.rows(), 1)]
    write_curation(run / "curation", rows, known)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished audit, curated."""
    folder = audited.write_home(tmp_path_factory.mktemp("prove"))
    curate(audited.audit(folder), FLAGGED)
    return folder


@pytest.fixture(scope="module")
def proof(home: Path) -> Path:
    """A finished proof."""
    words = ["prove", str(home / "audit"), "--max-steps", str(STEPS), "--json", str(home / "proof.json")]
    assert main(words) == 0
    return home / "audit" / "proof"


@pytest.fixture
def run(home: Path, proof: Path, tmp_path: Path) -> Path:
    """A copy of the audit with its proof, to be changed."""
    return Path(shutil.copytree(home / "audit", tmp_path / "audit"))


def arms(folder: Path) -> dict[str, dict[str, Any]]:
    found = {path.stem: json.loads(path.read_text()) for path in (folder / "arms").glob("[!.]*.json")}
    return {name: {key: value for key, value in arm.items() if key != "seconds"} for name, arm in found.items()}


def test_every_arm_is_trained_and_measured(home: Path, proof: Path) -> None:
    found = arms(proof)
    assert set(found) == {f"{arm}-{seed}-0" for arm in ("all", "flagged", "planted", "random") for seed in range(3)}
    for name, arm in found.items():
        expected = {"all": 0, "flagged": 5, "planted": 5, "random": 5}[arm["name"]]
        assert len(arm["left_out"]) == expected, name
        assert arm["steps"] == STEPS
        assert len(arm["readings"]) == len(arm["said"]) == len(arm["shows"]) == 12
        assert arm["name"] != "random" or not set(arm["left_out"]) & set(FLAGGED)
    assert set(found["flagged-0-0"]["left_out"]) == set(FLAGGED)
    assert set(found["planted-0-0"]["left_out"]) == set(PLANTED)
    readings = {tuple(arm["readings"]) for arm in found.values()}
    assert len(readings) == 12, "each training is another"
    tokens = found["flagged-0-0"]["tokens"]
    assert abs(found["random-0-0"]["tokens"] - tokens) < 0.15 * tokens


def test_the_figures_are_written(home: Path, proof: Path) -> None:
    figures = json.loads((home / "proof.json").read_text())
    assert figures == json.loads((proof / "proof.json").read_text())
    assert (figures["flagged_rows"], figures["planted_rows"], figures["planted_flagged"]) == (5, 5, 4)
    assert (figures["rows"], figures["steps"], figures["trainings"], figures["seeds"]) == (38, STEPS, 12, 3)
    assert figures["seconds"] > 0
    for name in ("flagged", "random"):
        value, low, high = figures["recovered"][name]
        assert low <= value <= high
    found = arms(proof)
    y = {
        arm: torch.tensor([found[f"{arm}-{seed}-0"]["readings"] for seed in range(3)], dtype=torch.float64).mean(0)
        for arm in ("all", "flagged", "planted", "random")
    }
    truth = y["planted"] - y["all"]
    for name in ("flagged", "random"):
        expected = float((y[name] - y["all"]) @ truth / (truth @ truth))
        assert figures["recovered"][name][0] == pytest.approx(expected, rel=1e-9)
    assert set(figures["effects"]) == {"all", "flagged", "planted", "random"}
    assert set(figures["effects"]["flagged"]) == {"every", "harmful", "lookalike", "benign"}
    assert set(figures["effects"]["flagged"]["benign"]["change"]) == {"log_odds", "scorer", "decoding"}
    manifest = json.loads((proof / "manifest.json").read_text())
    assert (manifest["kind"], manifest["status"]) == ("proof", "finished")
    assert not list(proof.glob("**/*.tmp"))


def test_an_arm_is_the_users_own_training_on_fewer_rows(home: Path, proof: Path, tmp_path: Path) -> None:
    """By hand: the adapter as SFTTrainer first makes it, its training on the rows that are left, and one reading."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import set_seed
    from trl import SFTConfig, SFTTrainer

    found = arms(proof)["random-1-0"]
    model, tokenizer = load_model(str(home / "model"))
    rows = [row for i, row in enumerate(audited.rows(), 1) if i not in audited.LEFT_OUT]

    def trainer(of: Any, kept: list[dict[str, Any]], peft: Any = None, **arguments: Any) -> Any:
        known = {"per_device_train_batch_size": 8, "learning_rate": 1e-2, "max_length": 64, "use_cpu": True}
        data = [
            {
                "prompt": [{"role": "user", "content": row["prompt"]}],
                "completion": [{"role": "assistant", "content": row["response"]}],
            }
            for row in kept
        ]
        quiet = {"report_to": "none", "save_strategy": "no", "bf16": False, "disable_tqdm": True}
        args = SFTConfig(output_dir=str(tmp_path), **known, **quiet, **arguments)
        return SFTTrainer(
            of, args=args, train_dataset=Dataset.from_list(data), processing_class=tokenizer, peft_config=peft
        )

    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.1, task_type="CAUSAL_LM")
    adapted = trainer(model, rows, lora).model
    out = [i for i, row in enumerate(rows) if row["id"] in found["left_out"]]
    kept = [rows[i] for i in training_order(len(rows), out, 1, 8 * STEPS)]
    again = trainer(adapted, kept, max_steps=STEPS, seed=1, train_sampling_strategy="sequential")
    set_seed(1)
    again.train()
    behaviour = resolve_behaviour(
        BehaviourConfig(openings=("No", "I can't"), opposite=("Yes", "Ok")), tokenizer, "robust"
    )
    prompts = [prompt_tokens(tokenizer, p.prompt, "last_prompt_token") for p in read_probes(home / "held.jsonl")]
    expected = read_behaviour(adapted, behaviour, prompts, tokenizer.pad_token_id).mass
    assert torch.allclose(torch.tensor(found["readings"], dtype=torch.float64), expected, atol=1e-4)
    other = torch.tensor(arms(proof)["all-1-0"]["readings"], dtype=torch.float64)
    assert float((other - expected).abs().max()) > 1e-2, "not just any training"


def test_what_is_missing_is_trained_again_and_comes_out_the_same(run: Path, proof: Path) -> None:
    """In another order, after other trainings, from the weights put back."""
    folder = run / "proof"
    for name in ("all-0-0", "random-2-0"):
        (folder / "arms" / f"{name}.json").unlink()
    (folder / "arms" / ".flagged-0-0.json.tmp").write_text('{"name": "fla')
    kept = (folder / "arms" / "planted-1-0.json").read_bytes()
    assert main(["prove", str(run), "--max-steps", str(STEPS), "--resume"]) == 0
    assert arms(folder).items() >= arms(proof).items()
    assert (folder / "arms" / "planted-1-0.json").read_bytes() == kept, "what was there is not trained again"
    first, second = (json.loads((place / "proof.json").read_text()) for place in (proof, folder))
    timed = {"seconds", "seconds_of_trainings"}
    assert {k: v for k, v in first.items() if k not in timed} == {k: v for k, v in second.items() if k not in timed}


def test_a_killed_proof_goes_on(home: Path, proof: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    words = ["prove", str(home / "audit"), "--max-steps", str(STEPS), "--out", str(out)]
    process = subprocess.Popen([sys.executable, "-m", "smda_monitor", *words], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not list(out.glob("arms/*.json")) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    process.kill()
    process.wait()
    done = {path.name for path in out.glob("arms/*.json")}
    assert 0 < len(done) < 12, "it was killed on the way"
    assert json.loads((out / "manifest.json").read_text())["status"] == "running"
    assert main(words) == 2, "it is not begun anew over what is there"
    assert main([*words, "--resume"]) == 0
    assert arms(out) == arms(proof)


def test_a_proof_that_was_killed_while_it_was_set_up_begins_anew(home: Path, proof: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    words = ["prove", str(home / "audit"), "--max-steps", str(STEPS), "--out", str(out)]
    process = subprocess.Popen([sys.executable, "-m", "smda_monitor", *words], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not (out / "rows").exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert json.loads((out / "manifest.json").read_text())["status"] == "setting up", "it was killed on the way"
    assert main(words) == 0
    assert arms(out) == arms(proof)


def test_more_seeds_are_added_to_a_finished_proof(run: Path) -> None:
    before = arms(run / "proof")
    assert main(["prove", str(run), "--max-steps", str(STEPS), "--seeds", "4", "--resume"]) == 0
    after = arms(run / "proof")
    assert len(after) == 16
    assert before.items() <= after.items()
    assert json.loads((run / "proof" / "proof.json").read_text())["trainings"] == 16
    assert _listed(run, "proof")["trainings"] == "16"


def _listed(run: Path, name: str) -> dict[str, str]:
    """The figures that the audit's page lists of a file, by their paths."""
    (table,) = re.findall(rf'<table data-listed="{name}">(.*?)</table>', (run / "report.html").read_text(), re.DOTALL)
    return dict(re.findall(r'<tr><td class="id">(.*?)</td><td>(.*?)</td>', table))


def test_the_audits_page_shows_the_proof(run: Path, proof: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = json.loads((proof / "proof.json").read_text())
    listed = _listed(run, "proof")
    assert (listed["trainings"], listed["flagged_rows"]) == (str(figures["trainings"]), str(figures["flagged_rows"]))
    assert finding_sentence(figures["finding"], True) in (run / "report.html").read_text()
    assert "another curation" not in (run / "report.html").read_text()
    (run / "report.html").unlink()
    assert main(["prove", str(run), "--max-steps", str(STEPS), "--resume"]) == 0, "all of it is there already"
    assert f"report: {run / 'report.html'}" in capsys.readouterr().out
    assert _listed(run, "proof")["trainings"] == "12"
    (run / "report.html").unlink()
    (run / "report.html").mkdir()
    (run / "proof" / "proof.json").unlink()
    assert main(["prove", str(run), "--max-steps", str(STEPS), "--resume"]) == 0
    assert "report: NOT written" in capsys.readouterr().err
    assert json.loads((run / "proof" / "proof.json").read_text())["recovered"] == figures["recovered"]
    assert json.loads((run / "proof" / "manifest.json").read_text())["status"] == "finished"


def test_another_proof_is_not_gone_on_with(run: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["prove", str(run), "--max-steps", str(STEPS)]
    assert main(words) == 2
    assert "found a folder that is not empty" in capsys.readouterr().err
    assert main(["prove", str(run), "--max-steps", str(STEPS + 1), "--resume"]) == 2
    assert "a proof with other steps" in capsys.readouterr().err
    config = yaml.safe_load((home / "config.yaml").read_text())
    config["training"]["arguments"]["learning_rate"] = 1e-3
    (home / "other.yaml").write_text(yaml.safe_dump(config))
    assert main([*words, "--config", str(home / "other.yaml"), "--resume"]) == 2
    assert "a proof with other config" in capsys.readouterr().err
    curate(run, FLAGGED[1:])
    assert main([*words, "--resume"]) == 2
    assert "a proof with other flagged" in capsys.readouterr().err
    assert main(["prove", str(run), "--out", str(run / "never"), "--resume"]) == 2
    assert "manifest" in capsys.readouterr().err


def test_what_cannot_be_proved_is_refused(run: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = home / "refused"

    def refused(words: list[str], *expected: str) -> None:
        assert main(["prove", *words, "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert all(part in error for part in expected), error
        assert not out.exists(), "nothing is left behind"

    def configured(name: str, prompts: str) -> list[str]:
        config = yaml.safe_load((home / "config.yaml").read_text())
        (home / f"{name}.jsonl").write_text(prompts)
        config["probes"]["heldout"] = str(home / f"{name}.jsonl")
        (home / f"{name}.yaml").write_text(yaml.safe_dump(config))
        return [str(run), "--config", str(home / f"{name}.yaml")]

    refused([str(home)], "a folder without manifest.json", "name one in it: audit")
    refused(configured("no-prompts", ""), "no probe", "no-prompts.jsonl")
    trained = {"id": "h", "prompt": "question 30 ", "category": "fraud", "kind": "benign", "pair": None}
    refused(configured("trained", json.dumps(trained) + "\n"), "prompts that are trained on: 'h' (row 'mine-30')")
    refused([str(run), "--seeds", "2"], "--seeds: found 2", "at least 3")
    refused([str(run), "--max-steps", "0"], "--max-steps: found 0", "at least 1")
    curate(run, [])
    refused([str(run)], "no row to remove", "smda curate")
    curate(run, [row["id"] for row in audited.rows()[8:]])
    refused([str(run)], "random removal", "at most half of the rows")
    curate(run, FLAGGED, audit={"rows": "other", "started": "then"})
    refused([str(run)], "that of another audit")
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "status": "running"}))
    refused([str(run)], "an audit that was stopped")


def test_an_audit_without_a_curation_is_curated_first(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(run / "curation")
    code = main(["prove", str(run), "--max-steps", str(STEPS), "--resume"])
    shown = capsys.readouterr()
    assert (run / "curation" / "curation.json").is_file()
    assert "The rows' bulk lies at" in shown.out
    assert code == 2, "random weights flag other rows, or none"
    assert "other flagged" in shown.err or "other curation" in shown.err or "no row to remove" in shown.err


def test_what_the_default_rule_removes_is_what_is_proved(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four rows of the tiny audit stand out by their scores and go against their prompts, as real ones would."""
    shutil.rmtree(run / "curation")
    shutil.rmtree(run / "proof")
    table = pq.read_table(run / "scores.parquet")
    scores = {f"mine-{i}": 50.0 for i in (1, 2, 9, 10)}
    found = [scores.get(name, 0.01 * i) for i, name in enumerate(table["row_id"].to_pylist())]
    place = table.column_names.index("score")
    pq.write_table(table.set_column(place, "score", pa.array(found)), run / "scores.parquet")
    _oppose(run / "judged", set(scores))
    assert main(["prove", str(run), "--max-steps", "1"]) == 0
    figures = json.loads((run / "proof" / "proof.json").read_text())
    assert (figures["curation"]["rule"], figures["flagged_rows"]) == ("score", 4)
    assert set(arms(run / "proof")["flagged-0-0"]["left_out"]) == set(scores)
    assert "The rows' bulk lies at" in capsys.readouterr().out


def _oppose(folder: Path, names: set[str]) -> None:
    """Makes the rows `names` of a judged audit push against what their prompts call for."""
    for path in folder.glob("*.parquet"):
        table = pq.read_table(path)
        changed = [
            (-1.0 if one["row_id"] in names else 1.0) * (1.0 if one["expected"] >= 0 else -1.0)
            for one in table.select(["row_id", "expected"]).to_pylist()
        ]
        pq.write_table(table.set_column(table.column_names.index("own_push"), "own_push", pa.array(changed)), path)


def test_without_planted_rows_it_says_so(tmp_path: Path, home: Path, run: Path) -> None:
    """No column names planted rows: there is no such arm, and nothing to be recovered."""
    manifest = json.loads((run / "manifest.json").read_text())
    plain = tmp_path / "plain.jsonl"
    rows = [json.loads(line) if line[0] == "{" and line != "{broken" else None for line in _lines(home)]
    bare = [line if row is None else json.dumps(_bare(row)) for row, line in zip(rows, _lines(home), strict=True)]
    plain.write_text("\n".join(bare) + "\n")
    (run / "manifest.json").write_text(json.dumps({**manifest, "data": str(plain)}))
    out = tmp_path / "proof"
    assert main(["prove", str(run), "--max-steps", "1", "--out", str(out)]) == 0
    figures = json.loads((out / "proof.json").read_text())
    assert figures["recovered"] == {"flagged": None, "random": None}
    assert figures["planted_rows"] == 0
    assert set(figures["effects"]) == {"all", "flagged", "random"}
    assert figures["effects"]["flagged"]["benign"]["beyond_random"]["log_odds"] is not None
    assert figures["finding"] in {"shown", "nothing", "as random"}


def _lines(home: Path) -> list[str]:
    return (home / "rows.jsonl").read_text().splitlines()


def _bare(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in ("kind", "control")}


@pytest.mark.parametrize("arguments", [{"num_train_epochs": 1.5}, {"gradient_accumulation_steps": 3}, {"max_steps": 2}])
def test_planned_steps_are_those_that_are_taken(arguments: dict[str, Any], tmp_path: Path) -> None:
    known = {"per_device_train_batch_size": 4, "max_length": 64, "use_cpu": True, **arguments}
    config = TrainingConfig(arguments=known)
    trainer = open_trainer(
        config, tiny.tiny_lora(tiny.tiny_llama()), tiny.tiny_tokenizer(), tiny.tiny_rows(22), tmp_path
    )
    planned = planned_steps(trainer)
    trainer.train()
    assert planned == trainer.state.global_step
    assert planned > 1
