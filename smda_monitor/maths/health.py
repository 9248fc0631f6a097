"""Dictionary health: does the dictionary still fit the model that is being tuned?

    FVU  = Σ_i ‖h_i - ĥ_i‖² / Σ_i ‖h_i - h̄‖²      fraction of variance unexplained; h̄ the mean over the n probes
    L0   = (1/n) Σ_i #{k : feature k is on at probe i}
    dead = #{k : feature k is on at no probe} / d_sae

All by the native encoder: the dictionary is judged as it was trained, whatever gate the features are read through.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from smda_monitor.errors import MeasurementError, describe
from smda_monitor.records.snapshot import DictionaryHealth


def dictionary_health(
    hidden: Float[Tensor, "n d_in"], reconstruction: Float[Tensor, "n d_in"], active: Bool[Tensor, "n d_sae"]
) -> DictionaryHealth:
    """Health over n probes, in float64, whatever the inputs' precision.

    Args:
        hidden: (n, d_in) h, the residual stream at the read position.
        reconstruction: (n, d_in) ĥ by the dictionary's native encoder and decoder.
        active: (n, d_sae) which features the native encoder has on.

    Returns:
        FVU in [0, ∞) (predicting the mean everywhere has 1), L0 in [0, d_sae], dead in [0, 1].

    Raises:
        MeasurementError: figures that are not finite, or probes that all have the same h (no variance to explain).
    """
    assert hidden.shape == reconstruction.shape
    assert active.shape[0] == hidden.shape[0]
    h = hidden.detach().double()
    error = h - reconstruction.detach().double()
    for name, tensor in (("residual stream", h), ("reconstruction", error)):
        bad = int((~torch.isfinite(tensor)).any(dim=-1).sum())
        if bad:
            raise MeasurementError(
                describe(
                    f"dictionary health: {name}",
                    f"values that are not finite at {bad} of {h.shape[0]} probes",
                    "finite values",
                    "check weights and loss for NaN or overflow; a lower learning rate or float32 often helps.",
                )
            )
    # An empty mean is NaN, so no probes are caught below together with probes that are all alike.
    variance = float((h - h.mean(dim=0)).square().sum())
    if not variance > 0:
        raise MeasurementError(
            describe(
                "dictionary health",
                f"{h.shape[0]} probes with no variance between them",
                "at least two probes with different hidden states",
                "measure more probes per step (probes.per_step).",
            )
        )
    return DictionaryHealth(
        fvu=float(error.square().sum()) / variance,
        l0=float(active.sum()) / active.shape[0],
        dead=1.0 - float(active.any(dim=0).sum()) / active.shape[1],
    )
