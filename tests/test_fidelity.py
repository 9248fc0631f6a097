"""Fidelity of the push: what is pooled, what is left out, and a noise floor against a model in double precision."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from synthetic_run import TARGETS, make_audit

from smda_monitor.instruments.assemble import assemble, open_bench
from smda_monitor.instruments.config_file import load_config
from smda_monitor.instruments.plan_pass import measure_plan
from smda_monitor.instruments.quiet import quiet
from smda_monitor.maths.fidelity import RANKED, fidelity, noise_floor, pooled_fidelity, short_steps

nan, inf = math.nan, math.inf


def test_a_constructed_truth() -> None:
    found = fidelity([(1.1, 1.0, 0.1), (-2.0, -1.0, 0.1), (3.0, -1.0, 0.1), (5.0, 0.05, 0.1)])
    assert (found.entries, found.below_noise) == (3, 1)
    assert found.relative_error == pytest.approx(1.0)  # of 0.1, 1, 4
    assert found.sign == pytest.approx(2 / 3)
    assert math.isnan(found.spearman)


@pytest.mark.parametrize("entry", [(nan, 1.0, 0.0), (1.0, nan, 0.0), (inf, 1.0, 0.0), (1.0, 0.0, 0.0), (1.0, 1.0, nan)])
def test_what_is_no_figure_is_left_out_and_counted(entry: tuple[float, float, float]) -> None:
    found = fidelity([entry, (2.0, 1.0, 0.0)])
    assert (found.entries, found.below_noise, found.relative_error) == (1, 1, 1.0)


def test_nothing_gives_nan_throughout() -> None:
    found = pooled_fidelity([])
    assert (found.rows, found.after_warm_up, found.targets) == (0, False, {})
    assert all(math.isnan(v) for v in (found.overall.relative_error, found.overall.sign, found.overall.spearman))


def test_pushes_whose_product_underflows_keep_their_signs() -> None:
    found = fidelity([(1e-200, 1e-200, 0.0), (-1e-200, -2e-200, 0.0), (1e-200, -1e-200, 0.0), (0.0, 1e-200, 0.0)])
    assert (found.entries, found.sign) == (4, 0.5)


PUSHES = st.floats(-9, 9, allow_subnormal=False)  # a tenth of the smallest subnormal number is 0, which has no sign


@given(st.lists(st.tuples(PUSHES, PUSHES), min_size=1, max_size=20), st.floats(0.1, 10))
@settings(max_examples=40, deadline=None)
def test_laws(pairs: list[tuple[float, float]], unit: float) -> None:
    entries = [(p, r, 1e-3) for p, r in pairs]
    found = fidelity(entries)
    assert found.entries + found.below_noise == len(pairs)
    scaled = fidelity([(unit * p, unit * r, unit * 1e-3) for p, r in pairs])
    if scaled.entries == found.entries:  # rounding may move an entry over the floor
        assert scaled.relative_error == pytest.approx(found.relative_error, nan_ok=True)
        assert scaled.sign == pytest.approx(found.sign, nan_ok=True)
    perfect = fidelity([(r, r, floor) for _, r, floor in entries])
    if perfect.entries:
        assert (perfect.relative_error, perfect.sign) == (0.0, 1.0)
        assert perfect.spearman == pytest.approx(1.0) or math.isnan(perfect.spearman)
    if found.entries < RANKED:
        assert math.isnan(found.spearman)
    elif not math.isnan(found.spearman):
        kept = [(p, r) for p, r, floor in entries if abs(r) >= floor]
        assert found.spearman == pytest.approx(float(spearmanr(*zip(*kept, strict=True)).statistic))


def test_warm_up_counts_only_where_there_is_nothing_else() -> None:
    early, late = make_audit(3, error=0.5), [make_audit(step, error=0.02) for step in (13, 14)]
    only = pooled_fidelity([early])
    assert (only.rows, only.after_warm_up) == (1, False)
    assert only.overall.relative_error == pytest.approx(0.5)
    found = pooled_fidelity([early, *late])
    assert (found.rows, found.after_warm_up) == (2, True)
    assert found.overall.relative_error == pytest.approx(0.02)
    assert set(found.targets) == set(TARGETS)
    assert found.overall.entries == 2 * len(TARGETS)


def test_rows_asked_for_count_only_where_none_was_drawn() -> None:
    asked, drawn = make_audit(13, "asked", error=0.9), make_audit(14, error=0.02)
    assert pooled_fidelity([asked]).overall.relative_error == pytest.approx(0.9)
    assert pooled_fidelity([asked, drawn]).overall.relative_error == pytest.approx(0.02)


def test_a_step_falls_short_by_the_median_of_its_own_rows() -> None:
    audits = [make_audit(13, error=0.02), make_audit(14, error=0.9), make_audit(14, "asked", error=0.4)]
    assert short_steps([*audits, make_audit(15, error=0.02), make_audit(15, error=0.9)], 0.5) == {14}
    assert short_steps(audits, 0.01) == {13, 14}
    assert short_steps([], 0.5) == set()


def test_ranks_of_different_targets_are_not_thrown_together() -> None:
    audits = [make_audit(13 + i % 5, place=i % 10, error=0.01) for i in range(RANKED)]
    opposed = [replace(a, push={**a.push, "S_X": -a.push["S_X"]}) for a in audits]
    found = pooled_fidelity(opposed)
    assert found.targets["S_X"].spearman == pytest.approx(-1.0)
    assert found.targets["S_Y"].spearman == pytest.approx(1.0)
    assert found.overall.spearman == pytest.approx(1.0), "the median over the targets"
    assert math.isnan(pooled_fidelity(opposed[:-1]).overall.spearman)


def test_the_noise_floor_lies_above_rounding_and_not_far(tmp_path: Path) -> None:
    """Truth: the same model in double precision. Rounding noise of a shift is what float32 says beyond it."""
    model = tiny.tiny_lora(tiny.tiny_llama()).eval()
    config = load_config(tiny.tiny_config(tmp_path / "m"))
    instruments = assemble(open_bench(config, model, tiny.tiny_tokenizer()))
    plan, ratios = instruments.plan, []
    exact = copy.deepcopy(model).double()
    judge = replace(instruments, reader=replace(instruments.reader, model=exact))
    generator = torch.Generator().manual_seed(0)
    shots = []
    for _ in range(8):
        with torch.no_grad():
            for p, q in zip(model.parameters(), exact.parameters(), strict=True):
                if p.requires_grad:
                    p.add_(1e-4 * torch.randn(p.shape, generator=generator))
                    q.copy_(p)
        with quiet(model), quiet(exact):
            shots.append((measure_plan(instruments, 0), measure_plan(judge, 0)))
    floor = noise_floor(plan.targets, shots[0][0], torch.finfo(torch.float32).eps)
    for (rough, fine), (rough_next, fine_next) in pairwise(shots):
        shift, truth = plan.targets.measure(rough, rough_next), plan.targets.measure(fine, fine_next)
        ratios.append((shift - truth).abs() / floor)
        assert float((truth.abs() / floor).median()) > 10, "a step's effect is far above it, else it hides everything"
    found = torch.stack(ratios)
    assert float(found.max()) < 1
    assert float(found.amax(0).min()) > 0.01, "a floor a hundred times too high would be of no use"


def test_the_floor_grows_with_epsilon_and_with_what_is_summed(tmp_path: Path) -> None:
    model = tiny.tiny_lora(tiny.tiny_llama()).eval()
    instruments = assemble(open_bench(load_config(tiny.tiny_config(tmp_path / "m")), model, tiny.tiny_tokenizer()))
    with quiet(model):
        at = measure_plan(instruments, 0)
    targets = instruments.plan.targets
    floor = noise_floor(targets, at, 1e-7)
    assert floor.shape == (len(targets.names),)
    assert bool((floor > 0).all())
    torch.testing.assert_close(noise_floor(targets, at, 1e-3), 1e4 * floor)
    louder = replace(
        at, openings=10 * at.openings, mass=10 * at.mass, contrast=10 * at.contrast, y=10 * at.y, X=10 * at.X
    )
    torch.testing.assert_close(noise_floor(targets, louder, 1e-7), 10 * floor)
