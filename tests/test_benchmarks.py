"""The benchmarks' own machinery on a tiny random model: exact replays, rivals' formulas, what is written."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import TrainerCallback

sys.path.insert(0, str(Path(__file__).parent.parent / "recipes" / "benchmarks"))
import _dattri
import _rivals
import audit_memory
import fidelity
import overhead
from _agreement import Collected, StepFigures, judge
from _bed import Bed, make_bed
from _conditions import _per_step
from _growth import Growth
from _leave_one_out import leave_one_out, undone
from _replay import LateMonitor, Replayer
from _settings import Settings, monitor_config
from _show import number
from _slices import slices

from smda_monitor.errors import PrerequisiteError
from smda_monitor.instruments.config_file import load_config
from smda_monitor.maths.row_gradients import RowGradients
from smda_monitor.outputs.files import to_json

KINDS = ("harmful", "lookalike", "benign")
TARGETS = ("S_X", "S_Y", *(f"mass.{k}" for k in KINDS), *(f"contrast.{k}" for k in KINDS))


class Trained:
    """Two weights, some steps of an optimizer behind them, and the rows of the coming step."""

    def __init__(self, kind: type[torch.optim.Optimizer], **settings: Any) -> None:
        generator = torch.Generator().manual_seed(0)
        self.weights = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((4, 3), (5,))]
        self.optimizer = kind(self.weights, **settings)
        self.rows = torch.randn(6, 17, generator=generator)
        for scale in (1.0, 0.3, -0.2):
            self.put(scale * self.rows.sum(0))
            self.optimizer.step()
        self.put(self.rows.sum(0))

    def put(self, gradient: Tensor) -> None:
        parts = gradient.split([12, 5])
        for weight, part in zip(self.weights, parts, strict=True):
            weight.grad = part.reshape(weight.shape).clone()

    def bits(self) -> list[Any]:
        """Everything that must be as before: values, and which objects hold them."""
        state = self.optimizer.state
        held = [(k, v) for w in self.weights for k, v in state.get(w, {}).items() if v is not None]
        tensors = [*self.weights, *(w.grad for w in self.weights), *(v for _, v in held)]
        values = [torch.as_tensor(t).detach().numpy().tobytes() for t in tensors]
        return [id(state), [id(t) for t in tensors], values, [k for k, _ in held]]

    def flat(self) -> Tensor:
        return torch.cat([w.detach().double().reshape(-1) for w in self.weights])


OPTIMIZERS = [
    (torch.optim.AdamW, {"lr": 1e-2, "fused": True, "weight_decay": 0.1}),
    (torch.optim.Adam, {"lr": 1e-2, "amsgrad": True, "foreach": True}),
    (torch.optim.SGD, {"lr": 1e-2, "momentum": 0.9}),
]


@pytest.mark.parametrize(("kind", "settings"), OPTIMIZERS, ids=["fused AdamW", "amsgrad", "SGD"])
@pytest.mark.parametrize("max_norm", [0.0, 1e3, 0.5], ids=["off", "idle", "biting"])
def test_a_row_left_out_is_the_step_without_it_and_nothing_stays(
    kind: type[torch.optim.Optimizer], settings: dict[str, Any], max_norm: float
) -> None:
    here = Trained(kind, **settings)
    before = here.bits()
    found = leave_one_out(here.optimizer, here.weights, 6, RowGradients.of(here.rows), max_norm, here.flat)
    assert here.bits() == before
    ends = []
    for left_out in (None, *range(6)):
        other = Trained(kind, **settings)
        rows = here.rows if left_out is None else torch.cat([here.rows[:left_out], here.rows[left_out + 1 :]])
        other.put(rows.double().sum(0).float())
        if max_norm:
            nn.utils.clip_grad_norm_(other.weights, max_norm, foreach=False)
        other.optimizer.step()
        ends.append(other.flat())
    truth = torch.stack([ends[0] - end for end in ends[1:]])
    assert float(truth.abs().min(0).values.max()) > 1e-5, "every row must move something"
    torch.testing.assert_close(found, truth, rtol=1e-3, atol=3e-7)


def test_what_was_rehearsed_is_undone_after_an_error_and_a_weight_without_gradient_stands_still() -> None:
    here = Trained(torch.optim.AdamW, lr=1e-2, weight_decay=0.1)
    here.weights[1].grad = None
    still = here.weights[1].detach().clone()
    before = (id(here.optimizer.state), here.flat(), here.weights[0].grad)
    seen: list[Tensor] = []

    def fails() -> None:
        with undone(here.optimizer, here.weights) as step:
            step([torch.ones(4, 3), torch.ones(5)])
            seen.extend(w.detach().clone() for w in here.weights)
            raise RuntimeError("the probe failed")

    with pytest.raises(RuntimeError, match="the probe failed"):
        fails()
    assert not torch.equal(seen[0].double().reshape(-1), before[1][:12])
    assert torch.equal(seen[1], still)
    assert id(here.optimizer.state) == before[0]
    assert torch.equal(here.flat(), before[1])
    assert here.weights[0].grad is before[2]
    assert here.weights[1].grad is None


def test_a_scheduler_does_not_count_rehearsed_steps() -> None:
    here = Trained(torch.optim.AdamW, lr=1e-2)
    scheduler = torch.optim.lr_scheduler.LambdaLR(here.optimizer, lambda step: 1.0)
    with undone(here.optimizer, here.weights) as step:
        step([torch.ones(4, 3), torch.ones(5)])
    here.optimizer.step()
    scheduler.step()
    assert scheduler._step_count == 2


@pytest.mark.parametrize("longest", [1, 5, 12, 100])
def test_slices_are_the_flat_vector_in_order(longest: int) -> None:
    weights = [torch.arange(12.0).reshape(4, 3), torch.arange(12.0, 17.0)]
    pieces = list(slices(weights, longest))
    found = torch.cat([weights[p.parameter].reshape(-1)[p.inside] for p in pieces])
    assert torch.equal(found, torch.arange(17.0))
    assert [p.start for p in pieces] == [0, *(p.stop for p in pieces[:-1])]
    assert pieces[-1].stop == 17
    assert max(p.stop - p.start for p in pieces) <= longest


def test_replays_do_not_depend_on_how_the_vector_is_cut() -> None:
    here = Trained(torch.optim.AdamW, lr=1e-2)
    whole, cut = (
        leave_one_out(here.optimizer, here.weights, 6, RowGradients.of(here.rows), 0.5, here.flat, longest)
        for longest in (100, 3)
    )
    torch.testing.assert_close(cut, whole, rtol=1e-6, atol=1e-8)


def test_rivals_are_their_formulas_written_out_by_hand() -> None:
    at = _rivals.Moments(
        torch.tensor([0.3, -0.2]).double(), torch.tensor([0.04, 0.0]).double(), 3, 0.1, 0.9, 0.99, 1e-8
    )
    g, target = torch.tensor([[2.0, -1.0]]), torch.tensor([[1.0, 10.0]])
    found = _rivals.scores(g, target, at)
    assert float(found["raw_dot"]) == pytest.approx(-0.1 * (2 * 1 - 1 * 10))
    assert float(found["bergson"]) == pytest.approx(-0.1 * (2 / (0.2 + 1e-8) - 10 / 1e-8))
    bc1, bc2 = 1 - 0.9**3, 1 - 0.99**3
    terms = []
    for m, v, x, towards in ((0.3, 0.04, 2.0, 1.0), (-0.2, 0.0, -1.0, 10.0)):
        m_new, v_new = (0.9 * m + 0.1 * x) / bc1, (0.99 * v + 0.01 * x * x) / bc2
        terms.append(-0.1 * m_new / (math.sqrt(v_new) + 1e-8) * towards)
    assert float(found["less"]) == pytest.approx(sum(terms))


def test_less_of_the_whole_gradient_is_the_step_that_torch_takes() -> None:
    here = Trained(torch.optim.AdamW, lr=1e-2, weight_decay=0.0)
    whole = here.rows.sum(0, keepdim=True)
    pieces = [_rivals.moments(here.optimizer, w).part(slice(0, w.numel())) for w in here.weights]
    said = torch.cat([_rivals.less(g.double(), at) for g, at in zip(whole.split([12, 5], 1), pieces, strict=True)], 1)
    before = here.flat()
    here.optimizer.step()
    assert pieces[0].t == 4
    torch.testing.assert_close(said[0], here.flat() - before, rtol=1e-3, atol=1e-6)


def test_moments_before_the_first_step_are_zero() -> None:
    weight = nn.Parameter(torch.ones(3))
    at = _rivals.moments(torch.optim.AdamW([weight], lr=0.5), weight)
    assert (at.t, at.lr, float(at.m.abs().sum() + at.v.abs().sum())) == (1, 0.5, 0.0)


def _figures(truth: list[float], said: list[float], rounding: float, unexplained: float = 0.1) -> StepFigures:
    noise = torch.tensor([rounding, -rounding]).double()
    return StepFigures(torch.tensor(truth).double(), {"push": torch.tensor(said).double()}, noise, unexplained)


def test_agreement_on_a_constructed_truth() -> None:
    first = _figures([1.0, 2.0, -4.0, 0.002], [1.1, 2.0, -5.0, 77.0], 0.001, 0.1)
    second = _figures([1.0, 2.0, 3.0], [3.0, 2.0, 1.0], 0.001, 0.5)
    found = judge([first, second, _figures([1.0], [1.0], 0.001, 0.2)])
    push = found.by_method["push"]
    assert (found.rows, found.left_out) == (7, 1), "an effect of twice the noise is not judged"
    assert found.floor == pytest.approx(0.003)
    assert push.spearman == pytest.approx(0.0), "+1 and −1; a step of one row has no rank"
    assert push.relative_error == pytest.approx(0.1)
    assert push.worst == pytest.approx(2.0)
    assert found.unexplained == 0.2


def test_nothing_above_the_noise_gives_no_figure_and_json_null() -> None:
    found = Collected()
    found.add("S_X", _figures([0.1, 0.2, 0.3], [0.1, 0.2, 0.3], 1.0))
    judged = found.judged()["S_X"]
    assert (judged.rows, judged.left_out) == (0, 3)
    push = json.loads(to_json(asdict(judged)))["by_method"]["push"]
    assert push == {"spearman": None, "relative_error": None, "worst": None}
    assert number(judged.by_method["push"].worst) == "–"


def test_settings_are_written_over_the_configuration_and_leave_it_as_it_is(tmp_path: Path) -> None:
    base = {"seed": 3, "account": {"every": 5, "watched_drifting": 2}}
    config = load_config(monitor_config(base, Settings(per_step=7, own_prompts=True, every=8), tmp_path))
    assert (config.probes.per_step, config.probes.own_prompts, config.outputs.wandb, config.seed) == (7, True, False, 3)
    assert (config.account.every, config.account.watched_drifting) == (8, 2)
    assert base == {"seed": 3, "account": {"every": 5, "watched_drifting": 2}}


def test_growth_is_the_exponent() -> None:
    assert Growth((2, 4, 8), (3.0, 12.0, 48.0), "s").exponent == pytest.approx(2.0)
    assert Growth((2, 4, 8), (5.0, 5.0, 5.0), "s").exponent == pytest.approx(0.0, abs=1e-12)


def test_a_step_costs_its_part_of_the_account_that_covers_it() -> None:
    ends = [1.0, 2.0, 3.0, 4.0, 15.0, 16.0]  # steps of 1 s, but for one with a snapshot
    assert _per_step(ends, 1) == [1.0, 1.0, 1.0, 11.0, 1.0]
    assert _per_step(ends, 4) == [14.0 / 4]
    assert _per_step([], 4) == []


@pytest.mark.parametrize("part", ["lora", "full"])
def test_training_does_not_notice_the_replays(tmp_path: Path, part: str) -> None:
    bed = make_bed("tiny", tmp_path / "bed")
    rows, ends, seen = bed.demo_rows(), [], []
    for watched in (True, False):
        model = bed.model(part)
        if part == "lora":
            config = monitor_config(bed.config, Settings(per_step=12), tmp_path / f"run-{watched}")
            monitor = LateMonitor(config, rows, after=1)
            callbacks = [monitor, Replayer(monitor)] if watched else [monitor]
        else:  # without the monitor: what it accounts for is its own affair
            callbacks = [Rehearses(seen)] if watched else []
        trainer = bed.trainer(model, rows, callbacks, max_steps=4, per_device_train_batch_size=4, learning_rate=1e-3)
        trainer.train()
        seen += [len(steps) for c in callbacks if isinstance(c, Replayer) for steps in c.collected.by_target.values()]
        ends.append([p.detach().clone() for p in model.parameters()])
    assert set(seen) == ({3} if part == "lora" else {4}), "the replays did happen"
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


class Rehearses(TrainerCallback):
    """Takes every step of a fully tuned model with two other gradients, and notes how many figures that gave."""

    def __init__(self, seen: list[int]) -> None:
        self.seen = seen

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        weights = [w for w in kwargs["model"].parameters() if w.requires_grad]
        generator = torch.Generator().manual_seed(0)
        rows = RowGradients.of(torch.randn(4, sum(w.numel() for w in weights), generator=generator))
        found = leave_one_out(kwargs["optimizer"], weights, 4, rows, 1.0, lambda: weights[0].detach()[:2, 0].clone())
        assert float(found.abs().max()) > 0
        self.seen.append(len(found))


def test_fidelity_writes_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--steps", "2", "--warm-up", "6", "--batch", "4", "--probes", "12"]
    out = tmp_path / "figures.json"
    code = fidelity.main(["--model", "tiny", "--clipping", "all", *size, "--json", str(out)])
    assert code == 0
    found = json.loads(out.read_text())
    for part, runs, error in (("lora", 3, 0.05), ("full", 1, 0.1)):  # of full there are few rows
        assert set(found[part]["targets"]) >= set(TARGETS)
        for name, target in found[part]["targets"].items():
            assert set(target["rivals"]) == {"raw_dot", "less", "bergson"}
            assert target["rows"] + target["left_out"] == runs * 2 * 4
            assert target["unexplained"] >= 0
            assert target["noise_floor"] > 0, "the other library's products are rounded in another way"
            for method in (target["push"], target["share"], *target["rivals"].values()):
                assert -1 <= method["spearman"] <= 1
                assert method["relative_error"] >= 0
            assert target["push"]["worst"] >= target["push"]["relative_error"]
            if name != "S_X":  # the gate's kinks: features of a random dictionary switch all the time
                assert target["push"]["spearman"] > 0.9
                assert target["push"]["relative_error"] < error
                assert target["rivals"]["bergson"]["relative_error"] > 1, "the figures tell methods apart"
    assert set(found["lora"]["clipping"]) == {"off", "idle", "biting"}
    assert "clipping" not in found["full"]
    biting, off = found["lora"]["clipping"]["biting"], found["lora"]["clipping"]["off"]
    assert biting["S_Y"]["push"] != off["S_Y"]["push"], "clipping must do something"
    assert "mass.harmful" in capsys.readouterr().out


class LoRAAlone(Bed):
    """A test bed whose model trains in LoRA alone."""

    def model(self, part: str) -> Any:
        if part == "full":
            raise PrerequisiteError("too large for this machine")
        return super().model(part)


def lora_alone(name: str, folder: Path, seed: int) -> Bed:
    bed = make_bed(name, folder, seed)
    return LoRAAlone(bed.name, bed.folder, bed.config, bed.tokenizer, bed.seed)


def test_a_part_that_is_refused_fails_fidelity_and_the_other_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "figures.json"
    size = ["--steps", "1", "--warm-up", "2", "--batch", "4", "--probes", "12"]
    assert fidelity.main(["--model", "tiny", *size, "--json", str(out)], lora_alone) == 2
    found = json.loads(out.read_text())
    assert found["full"] is None
    assert set(found["lora"]["targets"]) >= set(TARGETS)
    assert "fidelity, full: not accounted for. too large for this machine" in capsys.readouterr().err


def test_fidelity_says_what_cannot_be_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fidelity.main(["--max-grad-norm", "-1"])
    assert "off, idle, biting" in capsys.readouterr().err


def test_overhead_writes_every_figure_part_by_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures.json"
    asked = ["--model", "tiny", "--quick", "--rows", "4", "--tokens", "32", "--json", str(out), "--part"]
    assert overhead.main([*asked, "memory"]) == 0
    first = json.loads(out.read_text())
    assert (first["plain"]["memory"], first["plain"]["wall"], first["growth"]) == (1, None, {})
    assert overhead.main([*asked, "times", "growth"]) == 0
    found = json.loads(out.read_text())
    assert found["interval_1"]["peak_bytes"] == first["interval_1"]["peak_bytes"], "it stays"
    assert overhead.measured_before(out, {**found["settings"], "seed": 1}, ["plain"])["plain"]["memory"] is None
    for name in ("plain", "capture", "interval_1", "interval_8", "interval_8_own_prompt"):
        assert 0 < found[name]["wall"] < 1e3
        assert found[name]["spread"] >= 1
    assert found["plain"]["wall"] == 1
    assert 0.5 < found["interval_1"]["memory"] < 4
    assert found["history"]["memory"] > 0
    assert set(found["growth"]) >= {"probes", "rows", "features", "steps", "steps_wandb"}
    # No bounds on times: other processes may hold the cores.
    assert all(math.isfinite(exponent) for exponent in found["growth"].values())
    for name in ("steps", "steps_wandb"):
        assert 0.3 < found["growth"][name] < 1.1, "a ledger and W&B's history grow, and no faster than their run"
    assert all(cost > 0 for factor in found["growth_measured"].values() for cost in factor["costs"])
    assert ("not installed" in capsys.readouterr().out) == (not _dattri.installed())


def test_overhead_of_chosen_ways_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures.json"
    asked = ["--model", "tiny", "--quick", "--rows", "4", "--tokens", "32", "--part", "times", "--json", str(out)]
    assert overhead.main([*asked, "--ways", "capture"]) == 0
    found = json.loads(out.read_text())
    assert found["plain"]["wall"] == 1
    assert 0 < found["capture"]["wall"] < 1e3
    assert found["interval_1"]["wall"] is None
    with pytest.raises(SystemExit):
        overhead.main([*asked, "--ways", "capture", "nothing"])
    assert "--ways: invalid choice: 'nothing'" in capsys.readouterr().err


def test_memory_of_an_audit_is_measured_and_carried_on_to_a_million_rows(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    assert audit_memory.main(["--rows", "20", "60", "--probes", "4", "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    small, large = found["measured"]
    assert (small["rows"], large["rows"], found["million"]["rows"]) == (20, 60, 1_000_000)
    assert 1e8 < small["bytes"] < 1e10
    assert large["disk"] > small["disk"] > 0
    slope = (large["disk"] - small["disk"]) / 40
    assert found["million"]["disk"] == pytest.approx(large["disk"] + slope * (1_000_000 - 60))
    assert found["million"]["bytes"] == pytest.approx(large["bytes"] + found["bytes_per_row"] * (1_000_000 - 60))
    one, two = (audit_memory.Cost(rows, 3.0 + rows, 10.0 * rows, 5.0) for rows in (10, 30))
    assert two.at(100, one) == audit_memory.Cost(100, pytest.approx(103.0), pytest.approx(1000.0), 5.0)
