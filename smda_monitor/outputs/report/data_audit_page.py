"""The page of an audit of data: what `smda audit` found, and what curation and proof made of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...records.row_kinds import RowKinds
from ..audit_view import AuditView, read_audit_view
from ..files import to_json
from ..ranking import intention
from ..row_kinds_files import LEVEL
from ..text import percent, plain
from .data_audit_figures import leading_figure, pathways_figure, replay_figures, scores_figure
from .figure import Figure
from .proof import listed, proof_figures
from .proof import sentences as later_sentences
from .rendering import render_page
from .row_kinds_figures import contrast_figures, interference_figure, kinds_figure

NAMED_ROWS = 5
"""Rows named at the top."""


def audit_page(folder: str | Path) -> str:
    """The page of the audit in `folder`. Row text is shown only where ``rows.jsonl`` exists. Raises `ConfigError` as
    `read_audit_view` does; an audit without a judged row gives a page that says so."""
    view = read_audit_view(folder)
    context: dict[str, Any] = {
        "view": view,
        "headline": _headline(view),
        "sentences": _sentences(view),
        "figures": _figures(view),
        "score_at": {line["line"]: line["score"] for line in view.scores.leading},
        "intention": intention,
        "method": _method(view),
        "fidelity": _fidelity(view),
        "curation": listed(view.curation.figures) if view.curation else None,
        "proof": listed(view.proof) if view.proof is not None else None,
        "summary": listed(view.summary),
        "manifest_json": to_json(view.manifest, indent=2),
    }
    return render_page("data_audit.html", context)


def _figures(view: AuditView) -> dict[str, list[Figure]]:
    kinds, scores = view.kinds, view.scores
    return {
        "rows": [leading_figure(scores)] if scores.rows else [],
        "scores": [scores_figure(scores), pathways_figure(scores)] if scores.rows else [],
        "contrasts": contrast_figures(kinds) if kinds else [],
        "kinds": [kinds_figure(kinds), interference_figure(kinds)] if kinds else [],
        "replay": replay_figures(view.replayed),
        "proof": proof_figures(view.proof) if view.proof is not None else [],
    }


def _method(view: AuditView) -> str:
    """By what rows were judged, as far as it is known."""
    if "method" in view.summary:
        return str(view.summary["method"])
    config = view.manifest.get("config")
    settings = config.get("data_audit") if isinstance(config, Mapping) else None
    return str(settings.get("method", "unknown")) if isinstance(settings, Mapping) else "unknown"


def _headline(view: AuditView) -> str:
    rows = view.scores.rows
    if not rows:
        return "No row has been judged to the end yet."
    judged = f"{rows} row{'' if rows == 1 else 's'} judged, each by a training step of its own"
    if view.kinds is None:
        return f"{judged}."
    unintended = sum(kind.unintended * kind.rows for kind in view.kinds.kinds)
    whole = sum(kind.rows for kind in view.kinds.kinds)
    return f"{judged}: {unintended:.0f} of {whole} act mainly on a feature that their own prompts do not call for."


def _sentences(view: AuditView) -> list[str]:
    sentences = []
    scored = [line for line in view.scores.leading if line["score"] == line["score"]]
    if scored:
        names = ", ".join(plain(line["row_id"], 32) for line in scored[:NAMED_ROWS])
        sentences.append(
            f"Most suspicious, by what they teach and move against what is expected on their prompts, are {names}."
        )
    elif view.scores.rows:
        sentences.append("No row has a score: rows were not read on their own prompts.")
    if view.kinds is not None and view.kinds.contrasts:
        sentences.append(_contrast_sentence(view.kinds))
    for name, (rank, error) in _fidelity(view).items():
        told = f"rank correlation {rank:.3f}, median error {percent(error)}"
        sentences.append(f"{name} by gradient against replay: {told}.")
    if (faster := _nan(_closeness(view).get("times_faster"))) == faster:
        sentences.append(f"A row took {faster:.1f} times as long by replay.")
    if (refit := _nan(view.summary.get("refit_remainder"))) == refit:
        told = f"{percent(refit)} of ΔW (median)"
        sentences.append(f"Of replayed rows, exact refits of the policy differ from its two pathways by {told}.")
    if view.omitted:
        sentences.append(f"{view.omitted} row{'' if view.omitted == 1 else 's'} left out, with reasons, below.")
    return [*sentences, *later_sentences(view.curation.figures if view.curation else None, view.proof)]


def _contrast_sentence(kinds: RowKinds) -> str:
    one = kinds.contrasts[0]
    if one.p != one.p:
        return (
            f"Harmful and harmless rows cannot be compared: the prompts of {one.harmful.rows} rows read as harmful, "
            f"those of {one.harmless.rows} as harmless."
        )
    differing = {p: sum(c.p_adjusted < LEVEL for c in kinds.contrasts if c.pathway == p) for p in ("X", "Y")}
    return (
        f"The prompts of {one.harmful.rows} rows read as harmful, those of {one.harmless.rows} as harmless. "
        f"The two groups push {differing['X']} of {len(kinds.features)} watched features differently through features, "
        f"{differing['Y']} through outputs (false-discovery rate {LEVEL:.0%})."
    )


def _closeness(view: AuditView) -> Mapping[str, Any]:
    """``gradient_vs_replay`` of the summary; empty where no row was replayed beside."""
    found = view.summary.get("gradient_vs_replay")
    return found if isinstance(found, Mapping) else {}


def _fidelity(view: AuditView) -> dict[str, tuple[float, float]]:
    """(rank correlation, relative error) of `_closeness` by figure; NaN for what is no number."""
    found = _closeness(view)
    errors = found.get("relative_error")
    known = errors if isinstance(errors, Mapping) else {}
    return {name: (_nan(found.get(name)), _nan(error)) for name, error in known.items()}


def _nan(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
