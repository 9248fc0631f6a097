"""Names for training rows: the user's own ids where given, else the row's place in the prepared data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .row_capture import IGNORED, CapturedRow, row_hash


@dataclass(frozen=True, slots=True)
class RowNames:
    """Ids by content hash. Equal rows share a hash; they carry the id of the first."""

    by_hash: dict[str, str]
    """``row_hash`` of the tokens → id."""

    def name(self, row: CapturedRow) -> str:
        """The row's id; ``unknown-<hash>`` for one that is in no index (a streamed or truncated row)."""
        return self.by_hash.get(row.hash, f"unknown-{row.hash}")


def index_rows(prepared: Any, rows: Iterable[Mapping[str, Any]] | None, id_column: str, tokenizer: Any) -> RowNames:
    """The index of the trainer's `prepared` data set, and of the user's own `rows` with an id column.

    A user's row is matched by its content: its messages, or prompt and completion, under the tokenizer's chat template.
    """
    names: dict[str, str] = {}
    for row in rows or ():
        if id_column in row:
            ids = _tokens(row, tokenizer)
            if ids is not None:
                names.setdefault(row_hash(ids), str(row[id_column]))
    if hasattr(prepared, "__len__") and "input_ids" in (getattr(prepared, "column_names", None) or ()):
        for i, ids in enumerate(prepared["input_ids"]):
            names.setdefault(row_hash(list(ids)), f"row-{i:06d}")
    return RowNames(names)


def row_text(row: CapturedRow, tokenizer: Any) -> tuple[str, str]:
    """(prompt, response) of a row as text, without special tokens; the whole as response where no prompt is masked."""
    cut = max(row.first_label, 0)
    return (
        tokenizer.decode(row.ids[:cut], skip_special_tokens=True),
        tokenizer.decode(row.ids[cut:], skip_special_tokens=True),
    )


def prompt_texts(prepared: Any, tokenizer: Any) -> list[str]:
    """The prompt of every row of a prepared data set, for finding those that are also probes; [] if unknown.

    The prompt is what stands before the first token that carries loss; where all tokens carry loss, what stands up to
    and including the template's first generation prompt; where there is none either, the whole row.
    """
    columns = getattr(prepared, "column_names", None) or ()
    if "input_ids" not in columns:
        return []
    texts = []
    masks = "completion_mask" if "completion_mask" in columns else "labels" if "labels" in columns else None
    ignored = 0 if masks == "completion_mask" else IGNORED
    opening = _generation_prompt(tokenizer)
    for row in prepared:
        ids = list(row["input_ids"])
        carries = [value != ignored for value in row[masks]] if masks is not None else [True]
        if True in carries:
            ids = ids[: carries.index(True) or _end_of(opening, ids)]
        texts.append(tokenizer.decode(ids, skip_special_tokens=True))
    return texts


def _generation_prompt(tokenizer: Any) -> list[int]:
    """The tokens that the chat template appends for the model to answer; [] without a template or such tokens."""
    if not getattr(tokenizer, "chat_template", None):
        return []
    turn = [{"role": "user", "content": "x"}]
    without, complete = (
        tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=asked) for asked in (False, True)
    )
    return list(tokenizer(complete.removeprefix(without), add_special_tokens=False)["input_ids"])


def _end_of(part: list[int], ids: list[int]) -> int:
    """One past the first place in `ids` where `part` stands; the length of `ids` where it does not, or is empty."""
    starts = range(len(ids) - len(part) + 1) if part else ()
    return next((at + len(part) for at in starts if ids[at : at + len(part)] == part), len(ids))


def _tokens(row: Mapping[str, Any], tokenizer: Any) -> list[int] | None:
    if "messages" in row:
        messages = list(row["messages"])
    elif isinstance(row.get("prompt"), list) and isinstance(row.get("completion"), list):
        messages = [*row["prompt"], *row["completion"]]
    else:
        return None
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
