"""What `smda policy` prints: every figure with its interval, n/a where there is none, hostile text made harmless."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from smda_monitor.outputs.policy_report import print_policy
from smda_monitor.records.policy_findings import (
    CategoryGap,
    Contribution,
    Estimate,
    HeldoutFidelity,
    Level,
    PolicyFindings,
    RankedCoefficient,
    VariantFidelity,
)

NAN = float("nan")
NONE = Estimate(NAN, NAN, NAN)
HOSTILE = "[red]\x1b[31mx[/red]"


def level(probability: float, y: float) -> Level:
    around = Estimate(probability, probability - 0.1, probability + 0.1)
    return Level(around, around, Estimate(y, y - 1, y + 1), Estimate(y, NAN, NAN))


def findings() -> PolicyFindings:
    policy = VariantFidelity(True, True, Estimate(0.86, 0.8, 0.91), Estimate(0.9, 0.85, 0.96), Estimate(0.2, 0.1, 0.3))
    other = VariantFidelity(False, False, NONE, Estimate(0.5, 0.4, 0.6), Estimate(-0.2, -0.3, -0.1))
    constant, majority = Estimate(-0.013, -0.1, 0.0), Estimate(0.7, 0.6, 0.8)
    features = (Contribution(7, 2.0, 1.5, 3.0), Contribution(9, -1.0, 0.5, -0.5))
    religion = CategoryGap(
        "religious_stereotyping", 5, 5, level(0.3, -1), level(0.2, -2), level(0.1, 1), features, ("lets harm pass",)
    )
    lone = CategoryGap(HOSTILE, 0, 3, Level(NONE, NONE, NONE, NONE), level(0.2, -2), Level(*[NONE] * 4), (), ())
    card = {"feature": 7, "top_tokens": [HOSTILE, "no"], "top_probes": [{"id": HOSTILE}]}
    return PolicyFindings(
        facts={"model": HOSTILE},
        behaviour="refusal",
        reading="mass",
        limit=0.5,
        fidelity=HeldoutFidelity(96, 0.0, constant, majority, (policy, other)),
        coefficients=(RankedCoefficient(7, 1.5, 1.2, 1.9, 0.8, 1.2), RankedCoefficient(9, 0.5, NAN, NAN, 0.1, 0.05)),
        gaps=(religion, lone),
        cards=(card,),
    )


def printed(found: PolicyFindings, width: int = 160) -> str:
    out = io.StringIO()
    print_policy(found, Console(file=out, width=width, force_terminal=False))
    return out.getvalue()


def test_every_figure_stands_with_its_interval() -> None:
    text = " ".join(printed(findings()).split())
    for part in (
        "with intercept (the policy) │ +0.860 [+0.800, +0.910] │ 90 % [85, 96] │ +20 points [+10, +30]",
        "without intercept │ n/a │ 50 % [40, 60]",
        "│ 70 % [60, 80] │",
        "7 │ +1.50 │ [+1.20, +1.90]",
        "9 │ +0.500 │ n/a",
        "religious_stereotyping │ 30 % [20, 40]",
        "lets harm pass",
        "+1.00 [+0.00, +2.00] │ +1.00 │ 7 +3.0",
        "9 -0.50",
        "1 of 2 categories are flagged",
    ):
        assert part in text, part


def test_hostile_text_steers_no_terminal_and_is_no_markup() -> None:
    text = printed(findings())
    assert "\x1b" not in text
    assert "[red]" in text


def test_the_papers_scale_is_named() -> None:
    found = replace(findings(), reading="log_probability", limit=-8.5)
    text = " ".join(printed(found).split())
    assert "mean log-probability; flags count from the threshold, -8.50" in text
    assert "religious_stereotyping │ -1.00 [-2.00, +0.00] │ -1.00 │ -2.00" in text


def test_a_log_s_width_are_enough_for_names_and_flags() -> None:
    text = printed(findings(), 120)
    assert max(map(len, text.splitlines())) <= 120
    assert "religious_stereotyping" in text
    assert "lets harm pass" in text
