from __future__ import annotations

import re
from pathlib import Path

import pytest

from smda_monitor import __version__
from smda_monitor.cli import main
from smda_monitor.errors import ConfigError, MeasurementError, PrerequisiteError

PROVE = {"config": None, "out": None, "seeds": 3, "random": 1, "max_steps": None, "json": None, "resume": False}
"""What `smda prove` is asked for where nothing is said."""


class FakeCommand:
    """Stands in for a real command: notes its arguments, then answers or raises."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.calls: list[object] = []

    def __call__(self, *arguments: object) -> object:
        self.calls.append(arguments)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], ["check", "report", "SMDACallback"]),
        (["check", "--help"], ["CONFIG", "measures the probes once", "--json FILE"]),
        (["report", "--help"], ["RUN", "ledger", "--json FILE"]),
        (["policy", "--help"], ["--config FILE", "runs/policy", "--json FILE"]),
        (["curate", "--help"], ["RUN", "--rule", "--fdr RATE", "RUN/curation", "--json FILE"]),
        (["prove", "--help"], ["RUN", "--config FILE", "--seeds N", "--max-steps N", "--resume", "RUN/proof"]),
        (["--version"], [__version__]),
    ],
)
def test_help_and_version(arguments: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(part in shown for part in expected)


@pytest.mark.parametrize(
    "arguments", [[], ["surprise"], ["check"], ["report"], ["policy"], ["curate"], ["prove"], ["check", "a", "b"]]
)
def test_a_wrong_command_line_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert "usage: smda" in capsys.readouterr().err


@pytest.mark.parametrize("code", [0, 1])
def test_check_passes_its_argument_and_its_code_on(code: int) -> None:
    check = FakeCommand(code)
    assert main(["check", "my.yaml"], check=check) == code  # type: ignore[arg-type]
    assert main(["check", "my.yaml", "--json", "c.json"], check=check) == code  # type: ignore[arg-type]
    assert check.calls == [("my.yaml", None), ("my.yaml", Path("c.json"))]


def test_policy_passes_its_arguments_and_its_defaults_on() -> None:
    calls: list[tuple[str, Path, Path | None]] = []

    def policy(config: str, out: Path, json: Path | None) -> int:
        calls.append((config, out, json))
        return 0

    assert main(["policy", "--config", "my.yaml"], policy=policy) == 0
    assert main(["policy", "--config", "my.yaml", "--out", "o", "--json", "p.json"], policy=policy) == 0
    assert calls == [("my.yaml", Path("runs/policy"), None), ("my.yaml", Path("o"), Path("p.json"))]


def test_curate_and_prove_pass_their_options_and_defaults_on() -> None:
    curate, prove = FakeCommand(0), FakeCommand(0)
    assert main(["curate", "runs/a"], curate=curate) == 0  # type: ignore[arg-type]
    assert main(["curate", "a", "--rule", "median", "--fdr", "0.2", "--out", "o"], curate=curate) == 0  # type: ignore[arg-type]
    assert main(["prove", "a"], prove=prove) == 0  # type: ignore[arg-type]
    assert main(["prove", "a", "--seeds", "5", "--max-steps", "9", "--resume"], prove=prove) == 0  # type: ignore[arg-type]
    given = [{k: v for k, v in vars(one[0]).items() if k != "command"} for one in (*curate.calls, *prove.calls)]  # type: ignore[call-overload]
    assert given == [
        {"run": Path("runs/a"), "rule": "score", "fdr": 0.1, "out": None, "json": None},
        {"run": Path("a"), "rule": "median", "fdr": 0.2, "out": Path("o"), "json": None},
        {**PROVE, "run": Path("a")},
        {**PROVE, "run": Path("a"), "seeds": 5, "max_steps": 9, "resume": True},
    ]


def test_report_prints_where_the_report_lies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = FakeCommand(tmp_path / "report.html")
    assert main(["report", str(tmp_path)], report=report) == 0  # type: ignore[arg-type]
    assert main(["report", "r", "--json", "r.json"], report=report) == 0  # type: ignore[arg-type]
    assert report.calls == [(tmp_path, None), (Path("r"), Path("r.json"))]
    assert str(tmp_path / "report.html") in capsys.readouterr().out


@pytest.mark.parametrize("kind", [ConfigError, PrerequisiteError, MeasurementError])
@pytest.mark.parametrize("command", ["check", "report"])
def test_an_error_is_one_message_without_traceback(
    kind: type[Exception], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeCommand(kind("what: found a; expected b."))
    assert main([command, "x"], check=fake, report=fake) == 2  # type: ignore[arg-type]
    shown = capsys.readouterr()
    assert shown.err == f"smda {command}: what: found a; expected b.\n"
    assert shown.out == ""


def test_an_interrupt_is_told_apart() -> None:
    assert main(["check", "x"], check=FakeCommand(KeyboardInterrupt())) == 130  # type: ignore[arg-type]


def test_a_bug_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        main(["check", "x"], check=FakeCommand(ZeroDivisionError()))  # type: ignore[arg-type]


def test_every_command_takes_a_file_for_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = re.search(r"^  COMMAND\n((?:    .*\n)+)", capsys.readouterr().out, re.MULTILINE)
    assert listed
    commands = re.findall(r"^    (\w+)", listed[1], re.MULTILINE)
    assert {"check", "policy", "audit", "report"} <= set(commands)
    for command in commands:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert "--json FILE" in capsys.readouterr().out, command
