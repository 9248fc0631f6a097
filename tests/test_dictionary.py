"""The dictionary against sae-lens' own encode and decode, on tiny SAEs with random parameters, saved and read back."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from smda_monitor.errors import ConfigError, MeasurementError
from smda_monitor.instruments.dictionary import Dictionary, Gate
from smda_monitor.instruments.dictionary_files import from_sae_lens, read_dictionary

# sae_lens and what it imports warn about their own insides.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

D_IN, D_SAE, K = 7, 24, 5
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "standard": {"architecture": "standard"},
    "topk": {"architecture": "topk", "k": K},
    "topk_rescaled": {"architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": True},
    "jumprelu": {"architecture": "jumprelu"},
    "gated": {"architecture": "gated"},
}
NORMALISATIONS = ("none", "expected_average_only_in", "layer_norm", "constant_norm_rescale")
GATES: tuple[Gate, ...] = ("continuous", "relu_proxy", "native")


def sae_of(architecture: str, normalisation: str = "none", apply_b_dec: bool = True, dtype: str = "float32") -> Any:
    """A tiny sae_lens.SAE whose every parameter is random; thresholds of both signs."""
    from sae_lens import SAE

    options = ARCHITECTURES[architecture] | {
        "normalize_activations": normalisation,
        "apply_b_dec_to_input": apply_b_dec,
    }
    metadata = {"hook_name": "blocks.3.hook_resid_post", "model_name": "tiny", "neuronpedia_id": "tiny/3-res"}
    sae = SAE.from_dict(options | {"d_in": D_IN, "d_sae": D_SAE, "dtype": dtype, "metadata": metadata})
    generator = torch.Generator().manual_seed(len(architecture))
    for parameter in sae.parameters():
        parameter.data = (0.6 * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype)
        parameter.requires_grad_(False)
    return sae


def saved(sae: Any, folder: Path) -> Dictionary:
    sae.save_model(folder)
    return read_dictionary(folder)


def hidden(*shape: int) -> Tensor:
    return 0.5 + 1.5 * torch.randn(*shape, D_IN, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("architecture", "normalisation", "apply_b_dec"),
    list(itertools.product(ARCHITECTURES, NORMALISATIONS, (True, False))),
)
def test_equals_sae_lens(architecture: str, normalisation: str, apply_b_dec: bool, tmp_path: Path) -> None:
    sae = sae_of(architecture, normalisation, apply_b_dec)
    dictionary = saved(sae, tmp_path)
    h = hidden(40, 3)
    expected = sae.encode(h)
    assert 0 < int((expected > 0).sum()) < expected.numel()
    activations = dictionary.native(h)
    assert float((activations - expected).abs().max()) <= 1e-5
    assert float((dictionary.decode(activations, h) - sae.decode(expected)).abs().max()) <= 1e-5
    assert torch.equal(dictionary.features(h, "native"), activations)
    # Not vacuous: the same files with one option turned round encode differently.
    other = replace(dictionary, apply_b_dec_to_input=not apply_b_dec).native(h)
    assert float((other - expected).abs().max()) > 1e-2


def trained(name: str, **options: Any) -> Any:
    """A tiny TrainingSAE of sae-lens whose every parameter is random."""
    import sae_lens

    options |= {"matryoshka_widths": [8, D_SAE]} if name.startswith("Matryoshka") else {}
    config = getattr(sae_lens, f"{name}TrainingSAEConfig")(d_in=D_IN, d_sae=D_SAE, k=K, **options)
    training = getattr(sae_lens, f"{name}TrainingSAE")(config)
    for parameter in training.parameters():
        parameter.data = 0.6 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    if name != "TopK":
        training.topk_threshold.fill_(0.4)
    return training


@pytest.mark.parametrize("name", ["BatchTopK", "MatryoshkaBatchTopK", "TopK"])
def test_what_sae_lens_trains_and_saves_for_inference(name: str, tmp_path: Path) -> None:
    import sae_lens

    trained(name).save_inference_model(tmp_path)
    dictionary = read_dictionary(tmp_path)
    assert dictionary.architecture == ("topk" if name == "TopK" else "jumprelu")
    expected = sae_lens.SAE.load_from_disk(tmp_path).encode(hidden(40)).detach()
    assert float((dictionary.native(hidden(40)) - expected).abs().max()) <= 1e-5


@pytest.mark.parametrize("rescaled", [True, False])
@pytest.mark.parametrize(
    ("name", "architecture"), [("BatchTopK", "batchtopk"), ("MatryoshkaBatchTopK", "matryoshka_batchtopk")]
)
def test_a_training_checkpoint_encodes_as_the_model_saved_for_inference(
    name: str, architecture: str, rescaled: bool, tmp_path: Path
) -> None:
    import sae_lens

    training = trained(name, rescale_acts_by_decoder_norm=rescaled)
    training.save_model(tmp_path / "checkpoint")
    training.save_inference_model(tmp_path / "inference")
    found, h = read_dictionary(tmp_path / "checkpoint"), hidden(40)
    assert (found.architecture, found.decoder_norm is not None) == (architecture, rescaled)
    sae = sae_lens.SAE.load_from_disk(tmp_path / "inference")
    with torch.no_grad():
        expected = sae.encode(h)
        assert 0 < int((expected > 0).sum()) < expected.numel()
        assert float((found.native(h) - expected).abs().max()) <= 1e-5
        assert float((found.decode(found.native(h)) - sae.decode(expected)).abs().max()) <= 1e-5
        assert torch.equal(found.features(h, "continuous") > 0, found.native(h) > 0)
        # The paper's proxy is of the columns as they stand in the file.
        proxy = torch.relu(h @ training.W_enc + training.b_enc)
        assert float((found.features(h, "relu_proxy") - proxy).abs().max()) <= 1e-5
    # Not vacuous: the threshold counts, and so does rescaling.
    assert int((found.pre_activations(h) > 0).sum()) > int((expected > 0).sum())
    other = replace(found, decoder_norm=None).native(h)
    assert (float((other - expected).abs().max()) > 1e-2) == rescaled


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_other_precisions_are_brought_to_float32(architecture: str, dtype: str, tmp_path: Path) -> None:
    from sae_lens import SAE

    dictionary = saved(sae_of(architecture, dtype=dtype), tmp_path)
    assert {t.dtype for t in tensors(dictionary)} == {torch.float32}
    assert not any(t.requires_grad for t in tensors(dictionary))
    expected = SAE.load_from_disk(tmp_path, dtype="float32").encode(hidden(40)).detach()
    assert float((dictionary.native(hidden(40)) - expected).abs().max()) <= 1e-5


@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "gated"])
def test_continuous_gate_switches_on_the_same_features(architecture: str) -> None:
    sae = sae_of(architecture)
    dictionary = from_sae_lens(sae)
    assert dictionary.threshold is not None
    assert bool((dictionary.threshold >= 0).all())
    on = sae.encode(hidden(500)) > 0
    assert torch.equal(dictionary.features(hidden(500), "continuous") > 0, on)
    if architecture != "standard":
        # Not vacuous: there are thresholds above 0, and the proxy, which has none, has more features on.
        assert int((dictionary.threshold > 0).sum()) >= 5
        assert int((dictionary.pre_activations(hidden(500)) > 0).sum()) > int(on.sum())


@pytest.mark.parametrize("architecture", ["topk", "topk_rescaled"])
def test_calibrated_topk_has_k_features_on_average(architecture: str) -> None:
    dictionary = from_sae_lens(sae_of(architecture))
    assert dictionary.threshold is None
    with pytest.raises(MeasurementError, match="calibrated"):
        dictionary.features(hidden(2), "continuous")
    calibrated = dictionary.calibrated(dictionary.pre_activations(hidden(200)))
    active = calibrated.features(hidden(200), "continuous") > 0
    assert float(active.sum(dim=-1).float().mean()) == K
    assert len(set(active.sum(dim=-1).tolist())) > 1  # on average, not at each position
    assert calibrated.fingerprint == dictionary.fingerprint
    jumprelu = from_sae_lens(sae_of("jumprelu"))
    assert jumprelu.calibrated(torch.zeros(0, D_SAE)) is jumprelu


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_columns_follow_the_order_of_ids(architecture: str, gate: Gate) -> None:
    # Feature columns in one order, encoder columns in another.
    dictionary = from_sae_lens(sae_of(architecture))
    dictionary = dictionary.calibrated(dictionary.pre_activations(hidden(50)))
    ids = torch.tensor([17, 3, 22, 0, 9])
    every = dictionary.features(hidden(50), gate)
    some = dictionary.features(hidden(50), gate, ids)
    assert some.shape == (50, 5)
    torch.testing.assert_close(some, torch.stack([every[:, i] for i in ids.tolist()], dim=-1), atol=1e-6, rtol=1e-6)
    assert not torch.allclose(some, every[:, ids.sort().values])
    assert dictionary.features(hidden(50), gate, ids[:0]).shape == (50, 0)


@pytest.mark.parametrize("bad", [-1, D_SAE])
def test_ids_outside_the_dictionary(bad: int) -> None:
    dictionary = from_sae_lens(sae_of("jumprelu"))
    with pytest.raises(ConfigError, match=rf"feature id: found {bad}; expected 0 to {D_SAE - 1}"):
        dictionary.features(hidden(2), "continuous", torch.tensor([0, bad]))
    with pytest.raises(ConfigError, match="feature id"):
        dictionary.decoder_top_tokens(torch.zeros(4, D_IN), bad, 2)


@pytest.mark.parametrize("architecture", ["standard", "topk_rescaled", "jumprelu"])
def test_relu_proxy_is_the_papers_formula(architecture: str) -> None:
    sae = sae_of(architecture, apply_b_dec=True)
    dictionary = from_sae_lens(sae)
    expected = torch.relu(hidden(30) @ sae.W_enc + sae.b_enc)
    assert float((dictionary.features(hidden(30), "relu_proxy") - expected).abs().max()) <= 1e-5
    assert not torch.allclose(expected, sae.encode(hidden(30)), atol=1e-2)  # it is another encoder


def test_gate_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match=r"dictionary\.gate: found 'relu'; expected continuous, relu_proxy or native"):
        from_sae_lens(sae_of("standard")).features(hidden(2), "relu")  # type: ignore[arg-type]


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_features_are_differentiable(normalisation: str) -> None:
    dictionary = from_sae_lens(sae_of("jumprelu", normalisation))
    h = hidden(6).requires_grad_()
    ids = torch.tensor([4, 1, 20])
    features = dictionary.features(h, "continuous", ids)
    (gradient,) = torch.autograd.grad(features.sum(), h)
    direction = torch.randn(6, D_IN, generator=torch.Generator().manual_seed(5))
    step = 1e-3
    ends = [dictionary.features(h.detach() + s * direction, "continuous", ids) for s in (step, -step)]
    same = ((ends[0] > 0) == (ends[1] > 0)).all(dim=-1)  # away from kinks
    measured = ((ends[0] - ends[1]) / (2 * step)).sum(dim=-1)
    assert int(same.sum()) >= 4
    assert float(gradient.abs().max()) > 0
    torch.testing.assert_close((gradient * direction).sum(dim=-1)[same], measured[same], atol=5e-3, rtol=5e-3)


def test_autocast_does_not_coarsen_features() -> None:
    dictionary = from_sae_lens(sae_of("jumprelu"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = dictionary.features(hidden(9), "continuous")
        decoded = dictionary.decode(dictionary.native(hidden(9)))
    assert torch.equal(inside, dictionary.features(hidden(9), "continuous"))
    assert torch.equal(decoded, dictionary.decode(dictionary.native(hidden(9))))


@pytest.mark.parametrize("normalisation", ["layer_norm", "constant_norm_rescale"])
def test_decoding_a_normalised_dictionary_needs_the_input(normalisation: str) -> None:
    with pytest.raises(MeasurementError, match=normalisation):
        from_sae_lens(sae_of("standard", normalisation)).decode(torch.zeros(1, D_SAE))


def test_decoder_top_tokens() -> None:
    dictionary = from_sae_lens(sae_of("jumprelu"))
    unembedding = torch.randn(20_000, D_IN, generator=torch.Generator().manual_seed(2)).bfloat16()
    expected = sorted(range(20_000), key=lambda t: -float(unembedding[t].float() @ dictionary.W_dec[11]))[:4]
    assert dictionary.decoder_top_tokens(unembedding, 11, 4).tolist() == expected
    assert len(dictionary.decoder_top_tokens(unembedding[:3], 11, 4)) == 3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_tensors_move(architecture: str) -> None:
    moved = from_sae_lens(sae_of(architecture)).to("meta")
    assert {t.device.type for t in tensors(moved)} == {"meta"}


def tensors(dictionary: Dictionary) -> list[Tensor]:
    values = [getattr(dictionary, f.name) for f in fields(dictionary)]
    return [v for v in values if isinstance(v, Tensor)]
