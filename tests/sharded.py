"""Instruments on a model that FSDP2 shards over the ranks, against the same model whole: `torchrun sharded.py MODE`,
a mode of `test_row_modes`. What differs by more than rounding is an error.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tiny
import torch
from taken import across
from test_probe_reader import FEATURES, OTHERS, OURS, gradients, plan, prompts
from test_row_modes import MODES
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import TrainerCallback

from smda_monitor.callback import SMDACallback
from smda_monitor.instruments.behaviour import Behaviour
from smda_monitor.instruments.causal import inner_causal
from smda_monitor.instruments.dictionary_files import read_dictionary
from smda_monitor.instruments.fingerprint import model_fingerprint
from smda_monitor.instruments.optimizer_step import read_step
from smda_monitor.instruments.outside import OutsideMoves
from smda_monitor.instruments.parameters import trained_parameters
from smda_monitor.instruments.probe_reader import ProbeReader
from smda_monitor.instruments.read_behaviour import check_reading
from smda_monitor.instruments.rehearsal import rehearsal
from smda_monitor.instruments.row_capture import RowCapture
from smda_monitor.instruments.sharded import entrance, is_sharded
from smda_monitor.maths.opening_tree import build_tree
from smda_monitor.records.account import StepAccount

ROUNDING = 1e-5
"""Of what is summed in another order."""
OF_A_STEP = 1e-4
"""Of the small difference of weights in float32."""


def shard(model: Any) -> Any:
    """Layer by layer, and the rest, as Accelerate does."""
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    for layer in inner_causal(model).model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def step(model: Any, rank: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The second step of AdamW on this rank's rows: their gradients' sum, the optimizer's gradient, what the map of the
    step says that it does, and what it does."""
    parameters = trained_parameters(model)
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=1e-3, weight_decay=0.1)
    capture = RowCapture(model, parameters, part=1 / distributed.get_world_size())
    outside = OutsideMoves(parameters)
    model.train()
    for number in range(2):
        optimizer.zero_grad()
        ids = torch.randint(4, 300, (2, 7), generator=torch.Generator().manual_seed(10 * number + rank))
        model(input_ids=ids, labels=ids.clone(), use_cache=False).loss.backward()
        if number == 0:
            outside.follow(optimizer)
            capture.clear()
            optimizer.step()
    assert not outside.look(1), "the optimizer's own step is known"
    _, _, rows = capture.take()
    capture.remove()
    outside.remove()
    gradient, before = parameters.gradient(), parameters.flatten(parameters.weights).double()
    said = across(read_step(optimizer, parameters), "update", gradient.double())
    with rehearsal(optimizer, model, parameters) as take:
        take(gradient)
        agree("a step that is rehearsed", parameters.flatten(parameters.weights).double() - before, said, OF_A_STEP)
    assert torch.equal(parameters.flatten(parameters.weights).double(), before), "it is put back"
    assert torch.equal(parameters.gradient(), gradient)
    optimizer.step()
    return rows.dense(0, rows.size).sum(0), gradient, said, parameters.flatten(parameters.weights).double() - before


def reader(model: Any) -> ProbeReader:
    behaviour = Behaviour("refusal", ("?",) * 5, (), build_tree(OURS, OTHERS), "mass")
    with tempfile.TemporaryDirectory() as folder:
        dictionary = read_dictionary(tiny.write_dictionary(Path(folder) / "dictionary"))
    return ProbeReader(
        model, behaviour, dictionary, "blocks.1.hook_resid_post", "continuous", torch.tensor(FEATURES), 0, 1.0
    )


def figures(model: Any) -> dict[str, Tensor]:
    """What is read on probes."""
    here, parameters = reader(model), trained_parameters(model)
    check_reading(model, here.behaviour, prompts(), 0)
    measured, found = gradients(here, parameters, plan("mass"))
    own, contrast = here.own(prompts(), parameters)
    size = parameters.size
    return {
        "X": measured.X,
        "mass": measured.readings.mass,
        "measured alone": here.measure(prompts()).readings.contrast,
        "features alone": here.features(prompts()),
        "S_X": found.S_X.dense(0, size).sum(0),
        "gradients of mass": found.readings["mass"].dense(0, size),
        "gradients of contrast": contrast.dense(0, size),
        "own": own.readings.contrast,
        "features' gradients": here.feature_gradients(prompts(), lambda X, _: X.sum(0), parameters),
        "weights": parameters.flatten(parameters.weights),
    }


class Unmonitored(TrainerCallback):
    """Does nothing."""


def trained(model: Any, rank: int, folder: Path, callback: TrainerCallback) -> Tensor:
    """The weights after two steps, by a loop that stands for the trainer's."""
    from transformers import TrainerControl, TrainerState
    from trl import SFTConfig

    args = SFTConfig(output_dir=str(folder / "trainer"), use_cpu=True, bf16=False, report_to="none", max_grad_norm=0.0)
    weights = [w for w in model.parameters() if w.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-3, eps=1e-3)  # the first step is no mere sign of rounding
    state, control = TrainerState(max_steps=2), TrainerControl()
    events = {"model": model, "processing_class": tiny.tiny_tokenizer(), "optimizer": optimizer}
    callback.on_train_begin(args, state, control, **events)
    for number in range(2):
        model.train()
        ids = torch.randint(4, 300, (2, 9), generator=torch.Generator().manual_seed(10 * number + rank))
        labels = ids.clone()
        labels[:, :4] = -100
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels, use_cache=False).loss.backward()
        if not is_sharded(model):
            for weight in model.parameters():
                if weight.grad is not None:
                    distributed.all_reduce(weight.grad)
                    weight.grad /= distributed.get_world_size()
        callback.on_pre_optimizer_step(args, state, control, **events)
        optimizer.step()
        state.global_step += 1
        callback.on_step_end(args, state, control, **events)
    callback.on_train_end(args, state, control, **events)
    parameters = trained_parameters(model)
    return parameters.flatten(parameters.weights)


def monitored(model: Any, rank: int, folder: Path) -> tuple[list[StepAccount], Tensor]:
    """The accounts of these steps, with replays and watched splits, and the weights."""
    config = {**tiny.tiny_config(folder / str(rank)), "audit": {"share": 1.0}, "account": {"watched_every": 1}}
    config["outputs"] = {**config["outputs"], "folder": str(folder / "run")}
    callback = SMDACallback(config)
    weights = trained(model, rank, folder, callback)
    assert callback.run is not None
    assert len(callback.run.auditor.entries) >= 2, "steps were replayed"
    return callback.run.accounts, weights


def same_accounts(one: Sequence[StepAccount], two: Sequence[StepAccount]) -> None:
    assert len(one) == len(two) == 2
    for a, b in zip(one, two, strict=True):
        assert [row.row_hash for row in a.rows] == [row.row_hash for row in b.rows]
        assert len(a.rows) == 4, "those of both ranks"
        for mine, other in zip(a.rows, b.rows, strict=True):
            for name in ("share", "push"):
                found, expected = (torch.tensor(list(getattr(row, name).values())) for row in (mine, other))
                agree(f"{name} of a row", found, expected)
            assert mine.watched.keys() == other.watched.keys() != set()
        agree("drift", torch.tensor(a.drift), torch.tensor(b.drift))
        first, second = (torch.tensor(list(row.push.values())) for row in a.rows[:2])
        assert float((first - second).norm() / first.norm()) > 0.1, "rows differ"


def agree(what: str, found: Tensor, expected: Tensor, limit: float = ROUNDING) -> None:
    gap = float((found - expected).norm() / expected.norm())
    assert gap < limit, f"{what} differ by {gap:.1e}"
    assert float(expected.norm()) > 0, f"{what} are nothing"


def main(mode: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    whole = MODES[mode]()
    for module in whole.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model = shard(copy.deepcopy(whole))
    assert is_sharded(model)
    assert not is_sharded(whole)
    assert entrance(model, inner_causal(model)) is model
    assert entrance(whole, inner_causal(whole)) is inner_causal(whole)
    assert model_fingerprint(model.eval()) == model_fingerprint(whole.eval())
    one, two = figures(model), figures(whole)
    for name, found in one.items():
        agree(name, found, two[name])
    total, gradient, said, done = step(model, rank)
    distributed.all_reduce(total)
    agree("rows of all ranks", total, gradient)
    agree("the coming step", said, done, OF_A_STEP)
    with tempfile.TemporaryDirectory() as name:
        # One folder for both ranks, of which the first alone writes.
        shared = [name]
        distributed.broadcast_object_list(shared)
        place = Path(shared[0])
        plain = trained(shard(copy.deepcopy(whole)), rank, place / "plain", Unmonitored())
        accounts, weights = monitored(shard(copy.deepcopy(whole)), rank, place / "sharded")
        assert torch.equal(weights, plain), "training is as without the monitor"
        same_accounts(accounts, monitored(whole, rank, place / "whole")[0])
        distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
