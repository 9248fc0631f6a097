"""Bad input gets a clear error before step 1, nothing is written, and nothing is left on the model."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from smda_monitor.callback import SMDACallback
from smda_monitor.errors import ConfigError, MeasurementError, PrerequisiteError
from smda_monitor.instruments.trainer_mode import check_trainer_mode
from smda_monitor.outputs.ledger_reader import read_accounts

Config = dict[str, Any]


def _corrupt(name: str) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        path = Path(config["dictionary"]["path"]) / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return change


def _set(section: str, **values: Any) -> Callable[[Config], None]:
    return lambda config: config[section].update(values)


def _wrong_width(config: Config) -> None:
    tiny.write_dictionary(Path(config["dictionary"]["path"]), d_in=24)


def _empty_probes(config: Config) -> None:
    Path(config["probes"]["file"]).write_text("")


def _other_run(config: Config) -> None:
    folder = Path(config["outputs"]["folder"])
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"started": "2026-01-01T00:00:00", "status": "finished"}))


BAD = [
    pytest.param(_set("dictionary", path="./missing/x"), ConfigError, "no folder missing/x", id="missing dictionary"),
    pytest.param(_corrupt("sae_weights.safetensors"), ConfigError, "sae_weights", id="corrupt dictionary"),
    pytest.param(_corrupt("cfg.json"), ConfigError, "cfg.json", id="corrupt dictionary config"),
    pytest.param(_wrong_width, ConfigError, "24", id="wrong width"),
    pytest.param(
        _set("dictionary", hook="blocks.9.hook_resid_post"), ConfigError, "3 decoder blocks", id="no such hookpoint"
    ),
    pytest.param(_set("probes", file="no/such.jsonl"), ConfigError, "no/such.jsonl", id="missing probes"),
    pytest.param(_empty_probes, ConfigError, "empty|no prob|no row", id="empty probe set"),
    pytest.param(_set("policy", path="no-policy-here"), ConfigError, "no-policy-here", id="missing policy"),
    pytest.param(_set("behaviour", openings=["No"], opposite=["No way"]), ConfigError, "No", id="overlapping openings"),
    pytest.param(_other_run, ConfigError, "2026-01-01", id="folder holds another run"),
]


@pytest.mark.parametrize(("change", "error", "words"), BAD)
def test_bad_input_raises_before_step_1(
    tmp_path: Path, change: Callable[[Config], None], error: type[Exception], words: str
) -> None:
    config = tiny.tiny_config(tmp_path / "monitor")
    change(config)
    trainer = tiny.tiny_trainer(tmp_path, [SMDACallback(config)], max_steps=1)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    with pytest.raises(error, match=f"(?s){words}.*expected.*What to do"):
        trainer.train()
    assert trainer.state.global_step == 0
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    assert not (Path(config["outputs"]["folder"]) / "ledger").exists()


MODES = [
    pytest.param({"packing": True, "packing_strategy": "wrapped", "max_length": 64}, "packing_strategy", id="wrapped"),
    pytest.param({"loss_type": "dft"}, "loss_type", id="dft"),
    pytest.param({"neftune_noise_alpha": 5.0}, "neftune_noise_alpha", id="neftune"),
]


@pytest.mark.parametrize(("settings", "words"), MODES)
def test_a_mode_not_accounted_for_is_named(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    trainer = tiny.tiny_trainer(tmp_path, [SMDACallback(tiny.tiny_config(tmp_path / "m"))], max_steps=1, **settings)
    with pytest.raises(PrerequisiteError, match=rf"(?s){words}.*What to do"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_parameter_that_cannot_be_captured_is_named(tmp_path: Path) -> None:
    callback = SMDACallback(tiny.tiny_config(tmp_path / "m"))
    trainer = tiny.tiny_trainer(
        tmp_path, [callback], model=tiny.tiny_lora(tiny.tiny_llama(tied=False), targets=("embed_tokens",)), max_steps=1
    )
    with pytest.raises(PrerequisiteError, match=r"embed_tokens\.lora_embedding_A.*LoraConfig"):
        trainer.train()


@pytest.mark.parametrize("attribute", ["chat_template", "pad_token"])
def test_a_tokenizer_that_cannot_be_used_is_named(tmp_path: Path, attribute: str) -> None:
    callback = SMDACallback(tiny.tiny_config(tmp_path / "m"))
    trainer = tiny.tiny_trainer(tmp_path, [callback], max_steps=1)
    setattr(trainer.processing_class, attribute, None)
    with pytest.raises(PrerequisiteError, match=attribute.replace("_", " ")):
        trainer.train()


def _saved_policy(tmp_path: Path) -> tuple[Config, Path]:
    config = tiny.tiny_config(tmp_path / "first")
    tiny.tiny_trainer(tmp_path, [SMDACallback(config)], max_steps=1).train()
    return config, tmp_path / "first" / "run" / "policy"


def _other_openings(config: Config, tmp_path: Path) -> None:
    config["behaviour"] = {"openings": ["Never"], "opposite": ["Yes"]}


def _other_probes(config: Config, tmp_path: Path) -> None:
    config["probes"]["file"] = str(tiny.write_prompts(tmp_path / "other.jsonl", start=500))


def _other_dictionary(config: Config, tmp_path: Path) -> None:
    config["dictionary"]["path"] = str(tiny.write_dictionary(tmp_path / "other", seed=9))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(_other_openings, "behaviour", id="behaviour"),
        pytest.param(_other_probes, "probes", id="probes"),
        pytest.param(_other_dictionary, "dictionary", id="dictionary"),
        pytest.param(None, "model", id="model"),
    ],
)
def test_a_policy_of_something_else_is_refused_or_refitted(tmp_path: Path, change: Any, words: str) -> None:
    config, policy = _saved_policy(tmp_path)
    config["policy"]["path"] = str(policy)
    config["outputs"]["folder"] = str(tmp_path / "second")
    model = tiny.tiny_lora(tiny.tiny_llama(seed=5)) if change is None else None
    if change is not None:
        change(config, tmp_path)
    with pytest.raises(PrerequisiteError, match=f"(?s){words}.*refit"):
        tiny.tiny_trainer(tmp_path, [SMDACallback(config)], model=model, max_steps=1).train()
    config["policy"]["mismatch"] = "refit"
    callback = SMDACallback(config)
    model = tiny.tiny_lora(tiny.tiny_llama(seed=5)) if change is None else None
    tiny.tiny_trainer(tmp_path, [callback], model=model, max_steps=1).train()
    assert callback.run is not None
    assert len(callback.run.accounts) == 1


def test_corrupt_policy_is_named(tmp_path: Path) -> None:
    config, policy = _saved_policy(tmp_path)
    tensors = load_file(policy / "policy.safetensors")
    tensors["coef"][0] = float("nan")
    save_file(tensors, policy / "policy.safetensors")
    config["policy"]["path"] = str(policy)
    config["outputs"]["folder"] = str(tmp_path / "second")
    with pytest.raises(ConfigError, match="damaged"):
        tiny.tiny_trainer(tmp_path, [SMDACallback(config)], max_steps=1).train()


def test_mistake_9_training_prompts_that_are_also_probes(tmp_path: Path) -> None:
    config = tiny.tiny_config(tmp_path / "m")
    probe = json.loads(Path(config["probes"]["file"]).read_text().splitlines()[4])["prompt"]
    from datasets import Dataset

    rows = Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": text}], "completion": [{"role": "assistant", "content": "Ok."}]}
            for text in (probe.upper(), "something else", "a third", "a fourth")
        ]
    )
    with pytest.raises(ConfigError, match="p004"):
        tiny.tiny_trainer(tmp_path, [SMDACallback(config)], rows=rows, max_steps=1).train()
    config["probes"]["overlap"] = "warn"
    tiny.tiny_trainer(tmp_path, [SMDACallback(config)], rows=rows, max_steps=1).train()


def test_nan_in_the_first_snapshot_raises_before_the_folder_is_touched(tmp_path: Path) -> None:
    config = tiny.tiny_config(tmp_path / "m", exists="move_aside")
    tiny.tiny_trainer(tmp_path, [SMDACallback(config)], max_steps=1).train()
    model = tiny.tiny_lora(tiny.tiny_llama())
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "lora_A" in n).fill_(float("nan"))
    trainer = tiny.tiny_trainer(tmp_path, [SMDACallback(config)], model=model, max_steps=1)
    with pytest.raises(MeasurementError, match=r"NaN or Inf.*What to do"):
        trainer.train()
    assert trainer.state.global_step == 0
    assert not (tmp_path / "m" / "run.1").exists()
    assert json.loads((tmp_path / "m" / "run" / "manifest.json").read_text())["status"] == "finished"


def test_another_trainer_is_named(tmp_path: Path) -> None:
    from trl import DPOConfig

    args = DPOConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True, report_to="none")
    with pytest.raises(PrerequisiteError, match=r"found DPOConfig; expected trl\.SFTConfig"):
        check_trainer_mode(args)


@pytest.mark.parametrize("config", [None, 3, [1]])
def test_a_configuration_that_is_none_is_named(config: Any) -> None:
    with pytest.raises(ConfigError, match=r"config: found .*expected a YAML file"):
        SMDACallback(config)


class Halves(TrainerCallback):
    def on_pre_optimizer_step(self, *_: Any, **kwargs: Any) -> None:
        for weight in kwargs["model"].parameters():
            if weight.grad is not None:
                weight.grad.mul_(0.5)


@pytest.mark.parametrize("max_grad_norm", [0.0, 0.05], ids=["no clipping", "biting"])
def test_a_callback_that_scales_gradients_is_seen_at_the_first_step(tmp_path: Path, max_grad_norm: float) -> None:
    trainer = tiny.tiny_trainer(
        tmp_path, [Halves(), SMDACallback(tiny.tiny_config(tmp_path / "m"))], max_steps=2, max_grad_norm=max_grad_norm
    )
    with pytest.raises(MeasurementError, match=r"0\.5 times that of the rows, clipped, at step 1"):
        trainer.train()


def looks_on(*_: Any) -> None:
    pass


def test_hooks_on_the_optimizers_step_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = tiny.tiny_trainer(tmp_path, [SMDACallback(tiny.tiny_config(tmp_path / "m"))], max_steps=1)
    trainer.create_optimizer()
    trainer.optimizer.register_step_post_hook(looks_on)
    with caplog.at_level(logging.WARNING, "smda_monitor"):
        trainer.train()
    assert "The optimizer's step has hooks (looks_on): what they change is in no row's figures." in caplog.messages


class Interrupted(TrainerCallback):
    """Ctrl-C just after step `at`."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.at:
            raise KeyboardInterrupt


def test_a_run_left_open_is_closed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    monitor = SMDACallback(tiny.tiny_config(tmp_path / "m"))
    trainer = tiny.tiny_trainer(tmp_path, [monitor, Interrupted(2)], max_steps=4)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert monitor.run is not None
    monitor.close()
    manifest = json.loads((tmp_path / "m" / "run" / "manifest.json").read_text())
    assert manifest["status"] == "stopped"
    assert (tmp_path / "m" / "run" / "report.html").exists()
    assert monitor.run is None
    assert "without an account" not in caplog.text


def test_steps_that_get_no_account_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    monitor = SMDACallback(tiny.tiny_config(tmp_path / "m") | {"account": {"every": 3}})
    trainer = tiny.tiny_trainer(tmp_path, [monitor, Interrupted(5)], max_steps=6)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    monitor.close()
    assert "Steps without an account: 2 (4 to 5). Their rows are not in the ledger." in caplog.text
    assert [(a.since, a.step) for a in read_accounts(tmp_path / "m" / "run")] == [(0, 3)]


def test_nan_in_a_snapshot_raises_and_closes_the_ledger(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = tiny.tiny_config(tmp_path / "m") | {"audit": {"share": 0}}  # a replay would fail before the step
    trainer = tiny.tiny_trainer(tmp_path, [SMDACallback(config)], max_steps=3, learning_rate=1e30, max_grad_norm=0.0)
    with pytest.raises(MeasurementError, match="NaN or Inf"):
        trainer.train()
    manifest = json.loads((tmp_path / "m" / "run" / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert "Steps without an account: 1 (1 to 1)." in caplog.text, "nor are those of an account that failed silent"


def test_on_error_warn_lets_training_go_on_and_records_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = tiny.tiny_config(tmp_path / "m") | {"on_error": "warn"}
    callback = SMDACallback(config)
    trainer = tiny.tiny_trainer(tmp_path, [callback], max_steps=3, learning_rate=1e30, max_grad_norm=0.0)
    trainer.train()
    assert trainer.state.global_step == 3
    assert "training goes on unmonitored" in caplog.text
    summary = json.loads((tmp_path / "m" / "run" / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert "NaN or Inf" in summary["error"]
