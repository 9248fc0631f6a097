"""Reading a dictionary: the shipped one, a folder in sae-lens' format (cfg.json, sae_weights.safetensors), a release.

Of a folder only JSON and safetensors are read, never a pickle, and without importing sae_lens. A release is read by
sae-lens itself, whatever its files are. What this reader cannot encode exactly as sae-lens does is refused by name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smda_monitor.errors import ConfigError, PrerequisiteError, describe

from .dictionary import Dictionary
from .dictionary_config import CHECKPOINTS, EncoderConfig, read_encoder_config

SHIPPED_DICTIONARY = Path(__file__).parents[1] / "assets" / "smollm2-135m-instruct" / "dictionary"
"""What ``shipped`` stands for."""
CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"


def load_dictionary(path: str | Path, sae_id: str | None = None) -> Dictionary:
    """``shipped``, a folder, a hub repository ``owner/name`` with one dictionary at its root, or a release of sae-lens'
    registry or the hub with the `sae_id` in it; on the CPU.

    A folder with a `sae_id` means the folder of that name inside it. Only a release imports sae_lens; it and a
    repository may download.

    Raises:
        ConfigError: as `read_dictionary`; a name that is neither folder nor repository and comes without `sae_id`; a
            release or id that sae-lens does not know.
        PrerequisiteError: sae_lens is not installed, or the download failed.
    """
    if str(path) == "shipped":
        return read_dictionary(SHIPPED_DICTIONARY)
    folder, name = Path(path).expanduser(), str(path)
    local = folder.exists() or folder.is_absolute() or name.startswith(".")
    if not local and sae_id is not None:
        return _from_release(name, sae_id)
    if not local and name.count("/") == 1:
        return read_dictionary(_downloaded(name))
    return read_dictionary(folder if sae_id is None else folder / sae_id)


def read_dictionary(folder: str | Path) -> Dictionary:
    """The dictionary in a folder of sae-lens' format; half precision is upcast to float32.

    Read are the architectures standard, topk, jumprelu and gated, training checkpoints of batchtopk and
    matryoshka_batchtopk, and the normalisations none, layer_norm, constant_norm_rescale and expected_average_only_in.

    Raises:
        ConfigError: folder, cfg.json or weights missing; not JSON; weights corrupt or cut short; an architecture,
            normalisation or option that is not supported; tensors missing, unknown, of another shape than cfg.json
            says, or not finite.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            describe(
                "dictionary.path",
                f"no folder {folder}",
                f"a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, the word shipped, or a sae-lens release with sae_id",
                "correct dictionary.path, or set dictionary.sae_id if it is a release.",
            )
        )
    config = read_encoder_config(_read_json(folder / CONFIG_FILE), source=str(folder / CONFIG_FILE))
    return _build(config, _read_weights(folder / WEIGHTS_FILE), source=str(folder / WEIGHTS_FILE))


def from_sae_lens(sae: Any) -> Dictionary:
    """The dictionary of a loaded ``sae_lens.SAE``. Raises as `read_dictionary`."""
    source = "the sae-lens SAE"
    config = read_encoder_config(sae.cfg.to_dict(), source=source)
    return _build(config, {name: t.detach().cpu() for name, t in sae.state_dict().items()}, source=source)


def _downloaded(repository: str) -> Path:
    """The folder in the hub's cache with the dictionary at the root of `repository`."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=[CONFIG_FILE, WEIGHTS_FILE]))
    except Exception as error:  # hub, network and proxy errors have no common base
        reason = str(error).splitlines()[0] if str(error) else ""
        raise PrerequisiteError(
            describe(
                f"dictionary.path {repository}",
                f"no such folder, and no download from the hub ({type(error).__name__}: {reason})",
                f"a folder, or a hub repository with {CONFIG_FILE} and {WEIGHTS_FILE}",
                "check the name and the network, or download it elsewhere and give the folder.",
            )
        ) from error


def _from_release(release: str, sae_id: str) -> Dictionary:
    try:
        from sae_lens import SAE
    except ImportError as error:
        raise PrerequisiteError(
            describe(
                "reading a sae-lens release",
                f"sae_lens cannot be imported ({error})",
                "sae-lens 6 or newer",
                "pip install sae-lens, or give a folder as dictionary.path.",
            )
        ) from error
    try:
        sae = SAE.from_pretrained(release, sae_id, device="cpu", dtype="float32")
    except (ValueError, KeyError) as error:
        raise ConfigError(
            describe(
                f"dictionary.path {release!r} with dictionary.sae_id {sae_id!r}",
                f"neither a folder nor something sae-lens can load ({error})",
                "a folder, or a release and id from sae-lens' table of pretrained SAEs",
                "correct the two names.",
            )
        ) from error
    except Exception as error:  # hub, network and proxy errors have no common base
        raise PrerequisiteError(
            describe(
                f"loading sae-lens release {release!r}, {sae_id!r}",
                f"{type(error).__name__}: {error}",
                "a download that succeeds",
                "check the two names and the network, or download it elsewhere and give the folder as dictionary.path.",
            )
        ) from error
    return from_sae_lens(sae)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        found = "no such file" if not path.exists() else f"a file that is not JSON ({error})"
        raise _broken(path, found, "the configuration that sae-lens saves beside the weights") from error
    if not isinstance(content, dict):
        raise _broken(path, f"a JSON {type(content).__name__}", "a JSON object")
    return content


def _read_weights(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise _broken(path, "no such file", "the weights as safetensors (pickled .pt or .bin weights are not read)")
    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError, ValueError) as error:
        found = f"{path.stat().st_size} bytes that are not a complete safetensors file ({error})"
        raise _broken(path, found, "a complete safetensors file") from error


def _broken(path: Path, found: str, expected: str) -> ConfigError:
    remedy = "save or copy the dictionary again (a git-lfs pointer is not the file itself)."
    return ConfigError(describe(str(path), found, expected, remedy))


def _build(config: EncoderConfig, tensors: Mapping[str, Tensor], source: str) -> Dictionary:
    weights = _checked(config, tensors, source)
    W_enc, W_dec, b_dec = weights["W_enc"], weights["W_dec"], weights["b_dec"]
    threshold: Tensor | None = None
    decoder_norm: Tensor | None = None
    if config.architecture == "gated":
        gain = weights["r_mag"].exp()
        W_enc = W_enc * gain
        b_enc = weights["b_mag"]
        threshold = (b_enc - gain * weights["b_gate"]).clamp_min(0)
    else:
        b_enc = weights["b_enc"]
        if "threshold" in weights:
            threshold = weights["threshold"].clamp_min(0)
        elif config.architecture == "standard":
            threshold = torch.zeros_like(b_enc)
        if config.rescale_acts_by_decoder_norm:
            decoder_norm = W_dec.norm(dim=-1)
    return Dictionary(
        architecture=config.architecture,
        W_enc=W_enc,
        b_enc=b_enc,
        W_dec=W_dec,
        b_dec=b_dec,
        threshold=threshold,
        k=config.k,
        decoder_norm=decoder_norm,
        normalisation=config.normalisation,
        apply_b_dec_to_input=config.apply_b_dec_to_input,
        hook_name=config.hook_name,
        fingerprint=_fingerprint(config, weights),
        model_name=config.model_name,
        neuronpedia_id=config.neuronpedia_id,
    )


def _checked(config: EncoderConfig, tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors that the architecture has, in float32, each of the right shape and finite."""
    tensors = dict(tensors)
    shapes = config.shapes()
    if "log_threshold" in tensors and "threshold" in shapes and "threshold" not in tensors:
        tensors["threshold"] = tensors.pop("log_threshold").float().exp()  # jumprelu as saved by older releases
    one = tensors.get("topk_threshold")
    if config.architecture in CHECKPOINTS and one is not None and one.numel() == 1:
        tensors["threshold"] = tensors.pop("topk_threshold").float().expand(config.d_sae)
    scaling = tensors.get("scaling_factor")
    if scaling is not None and bool((scaling == 1).all()):
        del tensors["scaling_factor"]  # older releases saved it unused, as ones
    if set(tensors) != set(shapes):
        found = f"missing {sorted(set(shapes) - set(tensors))}, unknown {sorted(set(tensors) - set(shapes))}"
        raise _wrong_weights(source, found, f"the tensors {sorted(shapes)} of a {config.architecture} dictionary")
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape:
            found = f"{name} of shape {tuple(tensor.shape)}"
            expected = f"{shape} (cfg.json says d_in {config.d_in}, d_sae {config.d_sae})"
            raise _wrong_weights(source, found, expected)
        if not tensor.is_floating_point():
            raise _wrong_weights(source, f"{name} of type {tensor.dtype}", "floating-point weights")
        tensors[name] = tensor.detach().to(torch.float32).contiguous()
        bad = int((~torch.isfinite(tensors[name])).sum())
        if bad:
            raise _wrong_weights(source, f"{bad} values of {name} that are not finite", "finite weights in float32")
    return tensors


def _wrong_weights(source: str, found: str, expected: str) -> ConfigError:
    return ConfigError(
        describe(f"dictionary weights in {source}", found, expected, "save or copy the dictionary again.")
    )


def _fingerprint(config: EncoderConfig, weights: Mapping[str, Tensor]) -> str:
    """SHA-256, 16 hex digits, of what decides how it encodes, and of the tensors' names, shapes and bytes."""
    digest = hashlib.sha256(json.dumps(config.identity(), sort_keys=True).encode())
    for name in sorted(weights):
        digest.update(json.dumps([name, list(weights[name].shape)]).encode())
        digest.update(weights[name].numpy().data)
    return digest.hexdigest()[:16]
