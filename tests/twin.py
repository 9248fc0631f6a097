"""An independent replay: the step taken on another model by another optimizer that hold the same, row by row."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import tiny
import torch
from torch import Tensor
from transformers import TrainerCallback

from smda_monitor.callback import SMDACallback
from smda_monitor.instruments.chat import PromptTokens
from smda_monitor.instruments.own_prompts import prompts_of
from smda_monitor.instruments.quiet import quiet
from smda_monitor.maths.row_gradients import RowGradients
from smda_monitor.records.snapshot import Snapshot


def rows_so_far(run: Any) -> Tensor:
    """(n, p) gradients of the open step's rows, which stays open."""
    found = RowGradients.joined([batch.gradients for batch in run.accountant.capture.batches()])
    return found.dense(0, found.size)


class TwinReplayer(TrainerCallback):
    """Before every step from `from_step` on: takes it on twins, with all rows, without each, and on a zero gradient;
    put it before the monitor. With `own` also each row on its own prompt. Knows nothing of the monitor's own replay;
    reads the twin with the monitor's reader."""

    def __init__(self, monitor: SMDACallback, from_step: int = 1, own: bool = False) -> None:
        self.monitor, self.from_step, self.own = monitor, from_step, own
        self.push: dict[int, Tensor] = {}
        self.own_push: dict[int, Tensor] = {}
        self.alone: dict[int, Tensor] = {}
        self.delta_y: dict[int, Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        run = self.monitor.run
        assert run is not None
        assert run.accountant.capture is not None
        if state.global_step + 1 < self.from_step:
            return
        rows = rows_so_far(run).double()
        step, total = state.global_step + 1, rows.sum(0)
        rests = [total, *(total - row for row in rows), torch.zeros_like(total)]
        taken = [row for batch in run.accountant.capture.batches() for row in batch.rows]
        prompts = prompts_of(run.instruments, taken) if self.own else {}
        measured = [self._measured(run, kwargs["optimizer"].optimizer, r, args, [*prompts.values()]) for r in rests]
        (whole, *without, alone), (owns, *own_without, _) = zip(*measured, strict=True)
        self.own_push[step] = torch.full((len(rows),), float("nan"), dtype=torch.float64)
        for k, i in enumerate(prompts):
            self.own_push[step][i] = owns[k] - own_without[i][k]
        targets = run.instruments.plan.targets
        self.push[step] = torch.stack([targets.measure(w, whole) for w in without])
        self.alone[step] = targets.measure(run.accountant.before, alone)
        self.delta_y[step] = torch.stack([whole.y - w.y for w in without])

    def _measured(
        self, run: Any, optimizer: Any, rest: Tensor, args: Any, own: list[PromptTokens]
    ) -> tuple[Snapshot, Tensor]:
        """After the step on the gradient `rest`: the probes, and the contrast of the `own` prompts."""
        random_states = np.random.get_state(), torch.get_rng_state()
        model = tiny.tiny_lora(tiny.tiny_llama())
        model.load_state_dict(run.model.state_dict())
        memo: dict[int, Any] = {id(p): q for p, q in zip(run.model.parameters(), model.parameters(), strict=True)}
        twin = object.__new__(type(optimizer))
        memo[id(optimizer)] = twin
        np.random.set_state(random_states[0])
        torch.set_rng_state(random_states[1])
        vars(twin).update({k: copy.deepcopy(v, memo) for k, v in vars(optimizer).items() if k != "step"})
        factor = min(1.0, args.max_grad_norm / (float(rest.norm()) + 1e-6)) if args.max_grad_norm else 1.0
        for tensor in run.accountant.parameters.tensors:
            weight = memo[id(tensor.parameter)]
            weight.grad = (factor * rest[tensor.start : tensor.stop]).reshape(weight.shape).to(weight.dtype)
        type(optimizer).step(twin)
        instruments = run.instruments
        reader = replace(instruments.reader, model=model)
        with quiet(model):
            measured = reader.measure(instruments.tokens(instruments.plan.chosen))
            contrast = reader.measure(own).readings.contrast if own else torch.zeros(0)
        np.random.set_state(random_states[0])
        torch.set_rng_state(random_states[1])
        ids = [instruments.bench.probes.ids[i] for i in instruments.plan.chosen]
        return reader.snapshot(0, ids, measured), contrast
