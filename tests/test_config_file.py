from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smda_monitor.errors import ConfigError
from smda_monitor.instruments.config_file import load_config, resolve
from smda_monitor.records.config import MonitorConfig

CONFIGS = Path(__file__).parent.parent / "configs"


def message(source: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(source)  # type: ignore[arg-type]
    return str(caught.value)


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "run.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_configs_folder_is_not_empty() -> None:
    assert {"smollm2-135m-demo.yaml", "llama-3.2-3b-instruct.yaml"} <= {path.name for path in CONFIGS.glob("*.yaml")}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_config_loads(path: Path) -> None:
    config = resolve(load_config(path))
    given_keys = yaml.safe_load(path.read_text())
    for section, values in given_keys.items():
        for key, value in values.items():
            found = getattr(getattr(config, section), key)
            assert (list(found) if isinstance(found, tuple) else found) == value


def test_the_papers_config_is_the_papers_setting() -> None:
    config = resolve(load_config(CONFIGS / "llama-3.2-3b-instruct.yaml"))
    assert (config.policy.preset, config.policy.path, config.policy.feature_contrast) == ("paper", "fit", 0.1)
    assert (config.dictionary.gate, config.dictionary.position) == ("relu_proxy", "last_user_token")
    assert config.dictionary.hook == "blocks.10.hook_resid_post"


def test_mappings_text_paths_and_configs_are_taken() -> None:
    config = load_config({"probes": {"per_step": 7}})
    assert config.probes.per_step == 7
    assert load_config(config) is config
    assert load_config({}) == MonitorConfig()
    assert load_config(str(CONFIGS / "smollm2-135m-demo.yaml")) == load_config(CONFIGS / "smollm2-135m-demo.yaml")


def test_resolve_fills_what_the_preset_decides_and_keeps_what_was_given() -> None:
    robust = resolve(MonitorConfig())
    assert (robust.dictionary.gate, robust.dictionary.position) == ("continuous", "last_prompt_token")
    assert robust.policy.feature_contrast == 0.0
    chosen = load_config(
        {"policy": {"preset": "paper", "feature_contrast": 0.0}, "dictionary": {"gate": "native", "path": "x"}}
    )
    assert resolve(chosen).dictionary.gate == "native"
    assert resolve(chosen).dictionary.path == "x"
    assert resolve(chosen).policy.feature_contrast == 0.0
    assert resolve(resolve(chosen)) == resolve(chosen)


def test_relative_paths_count_from_the_files_folder(tmp_path: Path) -> None:
    (tmp_path / "dictionary").mkdir()
    (tmp_path / "shipped").mkdir()
    path = written(
        tmp_path,
        "model: {name: org/model, adapter: ./adapter}\n"
        "probes: {file: my.jsonl, fit: shipped, heldout: org/set}\n"
        "dictionary: {path: dictionary}\n"
        "policy: {path: fit}\n"
        "outputs: {folder: runs/x}\n",
    )
    config = load_config(path)
    assert config.model.name == "org/model"
    assert config.model.adapter == str(tmp_path / "adapter")
    assert (config.probes.file, config.probes.fit) == (str(tmp_path / "my.jsonl"), "shipped")
    assert config.probes.heldout == "org/set"
    assert config.dictionary.path == str(tmp_path / "dictionary")
    assert config.policy.path == "fit"
    assert config.outputs.folder == "runs/x"


def test_all_problems_are_named_at_once_with_path_choices_and_nearest_key() -> None:
    text = message(
        {"probes": {"per_stp": 3, "per_step": -1}, "policy": {"preset": "papr"}, "outputs": 5, "bogus": {}, "seed": "x"}
    )
    lines = {line.split(":")[0].strip(): line for line in text.splitlines()}
    assert "6 problems" in text
    assert "'per_step'" in lines["probes.per_stp"]
    assert all(key in lines["probes.per_stp"] for key in ("file", "fit", "heldout"))
    assert "-1" in lines["probes.per_step"]
    assert "robust or paper" in lines["policy.preset"]
    assert "did you mean 'paper'" in lines["policy.preset"]
    assert "row_text" in lines["outputs"]
    assert "did you mean" not in lines["bogus"]
    assert "model, probes" in lines["bogus"]
    assert "'x'" in lines["seed"]
    asked = {"categories": {"benign.fraud": "stil"}, "single_features": {7: "rise", "seven": "up"}}
    lines = {line.split(": ")[0].strip(): line for line in message({"alerts": {"intent": asked}}).splitlines()}
    assert "up or down or still or any" in lines["alerts.intent.categories.benign.fraud"]
    assert "did you mean 'still'" in lines["alerts.intent.categories.benign.fraud"]
    assert "'rise'" in lines["alerts.intent.single_features.7"]
    assert "integer" in lines["alerts.intent.single_features.seven.[key]"]


def test_an_optional_choice_lists_its_words() -> None:
    assert "continuous or relu_proxy or native" in message({"dictionary": {"gate": "relu"}})


@pytest.mark.parametrize("section", sorted(MonitorConfig.model_fields))
def test_an_unknown_key_is_refused_in_every_section(section: str) -> None:
    default = getattr(MonitorConfig(), section)
    if hasattr(default, "model_fields_set"):
        assert f"{section}.surprise: found an unknown key" in message({section: {"surprise": 1}})
    else:
        assert f"{section}x: found an unknown key" in message({f"{section}x": 1})


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a: [1\nb: 2\n", "line 2"),
        ("seed: 1\nmodel: {}\nseed: 2\n", "line 3: found key 'seed' given twice, first in line 1"),
        ("", "an empty file"),
        ("- 1\n", "a list"),
        (b"\xff\xfe\xff", "not UTF-8"),
        ("? [1]\n: 2\n", "unhashable"),
        ("seed: 2024-99-99\n", "valid YAML"),
        ("!!python/object/apply:os.getcwd []\n", "line 1"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, content: str | bytes, expected: str) -> None:
    text = message(written(tmp_path, content))
    assert expected in text
    assert "run.yaml" in text


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "no such file" in message(tmp_path / "none.yaml")
    assert str(tmp_path) in message(tmp_path)


FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
KEYS = (
    st.sampled_from(["model", "probes", "dictionary", "gate", "path", "openings", "behaviour", "zzz"]) | st.integers()
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all files of a fuzz test."""
    return tmp_path_factory.mktemp("fuzz")


@FUZZ
@given(content=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)))
def test_any_bytes_give_a_config_or_a_config_error(folder: Path, content: bytes) -> None:
    path = written(folder, content)
    try:
        assert isinstance(load_config(path), MonitorConfig)
    except ConfigError as error:
        assert str(path) in str(error)


@FUZZ
@given(content=st.dictionaries(KEYS, VALUES, max_size=3))
def test_any_mapping_gives_a_config_or_a_config_error(content: dict[str, object]) -> None:
    try:
        assert isinstance(load_config(content), MonitorConfig)
    except ConfigError as error:
        assert "problem" in str(error)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"alerts": {"stop": ["drif"]}},
            "alerts.stop.0: found 'drif'; expected drift or rows or account. What to do: did",
        ),
        ({"alerts": {"stop": [7]}}, "alerts.stop.0: found 7; expected drift or rows or account"),
        ({"training": {"arguments": 5}}, "training.arguments: found 5; expected a valid dictionary"),
        ({"training": {"lora": "r=4"}}, "training.lora: found 'r=4'; expected a valid dictionary"),
    ],
)
def test_what_lies_inside_a_list_or_should_be_a_mapping_is_named(config: dict[str, object], said: str) -> None:
    assert said in message(config)
