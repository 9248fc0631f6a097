"""The shipped prompts made fewer, so that a policy is fitted sooner."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from smda_monitor.instruments.probe_files import read_probes

Role = Literal["probes", "fit", "heldout"]


QUICK_FIT: dict[Role, int] = {"fit": 2, "heldout": 8}
"""Strides for a policy that is to be fitted quickly."""


def thinned(
    folder: Path, strides: Mapping[Role, int], source: str = "shipped", cut: Callable[[str], str] = str
) -> dict[str, str]:
    """Of every role in `strides` each n-th prompt of `source`, so that all kinds and categories are there, `cut`, in a
    file under `folder`; as a configuration's ``probes`` section names it."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, str] = {}
    for role, stride in strides.items():
        lines: dict[str, str] = {}
        for probe in read_probes(source, role).probes[::stride]:
            text = cut(probe.prompt)
            row = {"id": probe.id, "prompt": text, "category": probe.category, "kind": probe.kind, "pair": None}
            lines.setdefault(text, json.dumps(row))
        path = folder / f"{role}.jsonl"
        path.write_text("\n".join(lines.values()) + "\n", encoding="utf-8")
        found["file" if role == "probes" else role] = str(path)
    return found
