"""The causal language model inside what the trainer holds, and its forward over prompts and their opening trees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import PrerequisiteError, describe
from ..maths.opening_tree import OpeningTree
from ..maths.readings import Readings, read_edges, read_openings
from .chat import PromptTokens
from .opening_head import PlainHead, plain_head

if TYPE_CHECKING:
    from transformers import DynamicCache


def inner_causal(model: nn.Module) -> nn.Module:
    """The transformers model inside PEFT, DDP or compile wrappers. Raises `PrerequisiteError` where there is none."""
    inner: Any = model
    # A compiled module answers for all attributes of the one inside, so wrappers are told by their children.
    while isinstance(inner, nn.Module) and set(inner._modules) in ({"module"}, {"_orig_mod"}):
        (inner,) = inner.children()
    if hasattr(inner, "peft_config") and hasattr(inner, "get_base_model"):
        inner = inner.get_base_model()
    if not hasattr(inner, "get_output_embeddings") or inner.get_output_embeddings() is None:
        remedy = "train a model of transformers' AutoModelForCausalLM."
        raise PrerequisiteError(describe("model", type(inner).__name__, "a causal language model", remedy))
    assert isinstance(inner, nn.Module)
    return inner


def forward_seen(model: nn.Module) -> nn.Module:
    """The module whose hooks see the trainer's forward: the causal model, but for AdaLoRA, which wraps it and takes its
    forward past its hooks."""
    return next((m for m in model.modules() if type(m).__name__ == "AdaLoraModel"), inner_causal(model))


@dataclass(frozen=True, slots=True)
class TreeBatch:
    """b prompts, padded on the left, each followed by the m inner nodes of the opening tree."""

    input_ids: Tensor
    """(b, l + m)"""
    attention: Tensor | dict[str, Tensor]
    """(b, 1, l + m, l + m) additive float mask: 0 where seen, the type's minimum where not; one by type of layer where
    a prompt is longer than the window of the model's sliding layers."""
    positions: Tensor
    """(b, l + m) position ids: 0 … within the prompt, its length − 1 + depth at a node."""
    read: Tensor
    """(b,) columns at which the residual stream is read."""
    n_positions: int
    """1 + m: the last columns whose logits are needed (the last prompt token and the nodes)."""


def tree_batch(prompts: Sequence[PromptTokens], tree: OpeningTree, pad: int, model: nn.Module) -> TreeBatch:
    """`prompts` as one batch on the model's device, in the type of its weights."""
    weight = next(model.parameters())
    dtype = weight.dtype if weight.is_floating_point() else torch.float32
    lengths = torch.tensor([len(p.ids) for p in prompts])
    longest, m = int(lengths.max()), len(tree.node_tokens)
    start = longest - lengths
    ids = torch.full((len(prompts), longest + m), pad)
    for i, prompt in enumerate(prompts):
        ids[i, start[i] : longest] = torch.tensor(prompt.ids)
    ids[:, longest:] = torch.tensor(tree.node_tokens, dtype=ids.dtype)

    column = torch.arange(longest)
    positions = torch.empty_like(ids)
    positions[:, :longest] = (column - start[:, None]).clamp(min=0)
    positions[:, longest:] = lengths[:, None] - 1 + torch.tensor(tree.node_depths, dtype=ids.dtype)

    real = column >= start[:, None]
    sees = torch.zeros(len(prompts), longest + m, longest + m, dtype=torch.bool)
    sees[:, :longest, :longest] = (column <= column[:, None]) & real[:, None, :]
    sees[:, longest:, :longest] = real[:, None, :]
    sees[:, longest:, longest:] = tree.attention()
    # A pad token sees itself, so that no row of the mask is empty (softmax over nothing is NaN).
    sees |= torch.eye(longest + m, dtype=torch.bool)
    read = start + torch.tensor([p.read for p in prompts])
    device = weight.device
    mask = _attention(model, sees, positions, dtype, device)
    return TreeBatch(ids.to(device), mask, positions.to(device), read.to(device), 1 + m)


def _attention(
    model: Any, sees: Tensor, positions: Tensor, dtype: torch.dtype, device: torch.device
) -> Tensor | dict[str, Tensor]:
    """What each token sees as additive masks; transformers narrows no 4D mask to a sliding layer's window by itself."""

    def additive(seen: Tensor) -> Tensor:
        return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)[:, None].to(device)

    config = model.config.get_text_config()
    window, types = getattr(config, "sliding_window", None), getattr(config, "layer_types", None)
    if not window or int(positions.max()) < window or (types and "sliding_attention" not in types):
        return additive(sees)
    near = additive(sees & (positions[:, :, None] - positions[:, None, :] < window))
    return {"full_attention": additive(sees), "sliding_attention": near} if types else near


@dataclass(frozen=True, slots=True)
class PromptStage:
    """A batch's prompts after their own forward; its inner nodes are still to come."""

    states: Tensor
    """(b, 1, ·) logits at the last prompt token, or hidden states where the head is read apart."""
    cache: DynamicCache
    """Keys and values of the prompts, with their graph where gradients are on."""


def prompt_stage(into: nn.Module, batch: TreeBatch, head: PlainHead | None) -> PromptStage:
    """The forward of the prompts alone, which goes in at the causal model or where it is sharded: what is read at a
    prompt token does not see the nodes, so neither its forward nor its backward has to go through them."""
    from transformers import DynamicCache

    length, cache = batch.input_ids.shape[1] - batch.n_positions + 1, DynamicCache()
    return PromptStage(_run(into, batch, head, slice(0, length), length, cache, 1), cache)


def node_stage(into: nn.Module, batch: TreeBatch, head: PlainHead | None, prompts: PromptStage) -> Tensor:
    """(b, 1 + m, ·) logits, or hidden states where `head` is read apart, at the last prompt token and at every inner
    node; `prompts` is used up."""
    nodes = batch.n_positions - 1
    if nodes == 0:
        return prompts.states
    width = batch.input_ids.shape[1]
    return torch.cat([prompts.states, _run(into, batch, head, slice(-nodes, None), width, prompts.cache, nodes)], 1)


def tree_readings(causal: nn.Module, into: nn.Module, batch: TreeBatch, tree: OpeningTree) -> Readings:
    """Both stages of forwards that go in at `into` (`sharded.entrance`), and their readings."""
    head = plain_head(causal)
    return readings_of(node_stage(into, batch, head, prompt_stage(into, batch, head)), head, tree)


def readings_of(states: Tensor, head: PlainHead | None, tree: OpeningTree) -> Readings:
    """The readings of what `node_stage` gives."""
    return read_openings(states.float(), tree) if head is None else read_edges(*head.read(states, tree), tree)


def _run(
    into: nn.Module,
    batch: TreeBatch,
    head: PlainHead | None,
    columns: slice,
    width: int,
    cache: DynamicCache,
    keep: int,
) -> Tensor:
    """(b, keep, ·) states at the last `keep` of the batch's `columns`, which see the first `width`."""
    model = into if head is None else head.backbone
    output = model(
        input_ids=batch.input_ids[:, columns],
        attention_mask=_columns(batch.attention, columns, width),
        position_ids=batch.positions[:, columns],
        past_key_values=cache,
        use_cache=True,
        **({"logits_to_keep": keep} if head is None else {}),
    )
    states: Tensor = output.logits if head is None else output.last_hidden_state[:, -keep:]
    return states


def _columns(attention: Tensor | dict[str, Tensor], rows: slice, width: int) -> Tensor | dict[str, Tensor]:
    if isinstance(attention, dict):
        return {name: mask[:, :, rows, :width] for name, mask in attention.items()}
    return attention[:, :, rows, :width]
