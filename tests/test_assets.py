"""The shipped adapter, dictionary and policy: sizes, bounds, and that they belong together."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from smda_monitor.instruments.adapters import shipped_adapter
from smda_monitor.instruments.dictionary_files import SHIPPED_DICTIONARY, read_dictionary
from smda_monitor.instruments.embedded import EMBEDDED
from smda_monitor.instruments.policy_files import load_policy
from smda_monitor.instruments.probe_files import read_probes

REPOSITORY = Path(__file__).parents[1]
ASSETS = SHIPPED_DICTIONARY.parent
ADAPTER = Path(str(shipped_adapter(EMBEDDED)))


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def test_sizes() -> None:
    assert 0.1 < _megabytes(ADAPTER) <= 5
    assert 0.1 < _megabytes(SHIPPED_DICTIONARY) <= 7
    assert read_dictionary(SHIPPED_DICTIONARY).d_sae >= 2304


def test_the_policy_explains_refusal_and_belongs_to_probes_and_dictionary() -> None:
    policy = load_policy("shipped")
    assert policy.quality.r2_heldout >= 0.85 > 0.1 > policy.quality.r2_constant
    assert policy.quality.n_heldout == len(read_probes("shipped", "heldout"))
    assert policy.fingerprints.probes == read_probes("shipped").fingerprint
    assert policy.fit_ids[: len(read_probes("shipped"))] == read_probes("shipped").ids
    assert max(policy.feature_ids) < read_dictionary(SHIPPED_DICTIONARY).d_sae
    assert policy.answers is not None
    assert policy.answers.direction.shape == (read_dictionary(SHIPPED_DICTIONARY).d_in,)


def _row(card: str, first: str) -> list[str]:
    line = next(line for line in card.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_cards_keep_their_bounds() -> None:
    card = (SHIPPED_DICTIONARY / "README.md").read_text(encoding="utf-8")
    for where in ("prompt tokens", "prompts and answers"):
        _, _, fvu, l0, dead = _row(card, where)
        assert float(fvu) <= 0.25
        assert float(l0) > 1
        assert float(dead.rstrip("%")) <= 5
    assert float(_row(card, "read position")[2]) <= 0.25
    chosen = json.loads((SHIPPED_DICTIONARY / "cfg.json").read_text())["metadata"]["hook_name"]
    layers = {int(a): float(b) for a, b in re.findall(r"^\| (\d+) \| ([\d.-]+) \|$", card, re.MULTILINE)}
    assert chosen == f"blocks.{min(n for n, r2 in layers.items() if r2 >= max(layers.values()) - 0.02)}.hook_resid_post"
    adapter = (ADAPTER / "README.md").read_text(encoding="utf-8")
    _, before, after, *_ = _row(adapter, "harmful")
    assert float(after) > 0 > float(before), "it refuses what the bare model does not"
    assert float(_row(adapter, "benign")[2]) < 0, "and answers what is benign"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_every_link_in_the_documents_leads_somewhere(name: str) -> None:
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
    missing = [link for link in links if not (REPOSITORY / link).exists()]
    assert missing == []
    named = re.findall(r"`((?:recipes|configs|smda_monitor|tests)/[\w./-]+)`", text)
    assert [path for path in named if not (REPOSITORY / path).exists()] == []
    assert links or named
