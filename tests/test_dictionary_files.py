"""Reading dictionaries: what is accepted, what is refused, and how a refusal reads."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from smda_monitor.errors import ConfigError, PrerequisiteError
from smda_monitor.instruments.config_file import load_config
from smda_monitor.instruments.dictionary_files import (
    CONFIG_FILE,
    SHIPPED_DICTIONARY,
    WEIGHTS_FILE,
    from_sae_lens,
    load_dictionary,
    read_dictionary,
)

D_IN, D_SAE = 4, 6
HOME = {"hook_name": "blocks.2.hook_resid_post", "model_name": "tiny", "sae_lens_version": "6.54.0"}
CHECKPOINT = {"architecture": "batchtopk", "rescale_acts_by_decoder_norm": True}


def weights(architecture: str = "jumprelu") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    biases = {"gated": ["b_gate", "b_mag", "r_mag"], "jumprelu": ["b_enc", "threshold"]}.get(architecture, ["b_enc"])
    shapes = {"W_enc": (D_IN, D_SAE), "W_dec": (D_SAE, D_IN), "b_dec": (D_IN,)} | {name: (D_SAE,) for name in biases}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def config(architecture: str = "jumprelu", **changes: Any) -> dict[str, Any]:
    cfg: dict[str, Any] = {"architecture": architecture, "d_in": D_IN, "d_sae": D_SAE, "dtype": "float32"}
    cfg |= {"apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none"}
    cfg |= {"k": 2} if architecture == "topk" else {}
    return cfg | {"metadata": HOME} | changes


def write(folder: Path, cfg: object = None, tensors: dict[str, Tensor] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(json.dumps(config() if cfg is None else cfg))
    save_file(weights() if tensors is None else tensors, folder / WEIGHTS_FILE)
    return folder


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_dictionary(folder)
    message = str(caught.value)
    assert re.search(r"found .*; expected .*\. What to do: .*\.$", message, flags=re.DOTALL), message
    for word in (*words, str(folder)):
        assert word in message


def test_a_good_folder_is_read(tmp_path: Path) -> None:
    dictionary = read_dictionary(write(tmp_path))
    assert (dictionary.d_in, dictionary.d_sae, dictionary.k) == (D_IN, D_SAE, None)
    assert (dictionary.hook_name, dictionary.model_name) == ("blocks.2.hook_resid_post", "tiny")
    assert dictionary.neuronpedia_id == ""
    assert read_dictionary(str(tmp_path)).fingerprint == dictionary.fingerprint


def test_folder_missing(tmp_path: Path) -> None:
    refused(tmp_path / "gone", "dictionary.path", "no folder")


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe\x00", b"[1]"])
def test_configuration_missing_or_not_a_json_object(content: bytes | None, tmp_path: Path) -> None:
    path = write(tmp_path) / CONFIG_FILE
    path.unlink() if content is None else path.write_bytes(content)
    refused(tmp_path, CONFIG_FILE, "no such file" if content is None else "JSON")


def test_weights_missing(tmp_path: Path) -> None:
    (write(tmp_path) / WEIGHTS_FILE).rename(tmp_path / "sae_weights.pt")
    refused(tmp_path, WEIGHTS_FILE, "no such file", "pickled")


@pytest.mark.parametrize("damage", ["empty", "pointer", "header", "cut", "pickle"])
def test_weights_corrupt(damage: str, tmp_path: Path) -> None:
    path = write(tmp_path) / WEIGHTS_FILE
    good = path.read_bytes()
    if damage == "pickle":
        torch.save(weights(), path)
    else:
        pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"
        damaged = {"empty": b"", "pointer": pointer, "header": b"\xff" * 8 + good[8:], "cut": good[:-1]}
        path.write_bytes(damaged[damage])
    refused(tmp_path, WEIGHTS_FILE, "not a complete safetensors file")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "temporal"}, ["architecture 'temporal'", "standard, topk, jumprelu, gated"]),
        ({"architecture": "batchtopk"}, ["rescale_acts_by_decoder_norm None in a batchtopk checkpoint"]),
        (
            {**CHECKPOINT, "normalize_activations": "expected_average_only_in"},
            ["'expected_average_only_in'", "take the final checkpoint"],
        ),
        ({"architecture": "transcoder"}, ["architecture 'transcoder'", "residual stream"]),
        ({"architecture": None}, ["architecture None"]),
        ({"architecture": "standard", "activation_fn": "tanh-relu"}, ["activation function 'tanh-relu'"]),
        ({"normalize_activations": "covariance_whitening"}, ["'covariance_whitening'", "constant_norm_rescale"]),
        ({"normalize_activations": 3}, ["normalize_activations 3"]),
        ({"reshape_activations": "hook_z"}, ["reshape_activations 'hook_z'"]),
        ({"metadata": {"hook_head_index": 0}}, ["hook_head_index 0"]),
        ({"metadata": {"model_from_pretrained_kwargs": {"center_writing_weights": True}}}, ["center_writing_weights"]),
        ({"finetuning_scaling_factor": True}, ["finetuning_scaling_factor"]),
        ({"d_in": None}, ["d_in None"]),
        ({"d_sae": "6"}, ["d_sae '6'"]),
        ({"d_sae": True}, ["d_sae True"]),
        ({"architecture": "topk", "k": 0}, ["k 0"]),
        ({"architecture": "topk", "k": None}, ["k None"]),
        ({"architecture": "topk", "k": 7}, ["k 7 with d_sae 6"]),
    ],
)
def test_configuration_not_supported(changes: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    refused(write(tmp_path, config(**changes)), CONFIG_FILE, *words)


@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu", "gated"])
def test_shapes_that_disagree_with_the_configuration(architecture: str, tmp_path: Path) -> None:
    for name, tensor in weights(architecture).items():
        wrong = weights(architecture) | {name: torch.cat([tensor, tensor])}
        folder = write(tmp_path / name, config(architecture), wrong)
        refused(folder, f"{name} of shape {tuple(wrong[name].shape)}", str(tuple(tensor.shape)))
    refused(write(tmp_path / "cfg", config(architecture, d_in=5), weights(architecture)), "d_in 5", "(4, 6)", "(5, 6)")
    refused(write(tmp_path / "sae", config(architecture, d_sae=7), weights(architecture)), "d_sae 7", "(4, 6)")


def test_tensors_missing_unknown_or_not_numbers(tmp_path: Path) -> None:
    refused(write(tmp_path / "a", tensors=weights("standard")), "missing ['threshold'], unknown []")
    refused(write(tmp_path / "b", tensors=weights() | {"W_skip": torch.ones(4, 4)}), "unknown ['W_skip']")
    refused(write(tmp_path / "c", tensors=weights() | {"b_dec": torch.ones(4, dtype=torch.int8)}), "torch.int8")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", list(weights()))
def test_weights_that_are_not_finite(name: str, bad: float, tmp_path: Path) -> None:
    tensors = weights()
    tensors[name].view(-1)[1] = bad
    refused(write(tmp_path, tensors=tensors), f"1 values of {name} that are not finite")


def test_half_precision_is_upcast_and_keeps_its_fingerprint(tmp_path: Path) -> None:
    half = {name: t.half() for name, t in weights().items()}
    stored = read_dictionary(write(tmp_path / "half", config(dtype="float16"), half))
    single = read_dictionary(write(tmp_path / "single", tensors={name: t.float() for name, t in half.items()}))
    assert stored.W_enc.dtype == torch.float32
    assert torch.equal(stored.W_enc, half["W_enc"].float())
    assert stored.fingerprint == single.fingerprint != read_dictionary(write(tmp_path / "full")).fingerprint


def test_fingerprint_depends_on_what_decides_the_encoding(tmp_path: Path) -> None:
    original = read_dictionary(write(tmp_path / "original")).fingerprint
    assert re.fullmatch("[0-9a-f]{16}", original)
    other_weights = weights()
    other_weights["b_dec"][0] += 1e-6
    changed = [
        read_dictionary(write(tmp_path / "weights", tensors=other_weights)),
        read_dictionary(write(tmp_path / "b_dec", config(apply_b_dec_to_input=False))),
        read_dictionary(write(tmp_path / "norm", config(normalize_activations="layer_norm"))),
        read_dictionary(write(tmp_path / "k2", config("topk"), weights("topk"))),
        read_dictionary(write(tmp_path / "k3", config("topk", k=3), weights("topk"))),
        read_dictionary(
            write(tmp_path / "rescaled", config("topk", rescale_acts_by_decoder_norm=True), weights("topk"))
        ),
        read_dictionary(write(tmp_path / "standard", config("standard"), weights("standard"))),
    ]
    assert len({original, *(d.fingerprint for d in changed)}) == len(changed) + 1
    named = read_dictionary(write(tmp_path / "named", config(metadata={"hook_name": "blocks.9.hook_resid_pre"})))
    assert named.fingerprint == original
    assert named.hook_name == "blocks.9.hook_resid_pre"


def test_files_of_older_releases(tmp_path: Path) -> None:
    cfg = {"d_in": D_IN, "d_sae": D_SAE, "hook_point": "blocks.1.hook_resid_pre", "normalize_activations": False}
    tensors = weights("standard") | {"scaling_factor": torch.ones(D_SAE)}
    old = read_dictionary(write(tmp_path / "standard", cfg, tensors))
    assert (old.architecture, old.normalisation, old.hook_name) == ("standard", "none", "blocks.1.hook_resid_pre")
    topk = cfg | {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}, "normalize_activations": True}
    old = read_dictionary(write(tmp_path / "topk", topk, weights("topk")))
    assert (old.architecture, old.k, old.normalisation) == ("topk", 3, "expected_average_only_in")
    tensors = weights()
    tensors["log_threshold"] = tensors.pop("threshold")
    threshold = read_dictionary(write(tmp_path / "jumprelu", config(), tensors)).threshold
    assert threshold is not None
    assert torch.equal(threshold, tensors["log_threshold"].exp())


def test_a_training_checkpoint_has_one_threshold_for_all(tmp_path: Path) -> None:
    one = torch.tensor(0.4, dtype=torch.float64)
    cfg = config(**CHECKPOINT)
    found = read_dictionary(write(tmp_path / "good", cfg, weights("standard") | {"topk_threshold": one}))
    assert found.threshold is not None
    assert found.threshold.tolist() == [float(one.float())] * D_SAE
    refused(write(tmp_path / "none", cfg, weights("standard")), "missing ['threshold'], unknown []", "batchtopk")
    two = weights("standard") | {"topk_threshold": torch.ones(2)}
    refused(write(tmp_path / "two", cfg, two), "missing ['threshold'], unknown ['topk_threshold']")
    nan = weights("standard") | {"topk_threshold": torch.tensor(float("nan"))}
    refused(write(tmp_path / "nan", cfg, nan), "6 values of threshold that are not finite")
    jumprelu = weights("standard") | {"topk_threshold": one}
    refused(write(tmp_path / "other", config(), jumprelu), "unknown ['topk_threshold']")


def test_load_takes_a_folder_or_one_inside_it(tmp_path: Path) -> None:
    folder = write(tmp_path / "release" / "layer_2")
    expected = read_dictionary(folder).fingerprint
    assert load_dictionary(folder).fingerprint == expected
    assert load_dictionary(tmp_path / "release", "layer_2").fingerprint == expected
    for path, sae_id in ((tmp_path / "gone", None), (tmp_path / "gone", "layer_2"), ("no-such-release", None)):
        with pytest.raises(ConfigError, match=r"no folder .*set dictionary\.sae_id if it is a release"):
            load_dictionary(path, sae_id)


def test_shipped_is_a_folder_of_the_package() -> None:
    assert SHIPPED_DICTIONARY.parts[-4:] == ("smda_monitor", "assets", "smollm2-135m-instruct", "dictionary")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # sae_lens and what it imports warn about their own insides
def test_releases_go_through_sae_lens(tmp_path: Path) -> None:
    from sae_lens import SAE

    with pytest.raises(ConfigError, match=r"'no-such-release'.*correct the two names"):
        load_dictionary("no-such-release", "layer_2")
    folder = write(tmp_path)
    loaded = from_sae_lens(SAE.load_from_disk(folder))
    assert loaded.fingerprint == read_dictionary(folder).fingerprint
    assert loaded.hook_name == "blocks.2.hook_resid_post"


def test_reading_a_folder_imports_neither_sae_lens_nor_transformers(tmp_path: Path) -> None:
    program = (
        "import sys; from smda_monitor.instruments.dictionary_files import load_dictionary as load;"
        f"print(load({str(write(tmp_path))!r}).d_sae, *{{'sae_lens', 'transformers'}} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split() == [str(D_SAE)]


def _loads(name: str, cache: Path) -> str:
    """What an offline interpreter with the hub's cache at `cache` says of a dictionary."""
    program = (
        "from smda_monitor.errors import PrerequisiteError\n"
        "from smda_monitor.instruments.dictionary_files import load_dictionary\n"
        f"try: print(load_dictionary({name!r}).d_sae)\n"
        "except PrerequisiteError as error: print(error)"
    )
    hub = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run([sys.executable, "-c", program], env=hub, capture_output=True, text=True, check=True)
    return result.stdout.strip()


def test_a_hub_repository_with_a_dictionary_at_its_root(tmp_path: Path) -> None:
    repository = tmp_path / "models--owner--dictionary"
    commit = "0" * 40
    shutil.copytree(write(tmp_path), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert _loads("owner/dictionary", tmp_path) == str(D_SAE)
    missing = _loads("owner/other", tmp_path)
    assert "owner/other: found no such folder, and no download from the hub" in missing
    assert "What to do" in missing


def test_the_papers_config_names_a_repository() -> None:
    config = load_config(Path(__file__).parents[1] / "configs" / "llama-3.2-3b-instruct.yaml")
    with pytest.raises(PrerequisiteError, match="no download from the hub"):
        load_dictionary(config.dictionary.path, config.dictionary.sae_id)


def test_without_sae_lens_a_release_says_so(tmp_path: Path) -> None:
    # An interpreter in which sae_lens cannot be imported, as on a machine without it.
    program = (
        "import sys; sys.modules['sae_lens'] = None\n"
        "from smda_monitor.errors import PrerequisiteError\n"
        "from smda_monitor.instruments.dictionary_files import load_dictionary\n"
        "try: load_dictionary('some-release', 'layer_2')\n"
        "except PrerequisiteError as error: print(error)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install sae-lens" in result.stdout


def test_a_saved_file_is_not_changed_by_reading(tmp_path: Path) -> None:
    folder = write(tmp_path)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    read_dictionary(folder).native(torch.ones(1, D_IN))
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert torch.equal(load_file(folder / WEIGHTS_FILE)["W_enc"], weights()["W_enc"])
