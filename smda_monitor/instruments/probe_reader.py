"""Reads prompts on a live model: features at the hookpoint and the behaviour's readings, from one forward per chunk.

Prompts go through in chunks, sorted by length, as large as a memory budget allows; every figure comes back in the
order of the prompts. With directions in parameter space the same pass also gives what each would do to each probe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..maths.health import dictionary_health
from ..maths.portions import portions
from ..maths.probe_gradients import ChunkedRows, ProbeGradients
from ..maths.readings import Readings
from ..maths.row_gradients import RowGradients
from ..maths.split import SLAB
from ..records.account import READINGS
from ..records.snapshot import DictionaryHealth, Snapshot
from .behaviour import Behaviour
from .causal import TreeBatch, inner_causal, node_stage, prompt_stage, readings_of, tree_batch
from .chat import PromptTokens
from .chunked import in_chunks, undivided
from .dictionary import Dictionary
from .gradient_tap import GradientTap
from .hookpoint import ResidualTap
from .kept_rows import halves, kept_rows
from .measurement import Measurement, detached, in_order, joined
from .opening_head import plain_head
from .parameters import TrainedParameters
from .products import fast_pass
from .sharded import entrance, run_to_hookpoint

Found = TypeVar("Found")
Rows = tuple[tuple[int, ...], RowGradients]
"""Prompts' numbers and their gradients."""


@dataclass(frozen=True)
class ProbeReader:
    """Everything that stays the same from snapshot to snapshot. All results are on the CPU, detached."""

    model: nn.Module
    """The trainer's model; it should be in eval mode (`quiet`) during a pass."""
    behaviour: Behaviour
    """What is read at the answer's start."""
    dictionary: Dictionary
    """Through which features; on the model's device."""
    hook: str
    """Hookpoint in TransformerLens' words."""
    gate: str
    """``continuous``, ``relu_proxy`` or ``native``."""
    feature_ids: Tensor
    """(d,) int64 the features read, in the one explicit order."""
    pad: int
    """Pad token id."""
    memory_gib: float
    """Budget of one chunk, GiB."""

    def chunk_size(self, longest: int, parameters: TrainedParameters | None = None) -> int:
        """Prompts of `longest` tokens per chunk under the budget, ≥ 1. With gradients at `parameters` the graph is
        kept, about eight times a plain forward's memory, and gradients by prompt are held three at a time."""
        config = inner_causal(self.model).config.get_text_config()  # type: ignore[operator, union-attr]
        hidden, layers = config.hidden_size, max(4, config.num_hidden_layers) if parameters else 4
        inner = getattr(config, "intermediate_size", None) or 4 * hidden
        positions = self.behaviour.tree.n_positions
        per_prompt = (longest + positions) * layers * (14 * hidden + 6 * inner) + 8 * positions * config.vocab_size
        by_prompt = parameters.row_size(longest + positions) if parameters else 0
        return max(1, int(self.memory_gib * 2**30 // (4 * (per_prompt + 3 * by_prompt))))

    def vectors(self, parameters: TrainedParameters) -> int:
        """Flat vectors over `parameters` that a quarter of the budget holds in float32, ≥ 1."""
        return max(1, int(self.memory_gib * 2**30 / 4) // (4 * parameters.size))

    def _chunks(
        self, prompts: Sequence[PromptTokens], parameters: TrainedParameters | None = None
    ) -> Iterator[list[int]]:
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids), reverse=True)
        while order:
            size = self.chunk_size(len(prompts[order[0]].ids), parameters)
            # Equal parts rather than full chunks and a remnant: the same memory bound, less padding.
            size = -(-len(order) // -(-len(order) // size))
            yield order[:size]
            order = order[size:]

    def _pass(
        self,
        prompts: Sequence[PromptTokens],
        work: Callable[[list[int]], tuple[Measurement, Found]],
        parameters: TrainedParameters | None = None,
    ) -> tuple[Measurement, list[Found]]:
        """What `work` makes of the prompts' numbers chunk by chunk: the measurement of all prompts, and the rest."""
        parts, order, rest = [], [], []
        for chunk, (here, found) in in_chunks(self._chunks(prompts, parameters), work):
            parts.append(here)
            rest.append(found)
            order += chunk
        return in_order(parts, order), rest

    def _halves(self, prompts: Sequence[PromptTokens], targets: int, parameters: TrainedParameters) -> bool:
        """Whether the gradients of so many targets of every prompt would take more than an eighth of the budget."""
        longest = max(len(prompt.ids) for prompt in prompts) + self.behaviour.tree.n_positions
        return halves(4 * targets * len(prompts) * parameters.row_size(longest), self.memory_gib)

    def _fast(self) -> AbstractContextManager[None]:
        return fast_pass(self.feature_ids.device)

    def _forward(self, prompts: Sequence[PromptTokens]) -> tuple[Tensor, Tensor, Readings]:
        causal = inner_causal(self.model)
        batch, into = tree_batch(prompts, self.behaviour.tree, self.pad, causal), entrance(self.model, causal)
        head = plain_head(causal)
        with ResidualTap(self.model, self.hook) as tap:
            stage = prompt_stage(into, batch, head)
            stream = tap.take()
        hidden, X = self._read(stream, batch)
        return hidden, X, readings_of(node_stage(into, batch, head, stage), head, self.behaviour.tree)

    def _read(self, stream: Tensor, batch: TreeBatch) -> tuple[Tensor, Tensor]:
        hidden = stream[torch.arange(len(stream), device=batch.read.device), batch.read].float()
        return hidden, self.dictionary.features(hidden, self.gate, self.feature_ids)  # type: ignore[arg-type]

    def _to_hookpoint(self, prompts: Sequence[PromptTokens]) -> Tensor:
        """X of a forward that ends at the hookpoint; the same bits as that of a whole one, which sharded models run."""
        causal = inner_causal(self.model)
        batch, into = tree_batch(prompts, self.behaviour.tree, self.pad, causal), entrance(self.model, causal)
        with self._fast(), ResidualTap(self.model, self.hook) as tap:
            return self._read(run_to_hookpoint(tap, causal, lambda: prompt_stage(into, batch, None)), batch)[1]

    @torch.no_grad()
    def features(self, prompts: Sequence[PromptTokens]) -> Tensor:
        """(n, d) `Measurement.X` alone, from forwards that end at the hookpoint. Raises `MeasurementError` as
        `measure`."""
        parts, order = [], []
        chunks = self._chunks(prompts)
        for chunk, X in in_chunks(chunks, lambda chunk: self._to_hookpoint([prompts[i] for i in chunk]).cpu()):
            parts.append(X)
            order += chunk
        return joined(parts, torch.tensor(order).argsort())

    def feature_gradients(
        self,
        prompts: Sequence[PromptTokens],
        of: Callable[[Tensor, Sequence[int]], Tensor],
        parameters: TrainedParameters,
    ) -> Tensor:
        """(K, p) gradients of K scalars of the prompts' features: Σ of(X (b, d), the chunk's prompt numbers) (K,) over
        chunks. One forward that ends at the hookpoint and K backwards per chunk, through activations alone."""
        found: list[Tensor] = []

        def add(chunk: list[int]) -> None:
            with torch.enable_grad(), self._fast(), GradientTap(parameters) as tap, ExitStack() as adding:
                scalars = of(self._to_hookpoint([prompts[i] for i in chunk]), chunk)
                if not found:
                    found.append(torch.zeros(len(scalars), parameters.size, device=scalars.device))
                # Where all that trains lies above the hookpoint there is no graph, and nothing moves.
                for k, scalar in enumerate(scalars if scalars.requires_grad else ()):
                    (rows,) = tap.rows(scalar)
                    if k == 0:
                        adding.enter_context(undivided(len(chunk)))
                    for part in portions(parameters.size, SLAB):
                        found[0][k, part.start : part.stop] += rows.dense(part.start, part.stop).sum(0)
                    del rows  # the next one's backward has its memory

        for _ in in_chunks(self._chunks(prompts, parameters), add):
            pass
        return found[0]

    @torch.no_grad()
    def measure(self, prompts: Sequence[PromptTokens]) -> Measurement:
        """One forward over `prompts`. Raises `MeasurementError` for NaN or Inf, naming the first prompt's number."""

        def measured(chunk: list[int]) -> tuple[Measurement, None]:
            with self._fast():
                return detached(*self._forward([prompts[i] for i in chunk])), None

        return self._pass(prompts, measured)[0]

    def gradients(
        self, prompts: Sequence[PromptTokens], cotangent_X: Tensor, coef: Tensor, parameters: TrainedParameters
    ) -> tuple[Measurement, ProbeGradients]:
        """Measurement and gradients by prompt of the m `prompts`: of both readings and of the explained part x_j·w
        (`coef` w); and of Σ_j ⟨C_j, x_j⟩ (`cotangent_X` C, (m, d)). One forward and four backwards per chunk, two of
        them from the hookpoint, through activations alone; kept on the parameters' device, in bfloat16 where float32
        would take more than an eighth of the budget."""
        half = self._halves(prompts, 1 + len(READINGS), parameters)

        def taken(chunk: list[int]) -> tuple[Measurement, dict[str, Rows]]:
            found: dict[str, Rows] = {}
            with torch.enable_grad(), self._fast(), GradientTap(parameters) as tap:
                hidden, X, readings = self._forward([prompts[i] for i in chunk])
                of_X = {"S_X": (cotangent_X[chunk].to(X) * X).sum(), "explained": (X @ coef.to(X)).sum()}
                of_readings = {"mass": readings.mass.sum(), "contrast": readings.contrast.sum()}
                for scalars in (of_X, of_readings):
                    for name, rows in zip(scalars, tap.rows(*scalars.values()), strict=True):
                        if name == "S_X" and not rows.pieces:
                            found[name] = tuple(chunk[:1]), kept_rows(rows.summed(), False)
                        else:
                            found[name] = tuple(chunk), kept_rows(rows, half)
            return detached(hidden, X, readings), found

        measured, chunks = self._pass(prompts, taken, parameters)
        by_name = {name: ChunkedRows(tuple(found[name] for found in chunks)) for name in ("S_X", *READINGS)}
        return measured, ProbeGradients(by_name.pop("S_X"), by_name, len(prompts))

    def own(self, prompts: Sequence[PromptTokens], parameters: TrainedParameters) -> tuple[Measurement, ChunkedRows]:
        """Measurement of n own prompts and the gradient of the contrast of each; kept as by `gradients`."""
        half = self._halves(prompts, 1, parameters)

        def taken(chunk: list[int]) -> tuple[Measurement, Rows]:
            with torch.enable_grad(), self._fast(), GradientTap(parameters) as tap:
                hidden, X, readings = self._forward([prompts[i] for i in chunk])
                (rows,) = tap.rows(readings.contrast.sum())
                return detached(hidden, X, readings), (tuple(chunk), kept_rows(rows, half))

        measured, chunks = self._pass(prompts, taken, parameters)
        return measured, ChunkedRows(tuple(chunks))

    def snapshot(self, step: int, probe_ids: Sequence[str], measured: Measurement) -> Snapshot:
        """The snapshot of a measurement."""
        readings = measured.readings
        return Snapshot(
            step,
            tuple(probe_ids),
            measured.X,
            readings.y(self.behaviour.reading),
            readings.mass,
            readings.contrast,
            readings.openings,
            self.health(measured.hidden),
        )

    @torch.no_grad()
    def health(self, hidden: Tensor) -> DictionaryHealth:
        """Fit of the dictionary on `hidden` (n, d_in), by its native encoder."""
        on_device = hidden.to(self.dictionary.W_enc.device)
        activations = self.dictionary.native(on_device)
        return dictionary_health(on_device, self.dictionary.decode(activations, on_device), activations > 0)
