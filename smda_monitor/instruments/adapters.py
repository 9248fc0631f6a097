"""Puts a PEFT adapter on a model, and binds an adapter to the weights that it was made for."""

from __future__ import annotations

import json
import warnings
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import ConfigError, PrerequisiteError, describe
from .fingerprint import model_fingerprint
from .silence import no_bars

_BINDING = "smda.json"


def bind_adapter(folder: Path, base_fingerprint: str) -> None:
    """Notes in an adapter's folder for which weights it was made: the `model_fingerprint` of the model without it.
    `with_adapter` then refuses to put it on others."""
    (folder / _BINDING).write_text(
        json.dumps({"base_fingerprint": base_fingerprint}, indent=1) + "\n", encoding="utf-8"
    )


def shipped_adapter(model_name: str) -> Path:
    """The folder of the adapter that the package ships for the model of that name."""
    return Path(str(files("smda_monitor").joinpath("assets", model_name, "adapter")))


def with_adapter(model: Any, adapter: str) -> Any:
    """`model` with the PEFT adapter in a folder, or of a hub id, on top, trainable; its weights in float32.

    Raises:
        ConfigError: no such adapter, a damaged one, or one of another shape.
        PrerequisiteError: it was made for other weights than the model's (`bind_adapter`).
    """
    from peft import PeftModel

    what = f"adapter {adapter}"
    folder = Path(adapter).expanduser()
    if local := folder.exists() or adapter.startswith((".", "/", "~")):
        if not (folder / "adapter_config.json").is_file():
            found = "no adapter_config.json there" if folder.exists() else "no such folder"
            raise ConfigError(describe(what, found, "a folder with a PEFT adapter", "check the path"))
        _check_binding(folder, model, what)
    try:
        with warnings.catch_warnings(), no_bars():
            # PEFT only warns when the file lacks weights, and leaves random ones.
            warnings.filterwarnings("error", message="Found missing adapter keys")
            return PeftModel.from_pretrained(model, str(folder) if local else adapter, is_trainable=True)
    except Exception as error:  # PEFT raises errors of many families; each means that this adapter cannot be had
        found = f"{type(error).__name__}: {str(error)[:300]}"
        expected = "a whole PEFT adapter for this model"
        raise ConfigError(describe(what, found, expected, "check the path, or make the adapter again")) from error


def _check_binding(folder: Path, model: Any, what: str) -> None:
    """Raises where the adapter's folder names other weights than the model's."""
    path = folder / _BINDING
    if not path.is_file():
        return
    try:
        made_for = str(json.loads(path.read_text(encoding="utf-8"))["base_fingerprint"])
    except (ValueError, KeyError, TypeError) as error:
        expected = f"a base_fingerprint in its {_BINDING}"
        raise ConfigError(
            describe(what, f"{type(error).__name__}: {error}", expected, "make the adapter again")
        ) from error
    found = model_fingerprint(model)
    if found != made_for:
        expected = f"weights {made_for}, for which it was made"
        remedy = "load those weights, in their dtype, or make an adapter for these"
        raise PrerequisiteError(describe(what, f"a model with weights {found}", expected, remedy))
