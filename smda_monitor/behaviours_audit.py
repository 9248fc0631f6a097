"""`smda audit DATA --config A --config B`: the rows judged once for each behaviour. Wiring, no arithmetic.

<behaviour.name>/    the audit by one configuration, as it is alone
scores.parquet       every row's score for each behaviour
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .data_audit_run import AuditRequest, run_audit
from .errors import ConfigError, describe
from .instruments.config_file import load_config
from .outputs.behaviour_scores import print_behaviours, write_behaviour_scores
from .outputs.files import read_json, to_json, write_text


def run_audits(request: AuditRequest, configs: Sequence[str]) -> int:
    """Judges the rows that `request` names by each of `configs`, in a folder of its own under ``request.out``, then
    writes their scores side by side; with one configuration, `run_audit` alone. Returns 0.

    With `request.resume` an audit that was begun goes on, one that was not begins. Raises as `run_audit`, and
    `ConfigError` where two configurations have one behaviour's name or a name is no folder's.
    """
    if len(configs) == 1:
        return run_audit(replace(request, config=configs[0]))
    folders = _folders(request.out, configs)
    _check_out(request, folders)
    figures = {}
    for (name, folder), config in zip(folders.items(), configs, strict=True):
        resume = request.resume and (folder / "manifest.json").exists()
        run_audit(replace(request, config=config, out=folder, resume=resume, json=None))
        figures[name] = read_json(folder / "summary.json", "summary")
    write_behaviour_scores(request.out / "scores.parquet", folders)
    print_behaviours(request.out / "scores.parquet", list(folders))
    for path in (request.out / "summary.json", *([request.json] if request.json else [])):
        write_text(path, to_json({"behaviours": figures}, indent=2))
    return 0


def _folders(out: Path, configs: Sequence[str]) -> dict[str, Path]:
    """By the behaviours' names, in the order given."""
    folders: dict[str, Path] = {}
    for config in configs:
        name = load_config(config).behaviour.name
        if name in folders:
            found = f"{name!r}, as in another --config"
            remedy = "name the behaviours apart, or audit them in two runs."
            raise ConfigError(describe(f"behaviour.name in {config}", found, "a name for each", remedy))
        if Path(name).name != name or name.startswith("."):
            remedy = "name it in letters and digits."
            raise ConfigError(describe(f"behaviour.name in {config}", repr(name), "a folder's name", remedy))
        folders[name] = out / name
    return folders


def _check_out(request: AuditRequest, folders: dict[str, Path]) -> None:
    """What `run_audit` asks of a folder, before the first row is judged."""
    if request.out.is_file():
        remedy = "name another folder."
        raise ConfigError(describe(f"--out {request.out}", "a file", "an empty folder, or none", remedy))
    inside = {path.name for path in request.out.iterdir()} if request.out.is_dir() else set()
    own = {*folders, "scores.parquet", "summary.json"} if request.resume else set()
    if inside - own:
        found = f"a folder with {', '.join(sorted(inside - own)[:5])}"
        expected = "the audits to resume" if request.resume else "an empty folder, or none"
        remedy = "name another folder, or --resume audits of the same data with the same configurations."
        raise ConfigError(describe(f"--out {request.out}", found, expected, remedy))
