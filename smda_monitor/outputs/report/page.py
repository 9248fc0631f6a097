"""Builds the page: reads the ledger, draws the figures, fills the template."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...errors import ConfigError, describe
from ...maths.by_kind import readings_by_kind
from ...records.account import is_leading
from ...records.snapshot import Snapshot
from ..files import to_json, write_text
from ..ledger_reader import LedgerView, read_ledger
from ..ranking import intention, rank_rows
from ..snapshots import snapshot_files
from ..text import duration, number, percent, plain, visible
from .audit import audit_section
from .by_step import READINGS, Ends, health_figures, parts_figure, refusal_figure, unexplained_figure
from .figure import Figure
from .ranked import balance_figure, coefficients_figure, drift_figure, rows_figure
from .verdict import Verdict, verdict
from .watched import watched_section

TABLE_ROWS = 20
"""Rows in the table under the ranking."""
CARDS = 10
"""Feature cards shown, by |drift · w|."""
_HERE = Path(__file__).parent


def write_report(folder: str | Path) -> Path:
    """Writes ``report.html`` into the run folder from what lies there, and returns its path.

    The page needs no server and no network: plotly is inside it once, and a content policy forbids every connection
    and every script but ours. Row text is shown only where ``rows.jsonl`` exists. Raises `ConfigError` as
    `read_ledger` does, and where the page cannot be written; a ledger without accounts gives a page that says so.
    """
    view = read_ledger(folder)
    path = Path(folder) / "report.html"
    page = render(view)
    try:
        write_text(path, page)
    except OSError as error:
        raise ConfigError(describe(str(path), error, "a file that can be written", "clear the way to it")) from error
    return path


def render(view: LedgerView) -> str:
    """The page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def finalize(value: object) -> object:
        """Takes invisible characters out of every text that the template prints; what is already HTML is ours."""
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _signed,
        "percent": percent,
        "duration": duration,
        "plain": plain,
    }
    return environment.get_template("template.html").render(_context(view))


def _context(view: LedgerView) -> dict[str, Any]:
    from markupsafe import Markup

    start = _start(view, 0)
    ends = _ends(view)
    before, after = _before_and_after(view, ends)
    ranking = rank_rows(view.accounts)
    scripts = [_plotly(), (_HERE / "figures.js").read_text(encoding="utf-8")]
    cards = view.feature_cards[:CARDS]
    judged = verdict(view, ranking, before, after)
    return {
        "view": view,
        "verdict": judged,
        "figures": _figures(view, start, ends, judged) | {"rows": [rows_figure(ranking)] if ranking else []},
        "intention": intention,
        "shown_rows": ranking[:TABLE_ROWS],
        "cards": cards,
        "share": _share(max((abs(p.activation) for c in cards for p in c.top_probes), default=0.0)),
        "audit": audit_section(view.audits),
        "watched": watched_section(view.accounts),
        "replayed": any(a.method == "replay" for a in view.accounts),
        "policy": view.manifest.get("policy") or {},
        "quality": (view.manifest.get("policy") or {}).get("quality") or {},
        "manifest_json": to_json(view.manifest, indent=2),
        "rows_seen": len({(r.row_hash, r.row_id) for a in view.accounts for r in a.rows}),
        "seconds": sum(a.seconds for a in view.accounts),
        "added": _added(view),
        # ours, and checked to hold no closing tag: the only texts that are not escaped
        "style": Markup((_HERE / "style.css").read_text(encoding="utf-8")),
        "scripts": [Markup(_inline(script)) for script in scripts],
        "script_hashes": Markup(" ".join(_hash(_inline(script)) for script in scripts)),
        "spec": lambda figure: Markup(figure.spec),  # made by script_json, which leaves no < in it
    }


def _figures(view: LedgerView, start: Snapshot | None, ends: Ends, judged: Verdict) -> dict[str, list[Figure]]:
    accounts = view.accounts
    coefficients = [coefficients_figure(view.coefficients)] if view.coefficients else []
    if not accounts:
        names = ("refusal", "drift", "balance", "steps", "health")
        return {name: [] for name in names} | {"coefficients": coefficients}
    before = readings_by_kind(start, view.probes) if start else ({}, {})
    every_step = start is not None and len(start.probe_ids) == len(view.probes)
    targets = list(dict.fromkeys(b.target for a in accounts for b in a.balances if is_leading(b.target)))
    pathways = [t for t in targets if t.startswith("S_")]
    others = [t for t in targets if not t.startswith("S_")]
    balance = []
    if pathways:
        balance.append(
            balance_figure("balance-policy", "Policy pathways", "shift of S (policy units)", pathways, accounts)
        )
    if others:
        balance.append(balance_figure("balance-refusal", judged.title, "shift (nats)", others, accounts))
    return {
        "refusal": [refusal_figure(reading, accounts, before, ends, judged.behaviour) for reading in READINGS],
        "drift": [drift_figure(accounts, view.coefficients)] if view.coefficients else [],
        "balance": balance,
        "steps": [*(parts_figure(target, accounts) for target in pathways), unexplained_figure(accounts)],
        "health": health_figures(accounts, start.health if start and every_step else None),
        "coefficients": coefficients,
    }


def _start(view: LedgerView, account: int) -> Snapshot | None:
    """The probes of an account, by its place, as they were at step 0; None where that snapshot was not kept.

    Raises `ConfigError` where it does not hold one of them.
    """
    if not view.snapshots or view.snapshots.steps[0] != 0:
        return None
    own = view.accounts[account].probe_ids if view.accounts else ()
    measured = [str(name) for name in own or view.manifest.get("measured_probes") or view.probes.ids]
    first = view.snapshots[0]
    missing = sorted(set(measured) - set(first.probe_ids))
    if missing:
        path = snapshot_files(view.folder)[0]
        found = f"{len(missing)} measured probes that are not in it, first {missing[0]!r}"
        remedy = "restore both the snapshot and the ledger from a copy of this run"
        raise ConfigError(describe(str(path), found, "every probe that an account measures", remedy))
    return first.part(measured)


def _ends(view: LedgerView) -> Ends:
    """The first and the last measurement of the whole set, those that were kept."""
    steps = view.snapshots.steps
    if not steps or not view.accounts:
        return []
    kept = {steps[0]: 0, steps[-1]: -1} if steps[-1] == view.accounts[-1].step else {steps[0]: 0}
    whole = {step: view.snapshots[at] for step, at in kept.items()}
    return [(s, readings_by_kind(w, view.probes)[0]) for s, w in whole.items() if len(w.probe_ids) == len(view.probes)]


def _before_and_after(view: LedgerView, ends: Ends) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Refusal by reading and kind at both ends, of the same probes: of the whole set where it was measured at both,
    else of those of the last account."""
    if len(ends) == 2:
        return ends[0][1], ends[1][1]
    start = _start(view, -1)
    if start is None or not view.accounts:
        return {}, {}
    return readings_by_kind(start, view.probes)[0], view.accounts[-1].refusal


def _added(view: LedgerView) -> str | None:
    """What the monitor added to plain training, as text; None where the run has not said."""
    overhead = (view.summary or {}).get("overhead") or {}
    measured = overhead.get("measured")
    return percent(measured) if isinstance(measured, int | float) else None


def _share(strongest: float) -> Callable[[float], float]:
    """Turns an activation into the percentage of the strongest one shown, in [0, 100]."""
    return lambda value: min(100.0, max(0.0, 100 * value / strongest)) if strongest > 0 and value == value else 0.0


def _signed(value: float) -> str:
    """A signed figure with a true minus sign."""
    return number(value).replace("-", "−")


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _inline(script: str) -> str:
    """A script of ours as it stands in the page: one kind of line end, since the hash is taken after parsing."""
    text = script.replace("\r\n", "\n").replace("\r", "\n")
    early = "</script" in text.lower() or "<!--" in text
    assert not early, "this text would end its script element early"
    return text


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode('utf-8')).digest()).decode('ascii')}'"
