"""The page of a symbolic policy laid open: what `smda policy` found, read back from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...records.policy_findings import CategoryGap, PolicyFindings
from ..files import read_json, to_json
from ..findings_reader import read_findings
from ..ledger_reader import FeatureCard, TopProbe
from .policy_figures import UNITS, carriers_figure, coefficients_figure, fidelity_figures, gaps_figure
from .rendering import render_page, share_of


def policy_page(folder: str | Path) -> str:
    """The page of the findings in `folder`. Raises `ConfigError` as `read_findings`, and for a broken manifest."""
    findings = read_findings(folder)
    cards = [_card(card) for card in findings.cards]
    manifest = read_json(Path(folder) / "manifest.json", "manifest")
    context: dict[str, Any] = {
        "folder": Path(folder),
        "manifest_json": to_json(manifest, indent=2),
        "written": str(manifest.get("written", "at an unknown time")),
        "findings": findings,
        "headline": _headline(findings),
        "sentences": _sentences(findings),
        "policy": next((v for v in findings.fidelity.variants if v.is_policy), None),
        "unit": UNITS.get(findings.reading, findings.reading),
        "flagged": [gap for gap in findings.gaps if gap.flags],
        "coefficients": coefficients_figure(findings.coefficients, findings.behaviour)
        if findings.coefficients
        else None,
        "fidelity": fidelity_figures(findings.fidelity),
        "gaps": [gaps_figure(findings), carriers_figure(findings)] if findings.gaps else [],
        "cards": cards,
        "share": share_of(max((abs(p.activation) for c in cards for p in c.top_probes), default=0.0)),
    }
    return render_page("policy.html", context)


def _card(card: dict[str, Any]) -> FeatureCard:
    probes = (TopProbe(str(p["id"]), str(p.get("prompt", "")), float(p["activation"])) for p in card["top_probes"])
    return FeatureCard(
        feature=int(card["feature"]),
        coefficient=float(card["coefficient"]),
        drift=float("nan"),
        density=float(card["density"]),
        top_probes=tuple(probes),
        top_tokens=tuple(map(str, card["top_tokens"])),
    )


def _headline(findings: PolicyFindings) -> str:
    flagged = [gap for gap in findings.gaps if gap.flags]
    if not findings.gaps:
        return f"No category of probes has harmful prompts or look-alikes; {findings.behaviour} cannot be compared."
    if not flagged:
        return f"No category of probes is flagged: {findings.behaviour} is where it should be, and as the policy says."
    counts = {flag: sum(flag in gap.flags for gap in flagged) for gap in flagged for flag in gap.flags}
    said = ", ".join(f"{flag}: {number}" for flag, number in counts.items())
    return f"{len(flagged)} of {len(findings.gaps)} categories of probes are flagged ({said})."


def _sentences(findings: PolicyFindings) -> list[str]:
    found = findings.fidelity
    sentences = []
    for variant in found.variants:
        if variant.is_policy:
            sentences.append(
                f"On {found.prompts} held-out prompts the policy explains {100 * variant.r2.value:.0f} % of the "
                f"variance (R² {variant.r2.value:.3f}; a constant scores {found.r2_constant.value:.3f}) and is on the "
                f"right side of the threshold on {100 * variant.accuracy.value:.0f} % (always the same side: "
                f"{100 * found.majority.value:.0f} %)."
            )
    widest = max(findings.gaps, key=_missing, default=None)
    if widest is not None and widest.n_harmful and widest.n_lookalike:
        measured, _ = widest.difference.judged(findings.reading)
        sentences.append(
            f"Harmful prompts and look-alikes are told apart least in {widest.category}: {measured.value:+.2f} "
            f"[{measured.low:+.2f}, {measured.high:+.2f}]."
        )
    return sentences


def _missing(gap: CategoryGap) -> float:
    """How little of a difference there is between a category's harmful prompts and its look-alikes."""
    value = gap.difference.measured_y.value
    return -value if value == value else float("-inf")
