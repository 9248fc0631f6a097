"""`smda audit DATA --config A --config B`: the rows judged once for each behaviour. Wiring, no arithmetic.

<behaviour.name>/    the audit by one configuration, as it is alone
scores.parquet       every row's score for each behaviour
summary.json         the first one's closing figures, and under ``behaviours`` those of each; in
                     ``auroc_controls_by_kind`` planted rows of a kind are told by the behaviour that they are about
manifest.json        ``kind`` audits, the data and the behaviours; written last, it says that all are there
report.html          an index: the behaviours beside one another, with a link to the page of each
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError, describe
from ..instruments.config_file import load_config
from ..instruments.ranks import Ranks
from ..outputs.behaviour_scores import SCORES, print_behaviours, write_behaviour_scores
from ..outputs.behaviours_view import KIND, SUMMARY
from ..outputs.files import is_temporary, read_json, to_json, write_text
from ..outputs.job_folder import MANIFEST
from ..outputs.json_file import check_json_file, write_json_file
from ..outputs.ledger import now
from ..outputs.report import PAGE, renew_report
from .audit import AuditRequest, run_audit

BESIDE = (SCORES, SUMMARY, MANIFEST, PAGE)
"""What lies beside the behaviours' folders."""


def run_audits(request: AuditRequest, configs: Sequence[str]) -> int:
    """Judges the rows that `request` names by each of `configs`, in a folder of its own under ``request.out``, then
    writes their scores side by side, and an index; with one configuration, `run_audit` alone. Returns 0.

    With ``request.resume`` an audit that was begun goes on, one that was not begins. Raises as `run_audit`, and
    `ConfigError` where two configurations have one behaviour's name or a name is no folder's.
    """
    if len(configs) == 1:
        return run_audit(replace(request, config=configs[0]))
    check_json_file(request.json)
    ranks = Ranks.joined()
    with ranks.together():
        folders = _folders(request.out, configs)
        with ranks.first_alone("folders"):
            if ranks.first:
                _check_out(request, folders)
        for folder, config in zip(folders.values(), configs, strict=True):
            resume = request.resume and (folder / "manifest.json").exists()
            run_audit(replace(request, config=config, out=folder, resume=resume, json=None), ranks)
        if ranks.first:
            _finish(request, folders)
    return 0


def _finish(request: AuditRequest, folders: Mapping[str, Path]) -> None:
    """Puts side by side what the audits found, writes and prints."""
    found = {name: read_json(folder / SUMMARY, "summary") for name, folder in folders.items()}
    figures = _side_by_side(found)
    write_behaviour_scores(request.out / SCORES, folders)
    write_text(request.out / SUMMARY, to_json(figures, indent=2))
    manifest = {"kind": KIND, "data": request.data, "behaviours": list(folders), "written": now()}
    write_text(request.out / MANIFEST, to_json(manifest, indent=2))
    write_json_file(request.json, figures)
    print_behaviours(request.out / SCORES, list(folders))
    renew_report(request.out)


def _side_by_side(found: Mapping[str, Any]) -> dict[str, Any]:
    """The first one's closing figures, with the seconds of all, and each planted kind by the behaviour it is about."""
    first = next(iter(found.values()))
    about = {kind: found.get(behaviour, first) for kind, behaviour in first["kinds_about"].items()}
    return {
        **first,
        "seconds": sum(figures["seconds"] for figures in found.values()),
        "auroc_controls_by_kind": {kind: one["auroc_controls_by_kind"].get(kind) for kind, one in about.items()},
        "behaviours": dict(found),
    }


def _folders(out: Path, configs: Sequence[str]) -> dict[str, Path]:
    """By the behaviours' names, in the order given."""
    folders: dict[str, Path] = {}
    for config in configs:
        name = load_config(config).behaviour.name
        what = f"behaviour.name in {config}"
        if name in folders:
            remedy = "name the behaviours apart, or audit them into two folders."
            raise ConfigError(describe(what, f"{name!r}, as in another --config", "a name for each", remedy))
        if Path(name).name != name or name.startswith(".") or name in BESIDE:
            raise ConfigError(describe(what, repr(name), "a folder's name", "name it in letters and digits."))
        folders[name] = out / name
    return folders


def _check_out(request: AuditRequest, folders: dict[str, Path]) -> None:
    """What `run_audit` asks of its folder, of the one around them, before the first row is judged."""
    what = f"--out {request.out}"
    if request.out.is_file():
        raise ConfigError(describe(what, "a file", "an empty folder, or none", "name another folder."))
    inside = request.out.iterdir() if request.out.is_dir() else ()
    own = {*folders, *BESIDE} if request.resume else set()
    strange = {path.name for path in inside if not is_temporary(path)} - own
    if strange:
        found = f"a folder with {', '.join(sorted(strange)[:5])}"
        expected = "the audits to resume" if request.resume else "an empty folder, or none"
        remedy = "name another folder, or --resume audits of the same data with the same configurations."
        raise ConfigError(describe(what, found, expected, remedy))
