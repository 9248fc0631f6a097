"""The page of a policy laid open: read back from its folder, every number as it was found, hostile text inert."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from test_policy_report import HOSTILE as TERMINAL
from test_policy_report import NONE, findings
from test_report import HOSTILE, Page, strings

from smda_monitor.cli import main
from smda_monitor.errors import ConfigError
from smda_monitor.outputs.files import to_json
from smda_monitor.outputs.findings_folder import FILES, write_findings
from smda_monitor.outputs.findings_reader import read_findings
from smda_monitor.outputs.report import write_report
from smda_monitor.records.policy_findings import PolicyFindings


def whole() -> PolicyFindings:
    """Findings with cards as `smda policy` makes them."""
    cards = tuple(
        {
            "feature": feature,
            "coefficient": coef,
            "density": 0.25,
            "top_probes": [{"id": "p-1", "prompt": f"A prompt of {feature}", "activation": 2.5}],
            "top_tokens": ["sorry", TERMINAL],
        }
        for feature, coef in ((7, 1.5), (9, 0.5))
    )
    return replace(findings(), cards=cards)


def written(folder: Path, found: PolicyFindings) -> Page:
    write_findings(found, folder)
    return Page(write_report(folder))


def test_findings_come_back_as_they_were(tmp_path: Path) -> None:
    found = whole()
    write_findings(found, tmp_path)
    both = [json.loads(to_json(asdict(one))) for one in (read_findings(tmp_path), found)]
    assert both[0] == both[1]
    assert repr(read_findings(tmp_path)).count("nan") == repr(found).count("nan") > 0


def test_no_picture_without_its_numbers_and_these_are_the_findings(tmp_path: Path) -> None:
    found = whole()
    page = written(tmp_path, found)
    assert set(page.figures) == {"coefficients", "r2", "accuracy", "gaps", "carriers"}
    tables = {str(a["data-numbers"]) for t, a in page.elements if t == "table" and "data-numbers" in a}
    assert set(page.figures) <= tables
    for name in page.figures:
        assert len(page.numbers(name)) == len(json.loads(page.download(f"{name}.json"))) > 0
    for line, one in zip(page.numbers("coefficients"), found.coefficients, strict=True):
        assert (int(line["feature"]), float(line["coef"]), float(line["effect"])) == (one.feature, one.coef, one.effect)
        assert line["low"] == ("" if math.isnan(one.low) else str(one.low))
    bars = page.figures["coefficients"]["data"][0]
    assert bars["error_x"]["array"] == [pytest.approx(0.4), None]
    r2 = {line["prediction"]: line for line in page.numbers("r2")}
    policy = found.fidelity.variants[0]
    assert [float(r2["with intercept (the policy)"][end]) for end in ("value", "low", "high")] == [
        policy.r2.value,
        policy.r2.low,
        policy.r2.high,
    ]
    assert float(r2["constant"]["value"]) == found.fidelity.r2_constant.value
    accuracy = {line["prediction"]: line for line in page.numbers("accuracy")}
    assert float(accuracy["over_majority: with intercept (the policy)"]["low"]) == policy.over_majority.low
    religion, lone = page.numbers("gaps")
    gap = found.gaps[0]
    assert (religion["category"], religion["flags"]) == ("religious_stereotyping", "lets harm pass")
    assert float(religion["harmful_measured"]) == gap.harmful.measured.value
    assert float(religion["lookalike_policy_high"]) == gap.lookalike.predicted.high
    assert (lone["n_harmful"], lone["harmful_measured"]) == ("0", "")
    carried = page.numbers("carriers")
    assert [(int(line["feature"]), float(line["contribution"])) for line in carried] == [(7, 3.0), (9, -0.5)]
    points = page.figures["gaps"]["data"][0]
    assert points["x"] == [gap.harmful.measured.value, None]


def test_it_says_what_was_found(tmp_path: Path) -> None:
    text = " ".join(written(tmp_path, whole()).text.split())
    assert "1 of 2 categories of probes are flagged (lets harm pass: 1)." in text
    assert "the policy explains 86 % of the variance (R² 0.860; a constant scores -0.013)" in text
    assert "A prompt of 7" in text
    assert "drift" not in text, "cards of a policy have none"
    clean = replace(whole(), gaps=tuple(replace(gap, flags=()) for gap in whole().gaps))
    assert "No category of probes is flagged" in written(tmp_path, clean).text
    assert "cannot be compared" in written(tmp_path, replace(whole(), gaps=())).text


def test_the_papers_scale_is_drawn_in_its_units(tmp_path: Path) -> None:
    page = written(tmp_path, replace(whole(), reading="log_probability", limit=-8.5))
    figure = page.figures["gaps"]
    assert "log-probability" in figure["layout"]["xaxis"]["title"]["text"]
    assert figure["layout"]["shapes"][0]["x0"] == -8.5
    assert float(page.numbers("gaps")[0]["harmful_measured"]) == whole().gaps[0].harmful.measured_y.value


def test_figures_that_are_not_known_do_not_stop_the_page(tmp_path: Path) -> None:
    found = whole()
    variants = tuple(replace(v, r2=NONE, accuracy=NONE, over_majority=NONE) for v in found.fidelity.variants)
    bare = replace(found, fidelity=replace(found.fidelity, variants=variants), coefficients=(), cards=())
    page = written(tmp_path, bare)
    assert "The policy reads no feature." in page.text
    assert "n/a" in page.text


def test_hostile_text_is_shown_and_inert(tmp_path: Path) -> None:
    plain_page = written(tmp_path / "plain", whole())
    found = whole()
    gap = replace(found.gaps[0], category=HOSTILE, flags=(HOSTILE,))
    probe = {"id": HOSTILE, "prompt": HOSTILE, "activation": 1.0}
    card = {**found.cards[0], "top_probes": [probe], "top_tokens": [HOSTILE, "</script>"]}
    hostile = replace(found, facts={HOSTILE: HOSTILE}, behaviour=HOSTILE, gaps=(gap,), cards=(card,))
    page = written(tmp_path / "hostile", hostile)
    assert page.running == plain_page.running
    assert {t for t, _ in page.elements} <= {t for t, _ in plain_page.elements}
    assert not [name for _, a in page.elements for name in a if name.startswith("on")]
    assert "<script>alert(1)</script></script><!-- <img src=x onerror=alert(2)>" in page.text
    assert "\x1b" not in page.text
    assert "\u202e" not in page.text
    texts = [s for figure in page.figures.values() for s in strings(figure)]
    assert any("&lt;script&gt;" in text for text in texts)
    assert {tag for text in texts for tag in re.findall(r"<[^<>]*>?", text)} <= {"<br>", "<extra>", "</extra>"}


def test_smda_report_writes_a_policys_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_findings(whole(), tmp_path / "policy")
    assert main(["report", str(tmp_path / "policy")]) == 0
    assert "report.html" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "policy").iterdir()) == sorted(FILES)
    write_findings(whole(), tmp_path / "policy")


@pytest.mark.parametrize("content", ["{", "[]", '{"facts": {}}'])
def test_damaged_findings_are_named(tmp_path: Path, content: str) -> None:
    write_findings(whole(), tmp_path)
    (tmp_path / "symbolic_policy.json").write_text(content)
    with pytest.raises(ConfigError, match=r"symbolic_policy\.json"):
        write_report(tmp_path)
