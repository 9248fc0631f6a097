"""The command line: ``smda check``, ``smda policy`` and ``smda audit`` before a run, ``smda report`` after it; from an
audit on, ``smda curate`` and ``smda prove``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import __version__
from .errors import SMDAError

CheckCommand = Callable[[str, Path | None], int]
ReportCommand = Callable[[Path, Path | None], Path]
PolicyCommand = Callable[[str, Path, Path | None], int]
OptionsCommand = Callable[[argparse.Namespace], int]


def main(
    arguments: Sequence[str] | None = None,
    check: CheckCommand | None = None,
    report: ReportCommand | None = None,
    policy: PolicyCommand | None = None,
    audit: OptionsCommand | None = None,
    curate: OptionsCommand | None = None,
    prove: OptionsCommand | None = None,
) -> int:
    """Runs one command and returns its exit code: 0 done, 1 a check that found something, 2 an error that the message
    on standard error explains, 130 interrupted. `check` and the others stand in for the real commands in tests.
    """
    options = _parser().parse_args(arguments)
    try:
        if options.command == "check":
            return (check or _check)(options.config, options.json)
        if options.command == "policy":
            return (policy or _policy)(options.config, options.out, options.json)
        if options.command == "audit":
            return (audit or _audit)(options)
        if options.command == "curate":
            return (curate or _curate)(options)
        if options.command == "prove":
            return (prove or _prove)(options)
        print(f"report: {(report or _report)(Path(options.run), options.json)}")
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
    check.add_argument("--json", metavar="FILE", type=Path, help="write what was found to this file too")
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
        "does to refusal and to the symbolic policy; weights are put back. Rows that cannot be trained on are listed. "
        "On several processes: torchrun --standalone --nproc-per-node N -m smda_monitor audit …",
    )
    audit.add_argument(
        "data", metavar="DATA", help="a JSONL, CSV or Parquet file, a saved data set, a hub id, or demo (shipped rows)"
    )
    audit.add_argument(
        "--config",
        metavar="FILE",
        action="append",
        required=True,
        help="a YAML file, as for `smda check`; several, one for each behaviour: each is audited in RUN/<its name>",
    )
    audit.add_argument("--out", metavar="RUN", type=Path, required=True, help="a new folder for what is found")
    audit.add_argument("--method", choices=("gradient", "replay"), help="in place of the file's data_audit.method")
    audit.add_argument("--check", metavar="N", type=int, help="rows that gradient also replays (data_audit.check)")
    audit.add_argument("--resume", action="store_true", help="go on with an audit that was stopped")
    audit.add_argument("--allow-probes", action="store_true", help="leave rows out that are also probes, and go on")
    audit.add_argument("--json", metavar="FILE", type=Path, help="write the closing figures to this file too")
    _add_curate(commands)
    _add_prove(commands)
    report = commands.add_parser(
        "report",
        help="write the HTML report of a run, an audit or a policy from its folder",
        description="Writes RUN/report.html from what lies in RUN alone: the ledger of a run, what an audit or "
        "several judged, or what `smda policy` found. Nothing is measured or loaded again.",
    )
    report.add_argument("run", metavar="RUN", help="a run folder, e.g. runs/demo")
    report.add_argument("--json", metavar="FILE", type=Path, help="write the headline figures to this file too")
    return parser


def _add_curate(commands: Any) -> None:
    curate = commands.add_parser(
        "curate",
        help="divide an audited data set into rows to keep, to review and to remove",
        description="From what the audit in RUN found: rows whose score stands out of the rows' own bulk and whose "
        "direction is against what their prompt calls for are to be removed, doubtful ones to be reviewed. Writes the "
        "rows as they were read, with reasons. Nothing is measured.",
    )
    curate.add_argument("run", metavar="RUN", type=Path, help="the folder of a finished `smda audit`")
    curate.add_argument(
        "--rule", choices=("score", "median"), default="score", help="median: the paper's (%(default)s)"
    )
    curate.add_argument("--fdr", metavar="RATE", type=float, default=0.10, help="false-discovery rate (%(default)s)")
    curate.add_argument("--out", metavar="DIR", type=Path, help="where the files go (RUN/curation)")
    curate.add_argument("--json", metavar="FILE", type=Path, help="write rule, thresholds and counts to this file too")


def _add_prove(commands: Any) -> None:
    prove = commands.add_parser(
        "prove",
        help="train again without the flagged rows, and measure what that brings back",
        description="Trains as configured, without the monitor: on all rows of the audit in RUN, without those that "
        "`smda curate` removes, and without as many random ones of the same length, where the data name planted rows "
        "without these too. Every arm takes the same number of steps. Then the behaviour is measured on the held-out "
        "prompts, by its openings' log-odds and by what greedy decoding says.",
    )
    prove.add_argument("run", metavar="RUN", type=Path, help="the folder of a finished `smda audit`")
    prove.add_argument("--config", metavar="FILE", help="a YAML file in place of the audit's configuration")
    prove.add_argument("--out", metavar="DIR", type=Path, help="a new folder for what is found (RUN/proof)")
    prove.add_argument("--seeds", metavar="N", type=int, default=3, help="seeds of every arm (%(default)s)")
    prove.add_argument("--random", metavar="N", type=int, default=1, help="random draws under a seed (%(default)s)")
    prove.add_argument("--max-steps", metavar="N", type=int, help="optimizer steps of every training")
    prove.add_argument("--resume", action="store_true", help="go on with a proof that was stopped")
    prove.add_argument("--json", metavar="FILE", type=Path, help="write the closing figures to this file too")


def _check(config: str, json: Path | None) -> int:
    """The real ``check``, imported only when it is called."""
    from .commands.check import run_check

    return run_check(config, json)


def _policy(config: str, out: Path, json: Path | None) -> int:
    """The real ``policy``, imported only when it is called."""
    from .commands.policy import run_policy

    return run_policy(config, out, json)


def _audit(options: argparse.Namespace) -> int:
    """The real ``audit``, imported only when it is called."""
    from .commands.audit import AuditRequest
    from .commands.behaviours_audit import run_audits

    names = ("data", "out", "method", "check", "resume", "allow_probes", "json")
    request = AuditRequest(config=options.config[0], **{name: getattr(options, name) for name in names})
    return run_audits(request, options.config)


def _curate(options: argparse.Namespace) -> int:
    """The real ``curate``, imported only when it is called."""
    from .commands.curate import CurateRequest, run_curate

    return run_curate(CurateRequest(**{name: getattr(options, name) for name in ("run", "rule", "fdr", "out", "json")}))


def _prove(options: argparse.Namespace) -> int:
    """The real ``prove``, imported only when it is called."""
    from .commands.prove import ProveRequest, run_prove

    names = ("run", "config", "out", "seeds", "random", "max_steps", "json", "resume")
    return run_prove(ProveRequest(**{name: getattr(options, name) for name in names}))


def _report(run: Path, json: Path | None) -> Path:
    """The real ``report``, imported only when it is called."""
    from .commands.report import run_report

    return run_report(run, json)


if __name__ == "__main__":
    sys.exit(main())
