"""The figures of a proof as JSON and on the console, and its trainings on disk."""

from __future__ import annotations

import io
import json
from math import nan
from pathlib import Path

import pytest
from rich.console import Console

from smda_monitor.errors import ConfigError
from smda_monitor.outputs.files import to_json
from smda_monitor.outputs.proof_files import as_json, read_arm, write_arm
from smda_monitor.outputs.proof_report import finding_lines, print_proof
from smda_monitor.records.policy_findings import Estimate
from smda_monitor.records.proof import Arm, ArmRun, Finding, KindFigures, ProofFigures, Recovery

ESTIMATE = Estimate(-1.5, -2.0, -1.0)
SHARE = Estimate(0.25, 0.125, 0.5)
LEVEL = {"log_odds": ESTIMATE, "scorer": SHARE, "decoding": SHARE}
KINDS = (
    KindFigures("all", "", 4, LEVEL, {}, {}),
    KindFigures("flagged", "", 4, LEVEL, LEVEL, LEVEL),
    KindFigures("all", "benign", 4, LEVEL, {}, {}),
    KindFigures("random", "benign", 4, LEVEL, LEVEL, {}),
)
RECOVERY = Recovery(Estimate(0.9, 0.8, 1.0), Estimate(0.1, -0.1, 0.3), 0.875, nan)
FACTS = {
    "flagged_rows": 12,
    "planted_rows": 10,
    "planted_flagged": 9,
    "trainings": 12,
    "steps": 18,
    "seconds": 75.0,
}


def figures(finding: Finding = "shown", recovery: Recovery | None = RECOVERY) -> ProofFigures:
    return ProofFigures(KINDS, recovery, finding)


def test_as_json() -> None:
    found = json.loads(to_json(as_json(figures())))
    assert found["recovered"] == {"flagged": [0.9, 0.8, 1.0], "random": [0.1, -0.1, 0.3]}
    assert found["recovered_across_seeds"] == {"flagged": 0.875, "random": None}
    assert found["effects"]["flagged"]["every"]["change"]["log_odds"] == [-1.5, -2.0, -1.0]
    assert found["effects"]["all"]["benign"] == {
        "prompts": 4,
        "level": {"log_odds": [-1.5, -2.0, -1.0], "scorer": [0.25, 0.125, 0.5], "decoding": [0.25, 0.125, 0.5]},
        "change": {},
        "beyond_random": {},
    }
    assert as_json(figures(recovery=None))["recovered"] == {"flagged": None, "random": None}


@pytest.mark.parametrize(
    ("finding", "said"),
    [
        ("shown", "An effect of the flagged rows is shown"),
        ("nothing", "No effect of the flagged rows is shown: the interval of the part recovered reaches 0"),
        ("as random", "cannot be told apart"),
        ("not known", "there is no interval to judge by"),
    ],
)
def test_it_says_plainly_what_is_shown(finding: Finding, said: str) -> None:
    lines = finding_lines(figures(finding), FACTS)
    assert said in lines[-1]
    assert lines[0] == "12 rows are flagged, 9 of the 10 planted ones among them."
    assert lines[2] == "  taking out the flagged rows does 0.90 [0.80, 1.00] (0.88 without noise that counts twice)"
    assert lines[3] == "  taking out the random rows does 0.10 [-0.10, 0.30] (seeds do not agree on it)"
    (alone,) = finding_lines(figures("nothing", None), FACTS)
    assert "the change of every kind of prompt reaches 0" in alone


def test_the_table(tmp_path: Path) -> None:
    out = io.StringIO()
    print_proof(tmp_path, figures(), FACTS, "refusal \x1b[31m", Console(file=out, width=140))
    shown = out.getvalue()
    assert "\x1b[31m" not in shown
    assert "12 trainings of 18 steps in 1 min 15 s" in shown
    benign, every = (
        next(i for i, line in enumerate(shown.splitlines()) if word in line) for word in ("benign", "every")
    )
    assert benign < every
    assert "-1.50 [-2.00, -1.00]" in shown
    assert "25 % [12, 50]" in shown


def test_a_training_on_disk(tmp_path: Path) -> None:
    arm = Arm("random", 2, 1, (3,))
    run = ArmRun("random", 2, 1, ("a",), 20, 18, (1.5, -0.25), ("No.", "caf\u00e9 \x1b"), (True, False), 3.5)
    assert read_arm(tmp_path, arm) is None
    write_arm(tmp_path, run)
    assert read_arm(tmp_path, arm) == run
    assert read_arm(tmp_path, Arm("random", 2, 0, (3,))) is None
    path = tmp_path / "arms" / "random-2-1.json"
    for damaged in ('{"name": "random"}', "[]"):
        path.write_text(damaged)
        with pytest.raises(ConfigError, match=r"random-2-1.json: found another content.*delete it and resume"):
            read_arm(tmp_path, arm)
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"random-2-1.json"):
        read_arm(tmp_path, arm)
