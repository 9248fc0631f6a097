"""`smda curate RUN`: an audited data set divided into rows to keep, to review and to remove. Wiring, no arithmetic."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, describe
from ..instruments.row_choice import named_rows
from ..instruments.row_files import originals, read_rows
from ..instruments.row_store import TrainingRows
from ..maths.curation import Division, divide
from ..outputs.curation_files import check_curation_folder, write_curation
from ..outputs.curation_reasons import reasons
from ..outputs.curation_report import print_curation
from ..outputs.finished_audit import FinishedAudit, left_out_reasons, read_audit, read_figures
from ..outputs.json_file import check_json_file, write_json_file
from ..outputs.report import renew_report_with
from ..records.curation import Bucket, CurationRule, RowFigures, RowVerdict

RATE = 0.10
"""False-discovery rate where none is asked for."""
FOLDER = "curation"
"""Inside the audit's folder, where none is named."""


@dataclass(frozen=True, slots=True)
class CurateRequest:
    """What the command line asked for."""

    run: Path
    """The folder of a finished audit."""
    rule: CurationRule = "score"
    """By which rule."""
    fdr: float = RATE
    """False-discovery rate of the score rule."""
    out: Path | None = None
    """Where the files go; None: `FOLDER` in `run`."""
    json: Path | None = None
    """Where what ``curation.json`` holds is written too."""


def run_curate(request: CurateRequest) -> int:
    """Curates the rows of the audit in ``request.run``, writes the files and the audit's page, prints what was done;
    returns 0.

    Raises `ConfigError` where there is no finished audit, its data are no longer what was audited, or the folder holds
    other files.
    """
    check_json_file(request.json)
    audit = read_audit(request.run)
    folder = request.out or request.run / FOLDER
    check_curation_folder(folder)
    figures = read_figures(audit)
    division = divide(figures, request.rule, request.fdr)
    verdicts = _verdicts(figures, division, audit.config["behaviour"]["name"])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".rows-", suffix=".tmp", dir=folder) as aside:
        rows = audited_rows(audit, [one.row_id for one in figures], Path(aside))
        head = {"rule": request.rule, "audit": audit.identity, "data": audit.data, **asdict(division.cut)}
        content = write_curation(folder, _lines(rows, verdicts, left_out_reasons(audit)), head)
    write_json_file(request.json, content)
    removed = [one for one in figures if verdicts[one.row_id].bucket == "remove"]
    print_curation(folder, content["rows"], division.cut, removed)
    renew_report_with(audit.folder, FOLDER, folder)
    return 0


def audited_rows(audit: FinishedAudit, ids: list[str], folder: Path) -> TrainingRows:
    """The rows that were audited, read again into `folder`. Raises `ConfigError` where they are other rows now."""
    read = read_rows(audit.data, folder, split=audit.split)
    rows = named_rows(read, set(ids))
    if rows.data._fingerprint != audit.rows:
        remedy = "restore the data, or run `smda audit` on them as they are now"
        raise ConfigError(describe(f"data {audit.data}", "other rows than were audited", "the same rows", remedy))
    return rows


def _verdicts(figures: list[RowFigures], division: Division, behaviour: str) -> dict[str, RowVerdict]:
    """The verdict on every row, by its id."""
    return {
        row.row_id: RowVerdict(bucket, reasons(row, bucket, division.cut, excess, rank, division.scored, behaviour))
        for row, bucket, excess, rank in zip(figures, division.buckets, division.excess, division.ranks, strict=True)
    }


def _lines(
    rows: TrainingRows, verdicts: Mapping[str, RowVerdict], left_out: Mapping[int, str]
) -> Iterator[tuple[Bucket, str | None, int, Any, tuple[str, ...]]]:
    for line, row_id, raw in originals(rows):
        if row_id is not None:
            yield verdicts[row_id].bucket, row_id, line, raw, verdicts[row_id].reasons
        else:
            why = left_out.get(line, "for a reason that is not listed")
            yield "review", None, line, raw, (f"The audit did not judge this row: {why}.",)
