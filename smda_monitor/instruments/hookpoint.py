"""The hookpoint: where in the model the residual stream is read.

    blocks.L.hook_resid_pre  = input of decoder block L      = hidden_states[L] of transformers
    blocks.L.hook_resid_post = output of decoder block L     = hidden_states[L + 1], except after the last block

``hidden_states`` starts with the embeddings and ends with the output of the final norm, so ``hidden_states[L]`` is the
output of block L - 1. Hence the block itself is hooked.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from smda_monitor.errors import ConfigError, MeasurementError, PrerequisiteError, describe

from .dictionary import Dictionary

SUPPORTED_HOOKS = "blocks.<layer>.hook_resid_pre or blocks.<layer>.hook_resid_post"


class Hook(NamedTuple):
    """A hookpoint on the residual stream."""

    layer: int
    """Decoder block, counted from 0."""
    kind: str
    """``pre`` (the block's input) or ``post`` (its output)."""


def parse_hook(name: str) -> Hook:
    """``blocks.22.hook_resid_post`` → ``(22, "post")``.

    Raises:
        ConfigError: any other form, an empty name included.
    """
    match = re.fullmatch(r"blocks\.(\d+)\.hook_resid_(pre|post)", name, flags=re.ASCII)
    if match is None:
        raise ConfigError(
            describe(
                "hookpoint",
                repr(name) if name else "none (the dictionary names no hookpoint)",
                SUPPORTED_HOOKS,
                "set dictionary.hook, or use a dictionary of the residual stream.",
            )
        )
    return Hook(int(match[1]), match[2])


def decoder_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The list of decoder blocks of a language model, and its dotted path in `model`.

    Found by structure, whatever the names and wrappers (PEFT, DDP, multimodal): the ModuleList that stands beside the
    token embedding and is as long as the text configuration's ``num_hidden_layers``.

    Raises:
        PrerequisiteError: no such list, or more than one (an encoder-decoder model).
    """
    embedding, count, _ = _text_model(model)
    found: list[tuple[str, nn.ModuleList]] = []
    lists = {
        name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module)
    }
    for name, module in lists.items():
        siblings = model.get_submodule(name.rpartition(".")[0]).children()
        beside = any(s is embedding if embedding is not None else isinstance(s, nn.Embedding) for s in siblings)
        if beside and count in (None, len(module)):
            found.append((name, module))
    if len(found) != 1:
        candidates = ", ".join(f"{name} ({len(module)})" for name, module in (found or list(lists.items()))[:8])
        raise PrerequisiteError(
            describe(
                f"decoder blocks of {type(model).__name__}",
                f"{len(found)} lists of blocks beside the token embedding (module lists: {candidates or 'none'})",
                "exactly one" + ("" if count is None else f", of {count} blocks"),
                "use a decoder-only language model of transformers, plain or wrapped by PEFT.",
            )
        )
    return found[0]


def find_block(model: nn.Module, hook: str) -> tuple[nn.Module, Hook]:
    """The decoder block that `hook` names, and the parsed hook.

    Raises:
        ConfigError: a name that is not understood, or a layer that the model does not have.
        PrerequisiteError: as `decoder_layers`.
    """
    parsed = parse_hook(hook)
    path, layers = decoder_layers(model)
    if parsed.layer >= len(layers):
        raise ConfigError(
            describe(
                f"hookpoint {hook}",
                f"layer {parsed.layer} in a model with {len(layers)} decoder blocks ({path})",
                f"a layer from 0 to {len(layers) - 1}",
                "set dictionary.hook, or use a dictionary made for this model.",
            )
        )
    return layers[parsed.layer], parsed


def check_width(dictionary: Dictionary, model: nn.Module) -> None:
    """The dictionary's d_in must be the width of the model's residual stream.

    Raises:
        ConfigError: it is not; names both numbers.
        PrerequisiteError: the model's width cannot be found.
    """
    _, _, width = _text_model(model)
    if width is None:
        raise PrerequisiteError(
            describe(
                f"width of {type(model).__name__}",
                "neither a text configuration with hidden_size nor a token embedding",
                "a language model of transformers",
                "pass the model that the trainer trains.",
            )
        )
    if dictionary.d_in != width:
        trained_on = f" (trained on {dictionary.model_name})" if dictionary.model_name else ""
        raise ConfigError(
            describe(
                f"width of the dictionary{trained_on}",
                f"d_in {dictionary.d_in}",
                f"{width}, the width of the model's residual stream",
                "use a dictionary made for this model (dictionary.path).",
            )
        )


class _Reached(Exception):
    """Ends a forward at the hookpoint; caught by the tap that raised it."""


class ResidualTap:
    """While it is open, keeps what passes the hookpoint in the latest forward, with its graph.

    Example:
        with ResidualTap(model, "blocks.22.hook_resid_post") as tap:
            model(input_ids=ids, use_cache=False)
            h = tap.take()      # (batch, tokens, d_in), the model's dtype

    The value itself is neither copied nor changed, and no random number is drawn. Under reentrant gradient
    checkpointing in train mode it has no graph: measure in eval mode.

    Raises:
        ConfigError, PrerequisiteError: as `find_block`, when it is made, not when it runs.
    """

    def __init__(self, model: nn.Module, hook: str) -> None:
        self.block, self.hook = find_block(model, hook)
        self._name = hook
        self._value: Tensor | None = None
        self._last = False
        self._handle: RemovableHandle | None = None

    def __enter__(self) -> ResidualTap:
        assert self._handle is None, "a ResidualTap is opened once at a time"
        if self.hook.kind == "pre":
            self._handle = self.block.register_forward_pre_hook(self._keep_input, with_kwargs=True)
        else:
            self._handle = self.block.register_forward_hook(self._keep_output)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._handle is not None
        self._handle.remove()
        self._handle = self._value = None

    def take(self) -> Tensor:
        """The captured residual stream, (batch, tokens, d_in); it is handed over, so that no graph is kept alive here.

        Raises:
            MeasurementError: no forward passed the hookpoint since the last `take`.
        """
        if self._value is None:
            raise MeasurementError(
                describe(
                    f"hookpoint {self._name}",
                    "no forward pass through the block",
                    "one forward of the model while the tap is open",
                    "run the model first; under torch.compile hooks inside layers are lost, so probe the plain model.",
                )
            )
        value, self._value = self._value, None
        return value

    def run(self, forward: Callable[[], object]) -> Tensor:
        """What `take` gives, from a `forward` that ends at the hookpoint: what comes after never runs."""
        assert self._handle is not None, "the tap is open"
        self._last = True
        try:
            forward()
        except _Reached:
            pass
        finally:
            self._last = False
        return self.take()

    def _keep_input(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._keep(args[0] if args else kwargs.get("hidden_states"))

    def _keep_output(self, block: nn.Module, args: Any, output: Any) -> None:
        # A tensor; in older releases of transformers a tuple that starts with it.
        self._keep(output[0] if isinstance(output, (tuple, list)) else output)

    def _keep(self, value: object) -> None:
        if not isinstance(value, Tensor):
            raise MeasurementError(
                describe(
                    f"hookpoint {self._name}",
                    f"{type(value).__name__} from {type(self.block).__name__}",
                    "a tensor, or a tuple that starts with one",
                    "use a decoder-only language model of transformers.",
                )
            )
        self._value = value
        if self._last:
            raise _Reached


def _text_model(model: nn.Module) -> tuple[nn.Module | None, int | None, int | None]:
    """Token embedding, number of decoder blocks and residual width, each None where the model does not tell.

    Wrappers (DDP, PEFT) are passed through: the outermost module that knows its embedding is asked.
    """
    for module in model.modules():
        ask = getattr(module, "get_input_embeddings", None)
        if not callable(ask):
            continue
        try:
            embedding = ask()
        except NotImplementedError:  # how transformers' base class says that this module has none
            continue
        if isinstance(embedding, nn.Module):
            config: Any = getattr(module, "config", None)
            text = config.get_text_config() if hasattr(config, "get_text_config") else config
            width = getattr(text, "hidden_size", None) or getattr(embedding, "embedding_dim", None)
            return embedding, getattr(text, "num_hidden_layers", None), width
    width = next((m.embedding_dim for m in model.modules() if isinstance(m, nn.Embedding)), None)
    return None, None, width
