"""What ``cfg.json`` of the sae-lens format says about how a dictionary encodes, checked; releases before 6 included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from smda_monitor.errors import ConfigError, describe

from .dictionary import Normalisation

CHECKPOINTS = ("batchtopk", "matryoshka_batchtopk")
"""Training checkpoints of sae-lens (`save_model`): to encode, a JumpReLU with one threshold for all features, as its
``save_inference_model`` would write them."""
ARCHITECTURES = ("standard", "topk", "jumprelu", "gated", *CHECKPOINTS)
"""What can be read."""
NORMALISATIONS: tuple[Normalisation, ...] = get_args(Normalisation)


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """The part of ``cfg.json`` that decides how the dictionary encodes, and where it belongs."""

    architecture: str
    """One of `ARCHITECTURES`."""
    d_in: int
    """Width of the residual stream; ≥ 1."""
    d_sae: int
    """Number of features; ≥ 1."""
    k: int | None
    """For topk, 1 ≤ k ≤ d_sae; None for the others."""
    rescale_acts_by_decoder_norm: bool
    """For topk and checkpoints: features compete by z·‖W_dec‖; False for the others."""
    normalisation: Normalisation
    """Of the input at run time."""
    apply_b_dec_to_input: bool
    """Whether b_dec is taken off the input."""
    hook_name: str
    """As the file gives it; empty where it does not."""
    model_name: str
    """As the file gives it; empty where it does not."""
    neuronpedia_id: str
    """As the file gives it; empty where it does not."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor that the weights must hold, no more and no fewer."""
        shapes: dict[str, tuple[int, ...]] = {
            "W_enc": (self.d_in, self.d_sae),
            "W_dec": (self.d_sae, self.d_in),
            "b_dec": (self.d_in,),
        }
        jump = ("b_enc", "threshold")
        biases = {"gated": ("b_gate", "b_mag", "r_mag"), "jumprelu": jump} | dict.fromkeys(CHECKPOINTS, jump)
        return shapes | {name: (self.d_sae,) for name in biases.get(self.architecture, ("b_enc",))}

    def identity(self) -> dict[str, object]:
        """What of it enters the fingerprint."""
        return {
            "architecture": self.architecture,
            "d_in": self.d_in,
            "d_sae": self.d_sae,
            "k": self.k,
            "rescale_acts_by_decoder_norm": self.rescale_acts_by_decoder_norm,
            "normalisation": self.normalisation,
            "apply_b_dec_to_input": self.apply_b_dec_to_input,
        }


def read_encoder_config(cfg: Mapping[str, Any], source: str) -> EncoderConfig:
    """Check `cfg`, the content of a ``cfg.json``; `source` names it in errors.

    Raises:
        ConfigError: an architecture, normalisation or option that is not supported, or a number that is missing.
    """
    architecture = _architecture(cfg, source)
    d_sae = _positive(cfg, "d_sae", source)
    k = None
    if architecture == "topk":
        kwargs = cfg.get("activation_fn_kwargs")
        holder = cfg if "k" in cfg or not isinstance(kwargs, dict) else kwargs
        k = _positive(holder, "k", source)
        if k > d_sae:
            raise _refused(source, f"k {k} with d_sae {d_sae}", "k ≤ d_sae")
    _refuse_other_inputs(cfg, source)
    normalisation = _normalisation(cfg, source)
    if architecture in CHECKPOINTS and normalisation == "expected_average_only_in":
        found = f"a {architecture} checkpoint with normalize_activations {normalisation!r}"
        remedy = "take the final checkpoint, or what sae-lens saved as the inference model."
        raise _refused(source, found, "one with the scale of the inputs folded into its weights", remedy)
    return EncoderConfig(
        architecture=architecture,
        d_in=_positive(cfg, "d_in", source),
        d_sae=d_sae,
        k=k,
        rescale_acts_by_decoder_norm=_rescales(cfg, architecture, source),
        normalisation=normalisation,
        apply_b_dec_to_input=bool(cfg.get("apply_b_dec_to_input", True)),
        hook_name=_text(cfg, "hook_name") or _text(cfg, "hook_point"),
        model_name=_text(cfg, "model_name"),
        neuronpedia_id=_text(cfg, "neuronpedia_id"),
    )


def _architecture(cfg: Mapping[str, Any], source: str) -> str:
    # Releases before 6 could leave the architecture out and wrote topk as an activation function of standard.
    architecture = cfg.get("architecture", "standard")
    activation = cfg.get("activation_fn", cfg.get("activation_fn_str", "relu"))
    if architecture == "standard" and activation == "topk":
        return "topk"
    if architecture not in ARCHITECTURES:
        raise _refused(
            source,
            f"architecture {architecture!r}",
            f"one of {', '.join(ARCHITECTURES)}",
            "save a training checkpoint by sae-lens' save_inference_model; a transcoder reads no residual stream.",
        )
    if activation not in ("relu", "topk"):
        raise _refused(source, f"activation function {activation!r}", "relu or topk")
    return str(architecture)


def _rescales(cfg: Mapping[str, Any], architecture: str, source: str) -> bool:
    """Whether activations are in units of decoder norms."""
    value = cfg.get("rescale_acts_by_decoder_norm")
    if architecture in CHECKPOINTS and not isinstance(value, bool):
        # Without the key it may be older than the option, and does not rescale, or rely on the default, which does.
        found = f"rescale_acts_by_decoder_norm {value!r} in a {architecture} checkpoint"
        raise _refused(source, found, "true or false")
    return architecture in ("topk", *CHECKPOINTS) and bool(value)


def _normalisation(cfg: Mapping[str, Any], source: str) -> Normalisation:
    value = cfg.get("normalize_activations")
    if value is None or value is False:
        return "none"
    if value is True:  # releases before 6
        return "expected_average_only_in"
    for known in NORMALISATIONS:
        if value == known:
            return known
    raise _refused(
        source,
        f"normalize_activations {value!r}",
        f"one of {', '.join(NORMALISATIONS)}",
        "fold the normalisation into the weights with sae-lens before saving.",
    )


def _refuse_other_inputs(cfg: Mapping[str, Any], source: str) -> None:
    """Options under which the dictionary reads something else than the residual stream of the model as it is."""
    if cfg.get("reshape_activations", "none") not in ("none", None):
        raise _refused(source, f"reshape_activations {cfg['reshape_activations']!r}", "none: the residual stream")
    if _metadata(cfg, "hook_head_index") is not None:
        raise _refused(source, f"hook_head_index {_metadata(cfg, 'hook_head_index')!r}", "none: the residual stream")
    if cfg.get("finetuning_scaling_factor"):
        raise _refused(source, "finetuning_scaling_factor", "a dictionary without one")
    kwargs = _metadata(cfg, "model_from_pretrained_kwargs")
    if isinstance(kwargs, dict) and kwargs.get("center_writing_weights"):
        raise _refused(
            source,
            "model_from_pretrained_kwargs.center_writing_weights",
            "a dictionary trained on the model's own residual stream, whose mean has not been taken out",
        )


def _metadata(cfg: Mapping[str, Any], key: str) -> Any:
    """From ``metadata`` (release 6 on) or from the top level (before)."""
    metadata = cfg.get("metadata")
    return metadata[key] if isinstance(metadata, dict) and key in metadata else cfg.get(key)


def _text(cfg: Mapping[str, Any], key: str) -> str:
    value = _metadata(cfg, key)
    return value if isinstance(value, str) else ""


def _positive(cfg: Mapping[str, Any], key: str, source: str) -> int:
    value = cfg.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _refused(source, f"{key} {value!r}", f"{key} as a whole number above 0", "save the dictionary again.")
    return value


def _refused(source: str, found: str, expected: str, remedy: str = "use another dictionary.") -> ConfigError:
    return ConfigError(describe(f"dictionary configuration {source}", found, expected, remedy))
