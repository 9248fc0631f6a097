"""The dictionary: a sparse autoencoder as tensors, its encoders and its decoder. Reading files: `dictionary_files`.

Every supported architecture is brought into one form, with x = norm(h), less b_dec where the file says so:

    z = (x W_enc + b_enc)·s      pre-activation; s = ‖W_dec‖ row by row where activations are rescaled by it, else 1
    native: relu(z)·1[z > θ]     standard θ = 0; jumprelu its own θ; gated W_enc·e^r, b_mag and θ = b_mag - e^r·b_gate;
                                 batchtopk and matryoshka_batchtopk one θ for all features
            top k of relu(z)     topk
    ĥ = denorm((a / s) W_dec + b_dec)

A gated unit is on where x W_enc + b_gate > 0, which is z > b_mag - e^r·b_gate since e^r > 0: a JumpReLU in disguise.
Thresholds below 0 act as 0, because relu(z) is 0 there anyway. All weights are float32 and ask for no gradient;
activations are differentiable in h, and are computed in float32 under autocast too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from smda_monitor.errors import ConfigError, MeasurementError, describe
from smda_monitor.maths import gates

Gate = Literal["continuous", "relu_proxy", "native"]
Normalisation = Literal["none", "expected_average_only_in", "layer_norm", "constant_norm_rescale"]

NORM_EPSILON = 1e-5
"""Added to the standard deviation by the sae-lens format's layer_norm."""
VOCABULARY_CHUNK = 16_384
"""Rows of the unembedding that are upcast at a time, so that a half-precision one is never doubled in memory."""


@dataclass(frozen=True, slots=True, eq=False)
class Dictionary:
    """A sparse autoencoder at one hookpoint, in the one form of the module's docstring."""

    architecture: str
    """As the file names it: standard, topk, jumprelu, gated, batchtopk or matryoshka_batchtopk."""
    W_enc: Tensor
    """(d_in, d_sae) float32; for gated already times e^r."""
    b_enc: Tensor
    """(d_sae,) float32; for gated b_mag."""
    W_dec: Tensor
    """(d_sae, d_in) float32."""
    b_dec: Tensor
    """(d_in,) float32."""
    threshold: Tensor | None
    """(d_sae,) θ ≥ 0 float32, units of z; None for topk until `calibrated`."""
    k: int | None
    """Features that are on at each position, for topk; None for the others."""
    decoder_norm: Tensor | None
    """(d_sae,) s = ‖W_dec‖ by row, with ``rescale_acts_by_decoder_norm``; None without."""
    normalisation: Normalisation
    """Done to h at run time; ``expected_average_only_in`` counts as folded into the weights, as sae-lens does."""
    apply_b_dec_to_input: bool
    """Whether b_dec is taken off the input."""
    hook_name: str
    """TransformerLens style, e.g. ``blocks.22.hook_resid_post``; empty where the file names none."""
    fingerprint: str
    """First 16 hex digits of the SHA-256 of the file's tensors as float32 and of what decides how they encode. Neither
    the hook name nor a calibrated threshold is part of it."""
    model_name: str = ""
    """The model it was trained on, as the file says; empty where it does not."""
    neuronpedia_id: str = ""
    """For links to its feature pages; empty where there are none."""

    @property
    def d_in(self) -> int:
        """Width of the residual stream it reads."""
        return self.W_enc.shape[0]

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.W_enc.shape[1]

    def to(self, device: torch.device | str) -> Dictionary:
        """The same dictionary with all tensors on `device`."""
        return replace(
            self,
            W_enc=self.W_enc.to(device),
            b_enc=self.b_enc.to(device),
            W_dec=self.W_dec.to(device),
            b_dec=self.b_dec.to(device),
            threshold=None if self.threshold is None else self.threshold.to(device),
            decoder_norm=None if self.decoder_norm is None else self.decoder_norm.to(device),
        )

    def pre_activations(
        self, h: Float[Tensor, "*rows d_in"], ids: Int64[Tensor, " m"] | None = None
    ) -> Float[Tensor, "*rows m"]:
        """z, (…, d_sae) or (…, m) for the m features in `ids`, in their order; float32, differentiable in h."""
        x = self._normalised(h)
        if self.apply_b_dec_to_input:
            x = x - self.b_dec
        z = self._affine(x, ids)
        return z if self.decoder_norm is None else z * _columns(self.decoder_norm, ids)

    def features(
        self, h: Float[Tensor, "*rows d_in"], gate: Gate, ids: Int64[Tensor, " m"] | None = None
    ) -> Float[Tensor, "*rows m"]:
        """Activations of the features in `ids` (None: all), (…, m), columns in the order of `ids`; ≥ 0, float32.

        ``continuous``: relu(z - θ). ``native``: the dictionary's own encoder. ``relu_proxy``: relu(norm(h) W_enc +
        b_enc), the paper's: no b_dec taken off, no rescaling by decoder norms, no threshold. Only the columns in `ids`
        are encoded, except for the native gate of topk, where all compete. Differentiable in h.

        Raises:
            ConfigError: a gate that does not exist, or an id outside the dictionary.
            MeasurementError: ``continuous`` on a topk dictionary that has not been calibrated.
        """
        if ids is not None:
            self._check_ids(ids)
        if gate == "continuous":
            return gates.continuous(self.pre_activations(h, ids), _columns(self._threshold(), ids))
        if gate == "relu_proxy":
            return gates.relu_proxy(self._affine(self._normalised(h), ids))
        if gate == "native":
            return self.native(h, ids)
        raise ConfigError(
            describe("dictionary.gate", repr(gate), "continuous, relu_proxy or native", "name one of the three.")
        )

    def native(
        self, h: Float[Tensor, "*rows d_in"], ids: Int64[Tensor, " m"] | None = None
    ) -> Float[Tensor, "*rows m"]:
        """Activations by the dictionary's own encoder, (…, d_sae) or (…, m); equal to sae-lens' ``SAE.encode``."""
        if self.k is not None:
            # All features compete for the k places, so all are encoded whatever `ids` asks for.
            return _columns(gates.top_k(self.pre_activations(h), self.k), ids)
        return gates.jump(self.pre_activations(h, ids), _columns(self._threshold(), ids))

    def decode(
        self, activations: Float[Tensor, "*rows d_sae"], hidden: Float[Tensor, "*rows d_in"] | None = None
    ) -> Float[Tensor, "*rows d_in"]:
        """ĥ, (…, d_in), from all d_sae native activations; equal to sae-lens' ``SAE.decode``.

        Under ``layer_norm`` and ``constant_norm_rescale`` the way back needs the `hidden` that was encoded.

        Raises:
            MeasurementError: such a dictionary without `hidden`.
        """
        with torch.autocast(activations.device.type, enabled=False):
            a = activations.to(self.W_dec.dtype)
            a = a if self.decoder_norm is None else a * (1 / self.decoder_norm)
            out = a @ self.W_dec + self.b_dec
        if self.normalisation in ("none", "expected_average_only_in"):
            return out
        if hidden is None:
            raise MeasurementError(
                describe(
                    f"decoding with {self.normalisation}",
                    "no hidden state",
                    "the hidden state that was encoded",
                    "pass it as `hidden`.",
                )
            )
        h = hidden.to(self.W_dec.dtype)
        if self.normalisation == "layer_norm":
            return out * h.std(dim=-1, keepdim=True) + h.mean(dim=-1, keepdim=True)
        return out / self._norm_coefficient(h)

    def calibrated(self, z_fit: Float[Tensor, "n d_sae"]) -> Dictionary:
        """For topk: with the global threshold that has k features on, on average over the n fit prompts; for the
        others the dictionary itself. `z_fit` are its `pre_activations` there.

        Raises:
            MeasurementError: no rows, or values that are not finite.
        """
        if self.k is None:
            return self
        return replace(self, threshold=torch.full_like(self.b_enc, gates.average_threshold(z_fit, self.k)))

    def decoder_top_tokens(self, unembedding: Float[Tensor, "vocab d_in"], feature: int, k: int) -> Int64[Tensor, " k"]:
        """The k token ids whose unembedding has the largest dot product with the feature's decoder row, largest first.

        Raises:
            ConfigError: a feature id outside the dictionary.
        """
        self._check_ids(torch.tensor([feature]))
        direction = self.W_dec[feature].to(unembedding.device)
        with torch.no_grad():
            chunks = torch.split(unembedding, VOCABULARY_CHUNK)
            scores = torch.cat([rows.to(direction.dtype) @ direction for rows in chunks])
        return scores.topk(min(k, scores.numel())).indices

    def _normalised(self, h: Tensor) -> Tensor:
        """norm(h) in float32."""
        h = h.to(self.W_enc.dtype)
        if self.normalisation == "layer_norm":
            centred = h - h.mean(dim=-1, keepdim=True)
            return centred / (centred.std(dim=-1, keepdim=True) + NORM_EPSILON)
        if self.normalisation == "constant_norm_rescale":
            return h * self._norm_coefficient(h)
        return h

    def _norm_coefficient(self, h: Tensor) -> Tensor:
        """What brings h to the norm √d_in; (…, 1)."""
        coefficient: Tensor = math.sqrt(self.d_in) / torch.linalg.vector_norm(h, dim=-1, keepdim=True)
        return coefficient

    def _affine(self, x: Tensor, ids: Tensor | None) -> Tensor:
        """x W_enc + b_enc on the columns in `ids`."""
        with torch.autocast(x.device.type, enabled=False):
            return x @ _columns(self.W_enc, ids) + _columns(self.b_enc, ids)

    def _threshold(self) -> Tensor:
        """θ, or an error where a topk dictionary has none yet."""
        if self.threshold is None:
            raise MeasurementError(
                describe(
                    "the continuous gate",
                    "a topk dictionary without a threshold",
                    "a calibrated one",
                    "call `calibrated` with its pre-activations on the fit set, or set dictionary.gate to native.",
                )
            )
        return self.threshold

    def _check_ids(self, ids: Tensor) -> None:
        """Every id in [0, d_sae): a negative one would silently count from the end."""
        outside = ids[(ids < 0) | (ids >= self.d_sae)]
        if outside.numel():
            raise ConfigError(
                describe(
                    "feature id",
                    int(outside[0]),
                    f"0 to {self.d_sae - 1}, the features of this dictionary",
                    "use the dictionary that the ids belong to.",
                )
            )


def _columns(tensor: Tensor, ids: Tensor | None) -> Tensor:
    """The last axis at `ids`, in their order; all of it for None."""
    return tensor if ids is None else tensor.index_select(-1, ids.to(tensor.device))
