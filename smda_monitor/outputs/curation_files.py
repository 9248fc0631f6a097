"""A curated data set on disk: one JSONL file for each bucket, rows with their own columns and the reasons.

keep.jsonl, review.jsonl, remove.jsonl    every row of the source once, with ``id``, ``line`` and ``reasons`` added
curation.json                             rule, rate, thresholds, counts; written last: without it nothing is there
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError, describe
from ..records.curation import BUCKETS, Bucket
from .files import is_temporary, read_json, read_json_lines, to_json, write_atomic, write_text

HEAD = "curation.json"
"""The file that says how rows were curated."""


def check_curation_folder(folder: Path) -> None:
    """Raises `ConfigError` where `folder` holds anything but a curation, which may be replaced."""
    own = {HEAD, *map(_name, BUCKETS)}
    other = folder.exists() and not folder.is_dir()
    if folder.is_dir():
        other = any(path.name not in own and not is_temporary(path) for path in folder.iterdir())
    if other:
        expected = "an empty folder, none, or an earlier curation"
        raise ConfigError(describe(f"--out {folder}", "other files", expected, "name another folder"))


def write_curation(
    folder: Path, rows: Iterable[tuple[Bucket, str | None, int, object, tuple[str, ...]]], head: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes `rows`, (bucket, id, line, the row as its source has it, reasons), one at a time, then `head` with their
    number by bucket; returns what ``curation.json`` holds."""
    (folder / HEAD).unlink(missing_ok=True)
    counts = dict.fromkeys(BUCKETS, 0)

    def fill(targets: Mapping[Bucket, Path]) -> None:
        streams = {bucket: path.open("w", encoding="ascii", newline="\n") for bucket, path in targets.items()}
        try:
            for bucket, row_id, line, raw, why in rows:
                counts[bucket] += 1
                columns = raw if isinstance(raw, Mapping) else {}
                added = {"id": columns.get("id") if row_id is None else row_id, "line": line, "reasons": why}
                streams[bucket].write(to_json({**columns, **added}) + "\n")
        finally:
            for stream in streams.values():
                stream.close()

    _written(folder, BUCKETS, {}, fill)
    content = {**head, "rows": counts}
    write_text(folder / HEAD, to_json(content, indent=2))
    return content


def read_curation(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """(what ``curation.json`` holds, ids of the rows to be removed). Raises `ConfigError` where a file is damaged."""
    head = read_json(folder / HEAD, "curation")
    removed = read_json_lines(folder / _name("remove"), "rows to remove")
    if not isinstance(head, dict) or len(removed) != head.get("rows", {}).get("remove"):
        remedy = "delete the folder and run `smda curate` again"
        raise ConfigError(describe(f"curation {folder}", "files that do not belong together", "a curation", remedy))
    return head, [row["id"] for row in removed]


def _written(folder: Path, left: tuple[Bucket, ...], targets: dict[Bucket, Path], fill: Any) -> None:
    """All files in one go: each stays a temporary one until the last is whole."""
    if not left:
        fill(targets)
        return
    bucket, *others = left
    write_atomic(folder / _name(bucket), lambda path: _written(folder, tuple(others), {**targets, bucket: path}, fill))


def _name(bucket: Bucket) -> str:
    return f"{bucket}.jsonl"
