"""`smda curate RUN`: an audited data set divided into rows to keep, to review and to remove. Wiring, no arithmetic."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import ConfigError, describe
from .instruments.row_choice import named_rows
from .instruments.row_files import originals, read_rows
from .instruments.row_store import TrainingRows
from .maths.curation import curate_by_median, curate_by_score, opposed, over_usual, ranks
from .outputs.curation_files import check_curation_folder, write_curation
from .outputs.curation_reasons import reasons
from .outputs.curation_report import print_curation
from .outputs.finished_audit import FinishedAudit, left_out_reasons, read_audit, read_figures
from .outputs.json_file import check_json_file, write_json_file
from .outputs.report import renew_report_with
from .records.curation import BUCKETS, Bucket, CurationRule, MedianCut, RowFigures, RowVerdict, ScoreCut

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
    verdicts, cut = _judged(figures, request, behaviour_of(audit))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".rows-", suffix=".tmp", dir=folder) as aside:
        rows = audited_rows(audit, [one.row_id for one in figures], Path(aside))
        head = {"rule": request.rule, "audit": audit.identity, "data": audit.data, **asdict(cut)}
        content = write_curation(folder, _lines(rows, verdicts, left_out_reasons(audit)), head)
    write_json_file(request.json, content)
    removed = [one for one in figures if verdicts[one.row_id].bucket == "remove"]
    print_curation(folder, content["rows"], cut, sorted(removed, key=lambda one: -one.score))
    renew_report_with(audit.folder, FOLDER, folder)
    return 0


def audited_rows(audit: FinishedAudit, ids: list[str], folder: Path) -> TrainingRows:
    """The rows that were audited, read again into `folder`. Raises `ConfigError` where they are other rows now."""
    read = read_rows(audit.data, folder, split=audit.split)
    rows = named_rows(read, set(ids), "not judged by the audit")
    if rows.data._fingerprint != audit.rows:
        remedy = "restore the data, or run `smda audit` on them as they are now"
        raise ConfigError(describe(f"data {audit.data}", "other rows than were audited", "the same rows", remedy))
    return rows


def behaviour_of(audit: FinishedAudit) -> str:
    """The name of the audit's behaviour."""
    return str(audit.config["behaviour"]["name"])


def _judged(
    figures: list[RowFigures], request: CurateRequest, behaviour: str
) -> tuple[dict[str, RowVerdict], ScoreCut | MedianCut]:
    """The verdict on every row by its id, and where the lines were drawn."""
    score, expected = _column(figures, "score"), _column(figures, "expected")
    excess, _ = over_usual(score, expected)
    cut: ScoreCut | MedianCut
    if request.rule == "median":
        remove, review, cut = curate_by_median(_column(figures, "S"), expected)
    else:
        against = opposed(expected, _column(figures, "own_push"), _column(figures, "answer_reading"))
        remove, review, cut = curate_by_score(excess, against, _column(figures, "interference"), request.fdr)
    places, scored = ranks(excess), int((~excess.isnan()).sum())
    keep, check, drop = BUCKETS
    verdicts = {}
    for i, row in enumerate(figures):
        bucket: Bucket = drop if remove[i] else check if review[i] else keep
        verdicts[row.row_id] = RowVerdict(
            bucket, reasons(row, bucket, cut, float(excess[i]), places[i], scored, behaviour)
        )
    return verdicts, cut


def _lines(
    rows: TrainingRows, verdicts: Mapping[str, RowVerdict], left_out: Mapping[int, str]
) -> Iterator[tuple[Bucket, str | None, int, Any, tuple[str, ...]]]:
    for line, row_id, raw in originals(rows):
        if row_id is not None:
            yield verdicts[row_id].bucket, row_id, line, raw, verdicts[row_id].reasons
        else:
            why = left_out.get(line, "for a reason that is not listed")
            yield "review", None, line, raw, (f"The audit did not judge this row: {why}.",)


def _column(figures: list[RowFigures], name: str) -> Tensor:
    return torch.tensor([getattr(one, name) for one in figures], dtype=torch.float64)
