"""One pass over prompts against reading each prompt alone, with autograd for every target's gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import alone
import pytest
import tiny
import torch
from torch import Tensor

from smda_monitor.errors import MeasurementError
from smda_monitor.instruments.behaviour import Behaviour
from smda_monitor.instruments.chat import PromptTokens
from smda_monitor.instruments.dictionary_files import read_dictionary
from smda_monitor.instruments.measurement import Measurement
from smda_monitor.instruments.parameters import TrainedParameters, trained_parameters
from smda_monitor.instruments.probe_reader import ProbeReader
from smda_monitor.maths.opening_tree import build_tree
from smda_monitor.maths.probe_gradients import ChunkedRows, ProbeGradients
from smda_monitor.maths.targets import TargetPlan, plan_targets
from smda_monitor.records.account import READINGS
from smda_monitor.records.probes import Probe

OURS, OTHERS = [(10, 11, 12), (10, 20), (30,)], [(10, 11, 40), (50, 51)]
LAYER, D_SAE = 1, 48
FEATURES = [40, 3, 17, 0, 29, 11, 5]
"""Not in order, and not all: columns follow this list."""
KINDS = ["harmful", "benign", "lookalike", "benign", "harmful", "lookalike"]
LENGTHS = [5, 12, 3, 9, 12, 1]
M = len(KINDS)


def prompts() -> list[PromptTokens]:
    generator = torch.Generator().manual_seed(0)
    ids = [tuple(torch.randint(60, 300, (n,), generator=generator).tolist()) for n in LENGTHS]
    return [PromptTokens(i, (len(i) - 1) // 2 if j % 2 else len(i) - 1) for j, i in enumerate(ids)]


def small(reader: ProbeReader, chunk: int, parameters: TrainedParameters | None = None) -> ProbeReader:
    """`reader` with a budget that just holds `chunk` of the longest prompts."""
    low, high = 0.0, 64.0
    for _ in range(60):
        middle = (low + high) / 2
        fits = replace(reader, memory_gib=middle).chunk_size(max(LENGTHS), parameters) >= chunk
        low, high = (low, middle) if fits else (middle, high)
    return replace(reader, memory_gib=high)


class ByTwo(ProbeReader):
    """Two prompts a chunk, whatever the budget: it also decides how gradients are kept."""

    def chunk_size(self, longest: int, parameters: TrainedParameters | None = None) -> int:
        return 2


def chunked(reader: ProbeReader, chunk: int) -> ProbeReader:
    """`reader` with `chunk` prompts of its M a chunk: all, or two."""
    parts = {field.name: getattr(reader, field.name) for field in fields(reader)}
    return ByTwo(**parts) if chunk == 2 else reader


@dataclass(frozen=True)
class Bench:
    """A tiny model with LoRA and its reader, and the same without any of our code."""

    reader: ProbeReader
    parameters: TrainedParameters
    W_enc: Tensor
    threshold: float

    @property
    def model(self) -> Any:
        return self.reader.model

    def features_alone(self, prompt: PromptTokens, layer: int = LAYER) -> Tensor:
        """relu(h W − θ) of the chosen columns, float32."""
        hidden = alone.hidden_alone(self.model, prompt.ids, layer, prompt.read)
        return torch.relu(hidden @ self.W_enc - self.threshold)[FEATURES]

    def readings_alone(self, prompt: PromptTokens) -> alone.ReadingsAlone:
        return alone.readings_alone(self.model, prompt.ids, OURS, OTHERS)

    def y_alone(self, prompt: PromptTokens, reading: str) -> Tensor:
        value: Tensor = getattr(self.readings_alone(prompt), reading)
        return value

    def gradient(self, scalar: Tensor) -> Tensor:
        found = torch.autograd.grad(scalar, self.parameters.weights, allow_unused=True)
        zeros = [torch.zeros_like(w) for w in self.parameters.weights]
        return torch.cat([(z if g is None else g).reshape(-1) for g, z in zip(found, zeros, strict=True)])


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    from safetensors.torch import load_file

    folder = tiny.write_dictionary(tmp_path_factory.mktemp("dictionary"), d_sae=D_SAE, layer=LAYER)
    model = tiny.tiny_lora(tiny.tiny_llama()).eval()
    behaviour = Behaviour("refusal", ("?",) * 5, (), build_tree(OURS, OTHERS), "mass")
    hook = f"blocks.{LAYER}.hook_resid_post"
    reader = ProbeReader(
        model, behaviour, read_dictionary(folder), hook, "continuous", torch.tensor(FEATURES), 0, memory_gib=1.0
    )
    weights = load_file(Path(folder) / "sae_weights.safetensors")
    return Bench(reader, trained_parameters(model), weights["W_enc"], float(weights["threshold"][0]))


def plan(reading: str) -> TargetPlan:
    generator = torch.Generator().manual_seed(1)
    C = torch.randn(M, len(FEATURES), generator=generator, dtype=torch.float64)
    g = torch.randn(M, generator=generator, dtype=torch.float64)
    w = torch.randn(len(FEATURES), generator=generator, dtype=torch.float64)
    probes = [Probe(f"p{j}", f"prompt {j}", "general", kind) for j, kind in enumerate(KINDS)]
    return plan_targets(probes, 1 + torch.rand(M, generator=generator, dtype=torch.float64), C, g, w, reading)


def gradients(
    reader: ProbeReader, parameters: TrainedParameters, here: TargetPlan | None = None
) -> tuple[Measurement, ProbeGradients]:
    """Of the prompts, for the cotangents of a plan."""
    here = here or plan("mass")
    return reader.gradients(prompts(), here.cotangent_X, here.coef, parameters)


def direction(bench: Bench) -> Tensor:
    return torch.randn(bench.parameters.size, generator=torch.Generator().manual_seed(2))


def close(one: Measurement, other: Measurement, tolerance: float = 1e-5) -> bool:
    pairs = [(one.X, other.X), (one.hidden, other.hidden)]
    names = ("openings", "log_probability", "mass", "contrast")
    pairs += [(getattr(one.readings, n), getattr(other.readings, n)) for n in names]
    return all(torch.allclose(a, b, atol=tolerance, rtol=tolerance) for a, b in pairs)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


# measure


def test_every_figure_is_that_of_the_prompt_alone(bench: Bench) -> None:
    found = bench.reader.measure(prompts())
    with torch.no_grad():
        for j, prompt in enumerate(prompts()):
            expected = bench.readings_alone(prompt)
            assert found.readings.mass[j].item() == pytest.approx(expected.mass.item(), abs=1e-5)
            assert found.readings.contrast[j].item() == pytest.approx(expected.contrast.item(), abs=1e-5)
            probability = expected.log_probability.item()
            assert found.readings.log_probability[j].item() == pytest.approx(probability, abs=1e-5)
            assert torch.allclose(found.readings.openings[j], expected.openings, atol=1e-5)
            hidden = alone.hidden_alone(bench.model, prompt.ids, LAYER, prompt.read)
            assert torch.allclose(found.hidden[j], hidden, atol=1e-5)
            assert torch.allclose(found.X[j], bench.features_alone(prompt), atol=1e-5)
    assert found.X.dtype == torch.float32
    assert found.readings.mass.dtype == torch.float64
    assert 0.1 < float((found.X > 0).float().mean()) < 0.9, "features switch"


def test_mistake_1_the_block_is_read_and_not_the_one_below(bench: Bench) -> None:
    found = bench.reader.measure(prompts())
    with torch.no_grad():
        below = torch.stack([bench.features_alone(p, LAYER - 1) for p in prompts()])
    assert float((found.X - below).abs().max()) > 0.1


def test_mistake_4_columns_follow_the_list_of_ids(bench: Bench) -> None:
    found = bench.reader.measure(prompts()).X
    order = sorted(range(len(FEATURES)), key=FEATURES.__getitem__)
    ascending = replace(bench.reader, feature_ids=torch.tensor(sorted(FEATURES)))
    assert torch.allclose(ascending.measure(prompts()).X, found[:, order], atol=1e-6)
    whole = replace(bench.reader, feature_ids=torch.arange(D_SAE)).measure(prompts()).X
    assert torch.allclose(whole[:, FEATURES], found, atol=1e-6)
    assert not torch.allclose(found[:, order], found, atol=0.1), "the order matters"


@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_neither_chunks_nor_order_matter(bench: Bench, chunk: int) -> None:
    whole = bench.reader.measure(prompts())
    reader = small(bench.reader, chunk)
    assert reader.chunk_size(max(LENGTHS)) == chunk
    assert close(reader.measure(prompts()), whole)
    back = reader.measure(prompts()[::-1])
    assert torch.allclose(back.readings.mass.flip(0), whole.readings.mass, atol=1e-5)
    assert torch.allclose(back.X.flip(0), whole.X, atol=1e-5)
    assert float(whole.readings.mass.diff().abs().min()) > 1e-3, "the prompts differ"


def test_a_pass_that_memory_ran_out_in_goes_on_in_parts(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    here, reader = plan("mass"), bench.reader

    def passes() -> list[Any]:
        whole, found = gradients(reader, bench.parameters, here)
        own, contrast = reader.own(prompts(), bench.parameters)
        moved = reader.feature_gradients(prompts(), lambda X, chunk: X.sum(0), bench.parameters)
        rows = [rows_of(found.S_X, bench).sum(0), rows_of(found.readings["mass"], bench), rows_of(contrast, bench)]
        return [reader.measure(prompts()).X, reader.features(prompts()), whole.X, own.X, moved, *rows]

    def for_two(_module: Any, _args: Any, kwargs: Any) -> None:
        if kwargs["input_ids"].shape[0] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    expected = passes()
    handle = bench.model.get_base_model().model.register_forward_pre_hook(for_two, with_kwargs=True)
    try:
        found = passes()
    finally:
        handle.remove()
    assert all(float((a - b).norm() / b.norm()) < 1e-5 for a, b in zip(found, expected, strict=True))
    assert len(caplog.records) == 2 * 5, "halved twice in each of five passes"


def no_memory(gradient: Tensor) -> None:
    """A hook on a value whose backward finds no memory."""
    if bool(gradient.any()):
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(("lacking", "is_halved"), [(0, True), (1, False)], ids=["at the first", "at the second"])
def test_what_was_added_is_not_added_again(
    bench: Bench, caplog: pytest.LogCaptureFixture, lacking: int, is_halved: bool
) -> None:
    """Memory that runs out at a later feature ends the pass: the first one's part is in already."""

    def of(X: Tensor, chunk: Any) -> Tensor:
        features = list(X.sum(0)[:2])
        features[lacking].register_hook(no_memory)
        return torch.stack(features)

    message = "a pass over one prompt" if is_halved else r"a pass over \d+ prompts: .*lower memory_gib"
    with pytest.raises(MeasurementError, match=message):
        bench.reader.feature_gradients(prompts(), of, bench.parameters)
    assert ("goes on with" in caplog.text) == is_halved


def test_chunks_are_no_larger_than_the_budget_allows(bench: Bench) -> None:
    few = bench.parameters
    none, many = replace(few, tensors=()), replace(few, tensors=few.tensors * 100)
    reader = replace(bench.reader, memory_gib=1e-9)
    assert reader.chunk_size(10, few) == reader.chunk_size(10_000) == 1
    sizes = [replace(bench.reader, memory_gib=2.0**k).chunk_size(50, few) for k in range(-12, 6)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    one = replace(bench.reader, memory_gib=0.25)
    assert one.chunk_size(50) >= one.chunk_size(50, none) > one.chunk_size(50, few) > one.chunk_size(500, few)
    assert one.chunk_size(50, few) > one.chunk_size(50, many) >= 1, "gradients by prompt take their part"
    for chunk in (1, 2, 4, 6):
        tight = small(bench.reader, chunk, few)
        parts = list(tight._chunks(prompts(), few))
        assert sorted(i for part in parts for i in part) == list(range(M))
        for part in parts:
            longest = max(LENGTHS[i] for i in part)
            assert len(part) <= tight.chunk_size(longest, few)


def test_measuring_leaves_no_trace(bench: Bench) -> None:
    before = [p.detach().clone() for p in bench.model.parameters()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in bench.model.modules()]
    found, rows = gradients(bench.reader, bench.parameters)
    bench.reader.own(prompts(), bench.parameters)
    assert not rows.dense(0, bench.parameters.size).requires_grad
    assert not found.X.requires_grad
    assert not found.readings.mass.requires_grad
    assert all(p.grad is None for p in bench.model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, bench.model.parameters(), strict=True))
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in bench.model.modules()] == hooks


# gradients


def rows_of(found: ChunkedRows, bench: Bench) -> Tensor:
    return found.dense(0, bench.parameters.size)


@pytest.mark.parametrize("chunk", [6, 4, 2])
def test_gradients_of_every_prompt_are_autograds(bench: Bench, chunk: int) -> None:
    here = plan("mass")
    reader = chunked(bench.reader, chunk)
    measured, found = gradients(reader, bench.parameters, here)
    assert close(measured, bench.reader.measure(prompts()))
    read = [bench.readings_alone(p) for p in prompts()]
    features = [bench.features_alone(p) for p in prompts()]
    expected = {
        "mass": [r.mass for r in read],
        "contrast": [r.contrast for r in read],
        "explained": [(x * here.coef).sum() for x in features],
    }
    assert list(found.readings) == list(READINGS)
    assert len(found.readings["mass"].chunks) == M // chunk
    for name, scalars in expected.items():
        truth = torch.stack([bench_gradient(bench, scalar) for scalar in scalars])
        rows = rows_of(found.readings[name], bench)
        assert rows.shape == (M, bench.parameters.size)
        for j in range(M):
            assert relative(rows[j], truth[j]) < 2e-5, (name, j)
            assert relative(rows[(j + 1) % M], truth[j]) > 0.1, "prompts differ"
    parts = [(C * x).sum() for C, x in zip(here.cotangent_X, features, strict=True)]
    whole = rows_of(found.S_X, bench).sum(0)
    assert relative(whole, bench_gradient(bench, sum_of(parts))) < 2e-5
    assert relative(whole, bench_gradient(bench, parts[0])) > 0.1
    assert all(rows.rows == 1 or rows.pieces for _, rows in found.S_X.chunks), "a row a chunk where all is kept formed"


@pytest.mark.parametrize("reading", ["mass", "log_probability"])
@pytest.mark.parametrize("chunk", [6, 2])
def test_gradients_of_every_target_are_autograds(bench: Bench, reading: str, chunk: int) -> None:
    """Columns and weights together give each target's own gradient."""
    here = plan(reading)
    reader = chunked(bench.reader, chunk)
    measured, found = gradients(reader, bench.parameters, here)
    columns = found.dense(0, bench.parameters.size)
    assert columns.shape == (1 + len(READINGS) * M, bench.parameters.size)
    saturation = reader.snapshot(0, [f"p{j}" for j in range(M)], measured).saturation
    on_targets = here.weights(saturation).float() @ columns
    read = [bench.readings_alone(p) for p in prompts()]
    features = [bench.features_alone(p) for p in prompts()]
    by_reading = {
        "mass": [r.mass for r in read],
        "contrast": [r.contrast for r in read],
        "explained": [(x * here.coef).sum() for x in features],
    }
    expected: dict[str, Tensor] = {
        "S_X": sum_of((here.cotangent_X[j] * x).sum() for j, x in enumerate(features)),
        "S_Y": sum_of(here.cotangent_y[j] * getattr(r, reading) for j, r in enumerate(read)),
    }
    for name, values in by_reading.items():
        for kind, row in zip(("harmful", "lookalike", "benign"), here.groups, strict=True):
            expected[f"{name}.{kind}"] = sum_of(row[j] * value for j, value in enumerate(values))
    assert list(here.names) == list(expected)
    for k, name in enumerate(here.names):
        truth = bench_gradient(bench, expected[name])
        assert relative(on_targets[k], truth) < 2e-5, name
        assert relative(on_targets[(k + 1) % len(here.names)], truth) > 0.1, "targets differ"


def sum_of(values: Any) -> Tensor:
    return torch.stack(list(values)).sum()


def bench_gradient(bench: Bench, scalar: Tensor) -> Tensor:
    weights = bench.parameters.weights
    found = torch.autograd.grad(scalar, weights, allow_unused=True, retain_graph=True)
    return torch.cat(
        [(torch.zeros_like(w) if g is None else g).reshape(-1) for g, w in zip(found, weights, strict=True)]
    )


def test_a_range_of_elements_is_that_part(bench: Bench) -> None:
    _, found = gradients(small(bench.reader, 2, bench.parameters), bench.parameters)
    whole = found.dense(0, bench.parameters.size)
    for start, stop in ((0, 1), (5, 77), (bench.parameters.size - 3, bench.parameters.size)):
        assert torch.allclose(found.dense(start, stop), whole[:, start:stop], rtol=1e-5, atol=1e-6)


def test_gradients_that_take_much_of_the_budget_are_kept_in_half_precision(bench: Bench) -> None:
    _, found = gradients(bench.reader, bench.parameters)
    whole = 4 * 4 * M * bench.parameters.size / 2**30
    _, tight = gradients(replace(bench.reader, memory_gib=7.9 * whole), bench.parameters)
    _, ample = gradients(replace(bench.reader, memory_gib=8.1 * whole), bench.parameters)
    for gradient, kind in ((found, torch.float32), (ample, torch.float32), (tight, torch.bfloat16)):
        chunks = [rows for reading in gradient.readings.values() for _, rows in reading.chunks]
        assert {rows.matrix.dtype for rows in chunks} == {kind}
    size = bench.parameters.size
    assert relative(tight.dense(0, size), found.dense(0, size)) < 2**-8
    assert relative(tight.dense(0, size), found.dense(0, size)) > 1e-5


@pytest.mark.parametrize("reading", ["mass", "contrast"])
def test_the_derivative_is_what_a_small_step_does(bench: Bench, reading: str) -> None:
    """Central differences, so that no derivative is trusted at all."""
    along = direction(bench)
    _, rows = gradients(bench.reader, bench.parameters)
    found = rows_of(rows.readings[reading], bench).double() @ along.double()
    model = tiny.tiny_lora(tiny.tiny_llama()).double().eval()
    layers = trained_parameters(model).tensors
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for layer in layers:
                part = along[layer.start : layer.stop].reshape(layer.parameter.shape).double()
                layer.parameter.add_(part, alpha=1e-3 if sign > 0 else -2e-3)
            read = [alone.readings_alone(model, p.ids, OURS, OTHERS) for p in prompts()]
            values.append(torch.stack([getattr(r, reading) for r in read]))
    difference = (values[0] - values[1]) / 2e-3
    assert relative(found, difference) < 2e-3


def test_a_layer_above_the_hookpoint_does_not_move_features(bench: Bench) -> None:
    _, found = gradients(bench.reader, bench.parameters)
    above = [layer for layer in bench.parameters.tensors if f".layers.{LAYER + 1}." in layer.name]
    assert above
    for layer in above:
        for rows in (found.S_X, found.readings["explained"]):
            assert not bool(rows.dense(layer.start, layer.stop).any())
        assert bool(found.readings["mass"].dense(layer.start, layer.stop).any())


def test_mistake_2_features_that_are_off_do_not_move(bench: Bench) -> None:
    """A pathway through closed features alone has no gradient; without the gate it would."""
    X = bench.reader.measure(prompts()).X
    off = (X == 0).double()
    assert 0 < int(off.sum()) < off.numel()
    _, found = gradients(bench.reader, bench.parameters, replace(plan("mass"), cotangent_X=off))
    assert not bool(rows_of(found.S_X, bench).any())
    ungated = sum_of(
        (off[j] * (alone.hidden_alone(bench.model, p.ids, LAYER, p.read) @ bench.W_enc)[FEATURES]).sum()
        for j, p in enumerate(prompts())
    )
    assert float(bench.gradient(ungated).norm()) > 1


# own prompts


@pytest.mark.parametrize("chunk", [6, 2])
def test_own_prompts_gradients_are_of_their_contrast(bench: Bench, chunk: int) -> None:
    reader = small(bench.reader, chunk, bench.parameters)
    measured, rows = reader.own(prompts(), bench.parameters)
    assert close(measured, bench.reader.measure(prompts()))
    truth = torch.stack([bench.gradient(bench.readings_alone(p).contrast) for p in prompts()])
    found = rows_of(rows, bench)
    for j in range(M):
        assert relative(found[j], truth[j]) < 2e-5
    assert relative(found.flip(0), truth) > 0.1


def test_own_prompts_gradients_that_take_much_are_kept_in_half_precision(bench: Bench) -> None:
    whole = 4 * 8 * M * bench.parameters.size / 2**30
    kinds = {0.9: torch.bfloat16, 1.1: torch.float32}
    for part, kind in kinds.items():
        _, rows = replace(bench.reader, memory_gib=part * whole).own(prompts(), bench.parameters)
        assert {chunk.matrix.dtype for _, chunk in rows.chunks} == {kind}


# snapshots and failures


def test_a_snapshot_holds_what_was_measured(bench: Bench) -> None:
    measured = bench.reader.measure(prompts())
    ids = [f"p{j}" for j in range(M)]
    found = bench.reader.snapshot(4, ids, measured)
    assert (found.step, found.probe_ids) == (4, tuple(ids))
    assert torch.equal(found.y, measured.readings.mass)
    assert torch.equal(found.contrast, measured.readings.contrast)
    paper = replace(bench.reader, behaviour=replace(bench.reader.behaviour, reading="log_probability"))
    assert torch.equal(paper.snapshot(4, ids, measured).y, measured.readings.log_probability)
    h = measured.hidden.double()
    z = h @ bench.W_enc.double()
    active = z > bench.threshold
    decoded = torch.where(active, z, torch.zeros_like(z)) @ bench.W_enc.double().T
    fvu = (h - decoded).square().sum() / (h - h.mean(0)).square().sum()
    assert found.health.fvu == pytest.approx(float(fvu), rel=1e-4)
    assert found.health.l0 == pytest.approx(float(active.sum(1).double().mean()))
    assert found.health.dead == pytest.approx(float((~active.any(0)).double().mean()))


@pytest.mark.parametrize("gate", ["relu_proxy", "native"])
def test_mistake_7_the_encoder_is_the_one_asked_for(bench: Bench, gate: str) -> None:
    found = replace(bench.reader, gate=gate).measure(prompts())
    z = (found.hidden @ bench.W_enc)[:, FEATURES]
    expected = torch.relu(z) if gate == "relu_proxy" else torch.where(z > bench.threshold, z, torch.zeros_like(z))
    assert torch.allclose(found.X, expected, atol=1e-5)
    assert not torch.allclose(found.X, bench.reader.measure(prompts()).X, atol=1e-3)


WAYS: dict[str, Callable[[ProbeReader, TrainedParameters], object]] = {
    "measure": lambda reader, _: reader.measure(prompts()),
    "gradients": gradients,
    "own": lambda reader, parameters: reader.own(prompts(), parameters),
}


@pytest.mark.parametrize("way", WAYS)
def test_nan_is_named_with_its_prompt(bench: Bench, way: str) -> None:
    broken: Any = tiny.tiny_lora(tiny.tiny_llama()).eval()
    rare = prompts()[3].ids[0]
    assert [rare in p.ids for p in prompts()] == [j == 3 for j in range(M)]
    with torch.no_grad():
        broken.get_input_embeddings().weight[rare] = float("nan")
    reader, parameters = replace(bench.reader, model=broken), trained_parameters(broken)
    with pytest.raises(MeasurementError, match=r"prompt number 3: found NaN or Inf.*learning rate"):
        WAYS[way](reader, parameters)
