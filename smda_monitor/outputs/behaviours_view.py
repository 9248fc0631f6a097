"""Audits of the same rows for several behaviours, read back from the folder around them: all that their index needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, describe
from . import parts
from .behaviour_scores import NAMES, SCORES, column_name, leading_rows
from .files import read_json
from .job_folder import MANIFEST

KIND = "audits"
"""What the manifest calls such a folder."""
SUMMARY = "summary.json"
"""The closing figures."""
LEADING = 50
"""Rows kept for each behaviour, those with its highest scores."""


@dataclass(frozen=True, slots=True)
class BehavioursView:
    """What `smda audit` with several configurations left."""

    folder: Path
    """Where it lies."""
    manifest: Mapping[str, Any]
    """Which data were judged for which behaviours, and when that was written."""
    summary: Mapping[str, Any]
    """The closing figures."""
    behaviours: Mapping[str, Mapping[str, Any]]
    """Those of each behaviour, in the order in which they were audited."""
    rows: int
    """Rows that were judged for at least one of them."""
    leading: Mapping[str, Sequence[Mapping[str, Any]]]
    """By behaviour: the rows with its highest scores, `NAMES` and ``score.<behaviour>`` of all, None where a row has
    none."""


def read_behaviours_view(folder: str | Path) -> BehavioursView:
    """Reads the folder around the audits. Raises `ConfigError` naming the file that is missing, corrupt or something
    else."""
    path = Path(folder)
    manifest = _figures(read_json(path / MANIFEST, "manifest"), path / MANIFEST)
    summary = _figures(read_json(path / SUMMARY, "summary"), path / SUMMARY)
    each = _figures(summary.get("behaviours"), path / SUMMARY)
    behaviours = {name: _figures(figures, path / SUMMARY) for name, figures in each.items()}
    try:
        scores = parts.read_part(path / SCORES, [*NAMES, *map(column_name, behaviours)])
    except KeyError as error:
        raise _unreadable(path / SCORES, f"no column {error}") from error
    leading = {name: leading_rows(scores, name, LEADING) for name in behaviours}
    return BehavioursView(path, manifest, summary, behaviours, scores.num_rows, leading)


def _figures(found: object, path: Path) -> dict[str, Any]:
    if not isinstance(found, dict) or not found:
        raise _unreadable(path, "no figures")
    return found


def _unreadable(path: Path, found: str) -> ConfigError:
    expected = "what audits of several behaviours write there"
    return ConfigError(describe(str(path), found, expected, "resume the audits"))
