"""The page of an audit of data: what `smda audit` found, and what curation and proof made of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..audit_view import AuditView, read_audit
from ..files import to_json
from ..ranking import intention
from ..text import percent, plain
from .data_audit_figures import leading_figure, pathways_figure, replay_figures, scores_figure
from .figure import Figure
from .proof import listed, proof_figures
from .rendering import render_page
from .row_kinds_figures import contrast_figures, interference_figure, kinds_figure

NAMED_ROWS = 5
"""Rows named at the top."""


def audit_page(folder: str | Path) -> str:
    """The page of the audit in `folder`. Row text is shown only where ``rows.jsonl`` exists. Raises `ConfigError` as
    `read_audit` does; an audit without a judged row gives a page that says so."""
    view = read_audit(folder)
    config = view.manifest.get("config")
    settings = config.get("data_audit") if isinstance(config, Mapping) else None
    context: dict[str, Any] = {
        "view": view,
        "headline": _headline(view),
        "sentences": _sentences(view),
        "figures": _figures(view),
        "scores": {line["line"]: line for line in view.scores[: len(view.leading)]},
        "intention": intention,
        "method": view.summary.get("method") or (settings or {}).get("method") or "unknown",
        "fidelity": _fidelity(view),
        "curation": listed(view.curation.figures) if view.curation else None,
        "proof": listed(view.proof) if view.proof is not None else None,
        "summary": listed(view.summary),
        "manifest_json": to_json(view.manifest, indent=2),
    }
    return render_page("data_audit.html", context)


def _figures(view: AuditView) -> dict[str, list[Figure]]:
    kinds = view.kinds
    return {
        "rows": [leading_figure(view.scores)] if view.scores else [],
        "scores": [scores_figure(view.scores), pathways_figure(view.scores)] if view.scores else [],
        "contrasts": contrast_figures(kinds) if kinds else [],
        "kinds": [kinds_figure(kinds), interference_figure(kinds)] if kinds else [],
        "replay": replay_figures(view.replayed),
        "proof": proof_figures(view.proof) if view.proof is not None else [],
    }


def _headline(view: AuditView) -> str:
    if not view.scores:
        return "No row has been judged to the end yet."
    rows = len(view.scores)
    judged = f"{rows} row{'' if rows == 1 else 's'} judged, each by a training step of its own"
    if view.kinds is None:
        return f"{judged}."
    unintended = sum(kind.unintended * kind.rows for kind in view.kinds.kinds)
    whole = sum(kind.rows for kind in view.kinds.kinds)
    return f"{judged}: {unintended:.0f} of {whole} act mainly on a feature that their own prompts do not call for."


def _sentences(view: AuditView) -> list[str]:
    scored = [line for line in view.scores if line["score"] == line["score"]]
    sentences = []
    if scored:
        names = ", ".join(plain(line["row_id"], 32) for line in scored[:NAMED_ROWS])
        sentences.append(f"Most suspicious, by what they teach and move against the policy's reading, are {names}.")
    elif view.scores:
        sentences.append("No row has a score: rows were not read on their own prompts.")
    groups = view.summary.get("harmful_vs_harmless")
    if isinstance(groups, Mapping):
        differing = groups["differing"]
        sentences.append(
            f"{groups['harmful']} rows have prompts that the policy expects to be refused, {groups['harmless']} have "
            f"others. Of {groups['features']} watched features {differing['X']} are pushed differently by the two "
            f"groups through features, {differing['Y']} through outputs (false-discovery rate 5 %)."
        )
    for name, found in _fidelity(view).items():
        error = percent(_nan(found.get("relative_error")))
        sentences.append(
            f"{name} by gradient against replay: rank correlation {_nan(found.get('spearman')):.3f}, median error {error}."
        )
    if view.omitted:
        sentences.append(f"{view.omitted} rows were left out; the reasons are listed below.")
    return sentences


def _fidelity(view: AuditView) -> Mapping[str, Mapping[str, Any]]:
    """``gradient_vs_replay`` of the summary; empty where no row was replayed beside."""
    found = view.summary.get("gradient_vs_replay") or {}
    return {name: one for name, one in found.items() if isinstance(one, Mapping)} if isinstance(found, Mapping) else {}


def _nan(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
