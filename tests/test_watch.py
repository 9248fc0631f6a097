"""Both ways to a row's push on watched features, against autograd and against steps taken again without the row."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import alone
import pytest
import tiny
import torch
from test_pathways import make_policy
from torch import Tensor

from smda_monitor.errors import MeasurementError
from smda_monitor.instruments.behaviour import Behaviour
from smda_monitor.instruments.chat import PromptTokens
from smda_monitor.instruments.dictionary_files import read_dictionary
from smda_monitor.instruments.hookpoint import ResidualTap
from smda_monitor.instruments.optimizer_step import read_step
from smda_monitor.instruments.parameters import TrainedParameters, trained_parameters
from smda_monitor.instruments.probe_reader import ProbeReader
from smda_monitor.instruments.quiet import quiet
from smda_monitor.instruments.watch import pushes_by_backward, pushes_by_replay
from smda_monitor.maths.opening_tree import build_tree
from smda_monitor.maths.pathways import PolicyFrame, feature_shift
from smda_monitor.maths.row_gradients import RowGradients
from smda_monitor.maths.split import TakenStep, step_gradient
from smda_monitor.maths.watched import WatchedShifts

LAYER, D_SAE, N, MAX_NORM = 1, 48, 3, 0.7
FEATURES = [40, 3, 17, 0, 29, 11, 5]
COLUMNS = [2, 6, 0, 3]
LENGTHS = [5, 12, 3, 9, 12, 1]
ROWS = torch.tensor([4, 0, 11, 7, 2, 13])


def prompts() -> list[PromptTokens]:
    generator = torch.Generator().manual_seed(0)
    ids = [tuple(torch.randint(60, 300, (n,), generator=generator).tolist()) for n in LENGTHS]
    return [PromptTokens(i, (len(i) - 1) // 2 if j % 2 else len(i) - 1) for j, i in enumerate(ids)]


@dataclass
class Scene:
    """A model after a step of AdamW, and the same model after that step without each row."""

    reader: ProbeReader
    parameters: TrainedParameters
    taken: TakenStep
    watched: WatchedShifts
    frame: PolicyFrame
    weights: Tensor
    without: list[Any]
    W_enc: Tensor

    @property
    def ways(self) -> dict[str, Any]:
        return {"backward": pushes_by_backward, "replay": pushes_by_replay}

    def pushes(self, way: str, memory_gib: float = 1.0) -> Tensor:
        reader = replace(self.reader, memory_gib=memory_gib)
        found: Tensor = self.ways[way](reader, prompts(), self.watched, self.parameters, self.taken)
        return found

    def X(self, model: Any) -> Tensor:
        """Features without any of our code."""
        hidden = torch.stack([alone.hidden_alone(model, p.ids, LAYER, p.read) for p in prompts()])
        return torch.relu(hidden @ self.W_enc - 0.05)[:, FEATURES]

    def shift(self, delta_X: Tensor) -> Tensor:
        return feature_shift(self.frame, ROWS, delta_X, self.weights)[COLUMNS]


def scene(folder: Path, lr: float, hook: str = f"blocks.{LAYER}.hook_resid_post") -> Scene:
    from safetensors.torch import load_file

    tiny.write_dictionary(folder, d_sae=D_SAE, layer=LAYER)
    model = tiny.tiny_lora(tiny.tiny_llama()).eval()
    parameters = trained_parameters(model)
    behaviour = Behaviour("refusal", ("?",) * 3, (), build_tree([(10, 11, 12), (10, 20)], [(50, 51)]), "mass")
    reader = ProbeReader(
        model, behaviour, read_dictionary(folder), hook, "continuous", torch.tensor(FEATURES), 0, memory_gib=1.0
    )
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.1)
    for _ in range(4):
        step(optimizer, parameters, draw(parameters.size))
    rows = draw(N, parameters.size)
    gradient = clipped(rows.sum(0))
    matrix = RowGradients.of(rows)
    for weight, part in zip(parameters.weights, parameters.split(gradient), strict=True):
        weight.grad = part.clone()
    taken = TakenStep(5, step_gradient(matrix, gradient, MAX_NORM), read_step(optimizer, parameters))
    without = []
    for i in range(N):
        memo: dict[int, Any] = {}
        twin = copy.deepcopy(model, memo)
        other = torch.optim.AdamW(twin.parameters(), lr=lr, weight_decay=0.1)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        step(other, trained_parameters(twin), clipped(rows.sum(0) - rows[i]))
        without.append(twin)
    step(optimizer, parameters, gradient)
    policy = make_policy(torch.rand(14, len(FEATURES), generator=generator), draw(14).double(), True)
    frame, weights = PolicyFrame.of(policy), 1 + torch.rand(len(ROWS), generator=generator).double()
    watched = WatchedShifts.of(frame, ROWS, weights, COLUMNS)
    W_enc = load_file(folder / "sae_weights.safetensors")["W_enc"]
    return Scene(reader, parameters, taken, watched, frame, weights, without, W_enc)


def clipped(total: Tensor) -> Tensor:
    return total * min(1.0, MAX_NORM / (float(total.norm()) + 1e-6))


def step(optimizer: Any, parameters: TrainedParameters, gradient: Tensor) -> None:
    for weight, part in zip(parameters.weights, parameters.split(gradient), strict=True):
        weight.grad = part.clone()
    optimizer.step()
    optimizer.zero_grad()


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return scene(tmp_path_factory.mktemp("large"), 0.2)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return scene(tmp_path_factory.mktemp("small"), 5e-3)


@pytest.mark.parametrize("memory_gib", [1.0, 1e-9])
def test_replay_is_the_step_taken_again_without_the_row(large: Scene, memory_gib: float) -> None:
    with torch.no_grad():
        end = large.X(large.reader.model).double()
        truth = torch.stack([large.shift(end - large.X(twin).double()) for twin in large.without])
    found = large.pushes("replay", memory_gib)
    assert found.shape == (N, len(COLUMNS))
    assert relative(found, truth) < 1e-3
    assert relative(found.roll(1, 0), truth) > 0.1, "rows differ"
    assert relative(found.roll(1, 1), truth) > 0.1, "features differ"
    assert relative(large.pushes("backward"), truth) > 5e-3, "the step is finite: first order is not enough"


@pytest.mark.parametrize("memory_gib", [1.0, 1e-9])
def test_backward_is_autograds(large: Scene, memory_gib: float) -> None:
    model = large.reader.model
    end = large.parameters.flatten(large.parameters.weights).double()
    delta = torch.stack([end - (p := trained_parameters(t)).flatten(p.weights).double() for t in large.without])
    shifts = large.shift(large.X(model))
    truth = torch.zeros(N, len(COLUMNS), dtype=torch.float64)
    for k, shift in enumerate(shifts):
        found = torch.autograd.grad(shift, large.parameters.weights, retain_graph=True, allow_unused=True)
        pairs = zip(found, large.parameters.weights, strict=True)
        flat = torch.cat([(torch.zeros_like(w) if g is None else g).reshape(-1) for g, w in pairs])
        truth[:, k] = delta @ flat.double()
    assert relative(large.pushes("backward", memory_gib), truth) < 2e-4
    assert relative(large.pushes("backward").roll(1, 0), truth) > 0.1


def test_both_ways_agree_to_first_order(large: Scene, small: Scene) -> None:
    apart = [relative(s.pushes("backward"), s.pushes("replay")) for s in (large, small)]
    assert apart[1] < 5e-3
    assert apart[1] < apart[0] / 3, "and only to first order"


@pytest.mark.parametrize("kind", ["post", "pre"])
def test_features_alone_are_those_of_a_whole_pass(tmp_path: Path, kind: str) -> None:
    reader = scene(tmp_path, 1e-3, f"blocks.{LAYER}.hook_resid_{kind}").reader
    for memory_gib in (1.0, 1e-9):
        here = replace(reader, memory_gib=memory_gib)
        assert torch.equal(here.features(prompts()), here.measure(prompts()).X)
    ran: list[int] = []
    layers = reader.model.get_submodule("base_model.model.model.layers")
    handles = [layer.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, layer in enumerate(layers.children())]
    reader.features(prompts())
    for handle in handles:
        handle.remove()
    assert ran == [*range(LAYER + (kind == "post"))], "nothing above the hookpoint ran"


@pytest.mark.parametrize("way", ["backward", "replay"])
def test_nothing_is_left_behind(large: Scene, way: str) -> None:
    model: Any = large.reader.model

    def state() -> Any:
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), m.training) for m in model.modules()]
        tensors = [(p.data_ptr(), p.grad is None, p.requires_grad) for p in model.parameters()]
        return hooks, tensors, random.getstate()[1], torch.get_rng_state().tolist(), torch.is_grad_enabled()

    def measured() -> None:
        with quiet(model):  # as the monitor does: transformers draws from Python's generator
            large.pushes(way)

    before, values = state(), [p.detach().clone() for p in model.parameters()]
    measured()
    assert state() == before
    assert all(torch.equal(a, b) for a, b in zip(values, model.parameters(), strict=True))
    # Also where a measurement fails in the middle.
    calls: list[int] = []

    def fails(*_: Any) -> None:
        calls.append(1)
        if len(calls) > 1 or way == "backward":
            raise MeasurementError("in the middle")

    handle = model.get_submodule("base_model.model.model.layers.0").register_forward_hook(fails)
    with pytest.raises(MeasurementError, match="in the middle"):
        measured()
    handle.remove()
    assert state() == before
    assert all(torch.equal(a, b) for a, b in zip(values, model.parameters(), strict=True))


def test_what_trains_above_the_hookpoint_moves_no_feature(large: Scene) -> None:
    for parameter in (t.parameter for t in large.parameters.tensors if f".layers.{LAYER + 1}." not in t.name):
        parameter.requires_grad_(False)
    above = trained_parameters(large.reader.model)
    found = large.reader.feature_gradients(prompts(), large.watched.through_features, above)
    for tensor in large.parameters.tensors:
        tensor.parameter.requires_grad_(True)
    assert found.shape == (len(COLUMNS), above.size)
    assert above.size > 0
    assert not bool(found.any())


def test_a_broken_activation_is_named(large: Scene) -> None:
    weight = large.reader.model.get_submodule("base_model.model.model.layers.0.mlp.down_proj").weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
    with pytest.raises(MeasurementError, match=r"snapshot, prompt number 0: found NaN or Inf"):
        large.reader.features(prompts())
    with torch.no_grad():
        weight.copy_(kept)


def test_an_error_of_the_forward_passes_through(large: Scene) -> None:
    def breaks() -> None:
        raise ZeroDivisionError

    with ResidualTap(large.reader.model, large.reader.hook) as tap:
        with pytest.raises(ZeroDivisionError):
            tap.run(breaks)
        with pytest.raises(MeasurementError, match="no forward pass through the block"):
            tap.run(lambda: None)
        ids = torch.tensor([prompts()[0].ids])
        stream = tap.run(lambda: large.reader.model(input_ids=ids, use_cache=False))
        whole = large.reader.model(input_ids=ids, use_cache=False).logits
        assert torch.equal(tap.take(), stream), "a forward that is not run by it goes through"
        assert whole.shape[:2] == ids.shape
