"""The command line: ``smda check``, ``smda policy`` and ``smda audit`` before a run, ``smda report`` after it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from . import __version__
from .errors import SMDAError

CheckCommand = Callable[[str], int]
ReportCommand = Callable[[Path], Path]
PolicyCommand = Callable[[str, Path, Path | None], int]
AuditCommand = Callable[[argparse.Namespace], int]


def main(
    arguments: Sequence[str] | None = None,
    check: CheckCommand | None = None,
    report: ReportCommand | None = None,
    policy: PolicyCommand | None = None,
    audit: AuditCommand | None = None,
) -> int:
    """Runs one command and returns its exit code: 0 done, 1 a check that found something, 2 an error that the message
    on standard error explains, 130 interrupted. `check`, `report`, `policy` and `audit` stand in for the real commands
    in tests.
    """
    options = _parser().parse_args(arguments)
    try:
        if options.command == "check":
            return (check or _check)(options.config)
        if options.command == "policy":
            return (policy or _policy)(options.config, options.out, options.json)
        if options.command == "audit":
            return (audit or _audit)(options)
        print(f"report: {(report or _report)(Path(options.run))}")
        return 0
    except SMDAError as error:
        print(f"smda {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"smda {options.command}: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    """The commands and their help."""
    parser = argparse.ArgumentParser(
        prog="smda",
        description="Watches refusal while a chat model is fine-tuned: which rows move it, through which features.",
        epilog="The monitor itself is a callback of SFTTrainer: from smda_monitor import SMDACallback.",
    )
    parser.add_argument("--version", action="version", version=f"smda-monitor {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    check = commands.add_parser(
        "check",
        help="resolve a configuration and measure once, without training",
        description="Loads everything that CONFIG names, measures the probes once and says what a run would use.",
    )
    check.add_argument("config", metavar="CONFIG", help="a YAML file, e.g. configs/smollm2-135m-demo.yaml")
    policy = commands.add_parser(
        "policy",
        help="lay the symbolic policy open: coefficients, fidelity, gaps by category",
        description="Measures probes and held-out prompts once and shows what the symbolic policy of FILE says: its "
        "coefficients with intervals, its fidelity beside baselines, and for every category of probes how far harmful "
        "prompts and their look-alikes are refused, measured and as the policy says. Trains nothing.",
    )
    policy.add_argument("--config", metavar="FILE", required=True, help="a YAML file, as for `smda check`")
    policy.add_argument(
        "--out", metavar="DIR", type=Path, default=Path("runs/policy"), help="where tables are written (%(default)s)"
    )
    policy.add_argument("--json", metavar="FILE", type=Path, help="write everything to this JSON file too")
    audit = commands.add_parser(
        "audit",
        help="judge every row of a data set before training on it",
        description="For every row of DATA: one training step on it alone, from one and the same state, and what that "
        "does to refusal and to the symbolic policy; weights are put back. Rows that cannot be trained on are listed.",
    )
    audit.add_argument(
        "data", metavar="DATA", help="a JSONL, CSV or Parquet file, a saved data set, a hub id, or demo (shipped rows)"
    )
    audit.add_argument("--config", metavar="FILE", required=True, help="a YAML file, as for `smda check`")
    audit.add_argument("--out", metavar="RUN", type=Path, required=True, help="a new folder for what is found")
    audit.add_argument("--method", choices=("gradient", "replay"), help="in place of the file's data_audit.method")
    audit.add_argument("--check", metavar="N", type=int, help="rows that gradient also replays (data_audit.check)")
    audit.add_argument("--resume", action="store_true", help="go on with an audit that was stopped")
    audit.add_argument("--allow-probes", action="store_true", help="leave rows out that are also probes, and go on")
    audit.add_argument("--json", metavar="FILE", type=Path, help="write the closing figures to this file too")
    report = commands.add_parser(
        "report",
        help="write the HTML report of a run, an audit or a policy from its folder",
        description="Writes RUN/report.html from what lies in RUN alone: the ledger of a run, what an audit judged, or what "
        "`smda policy` found. Nothing is measured or loaded again.",
    )
    report.add_argument("run", metavar="RUN", help="a run folder, e.g. runs/demo")
    return parser


def _check(config: str) -> int:
    """The real ``check``, imported only when it is called."""
    from .check import run_check

    return run_check(config)


def _policy(config: str, out: Path, json: Path | None) -> int:
    """The real ``policy``, imported only when it is called."""
    from .policy import run_policy

    return run_policy(config, out, json)


def _audit(options: argparse.Namespace) -> int:
    """The real ``audit``, imported only when it is called."""
    from .data_audit_run import AuditRequest, run_audit

    names = ("data", "config", "out", "method", "check", "resume", "allow_probes", "json")
    return run_audit(AuditRequest(**{name: getattr(options, name) for name in names}))


def _report(run: Path) -> Path:
    """The real ``report``, imported only when it is called."""
    from .outputs.report import write_report

    return write_report(run)


if __name__ == "__main__":
    sys.exit(main())
