"""Names for training rows: the user's own ids where given, else the row's place in the prepared data set."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, describe
from .captured_rows import CapturedRow, row_hash
from .row_layout import prepared_rows

logger = logging.getLogger("smda_monitor")


@dataclass(frozen=True, slots=True)
class RowNames:
    """Ids by content hash. Equal rows share a hash; they carry the id of the first."""

    by_hash: dict[str, str]
    """``row_hash`` of the tokens → id."""

    def name(self, row: CapturedRow) -> str:
        """The row's id; ``unknown-<hash>`` for one that is in no index (a streamed or truncated row)."""
        return self.by_hash.get(row.hash, f"unknown-{row.hash}")


def index_rows(
    prepared: Any,
    rows: Iterable[Mapping[str, Any]] | None,
    id_column: str,
    tokenizer: Any,
    max_length: int | None = None,
) -> RowNames:
    """The index of the trainer's `prepared` data set, and of the user's own `rows` with an id column.

    A user's row is matched by its content: its messages, or prompt and completion, under the tokenizer's chat template,
    or its text, cut at `max_length` tokens as the trainer does. Says so where no row of the data set was matched.

    Raises `ConfigError` for `rows` that are no rows, or that lack `id_column`.
    """
    names: dict[str, str] = {}
    for row in _checked(rows, id_column):
        for ids in _token_forms(row, tokenizer):
            names.setdefault(row_hash(ids[:max_length]), str(row[id_column]))
    if hasattr(prepared, "__len__") and "input_ids" in (getattr(prepared, "column_names", None) or ()):
        needed = [name for name in ("input_ids", "seq_lengths") if name in prepared.column_names]
        hashes = [row_hash(row["input_ids"]) for row in prepared_rows(prepared.select_columns(needed))]
        if names and hashes and not names.keys() & set(hashes):
            logger.warning(
                "None of the trainer's %d rows is among `rows`: they are called by their place.", len(hashes)
            )
        for i, content in enumerate(hashes):
            names.setdefault(content, f"row-{i:06d}")
    return RowNames(names)


def _checked(rows: Iterable[Mapping[str, Any]] | None, id_column: str) -> Iterator[Mapping[str, Any]]:
    remedy = "pass the data set that you give to the trainer, with an id column: SMDACallback(config, rows=ds)."
    if isinstance(rows, (str, bytes, Path)):
        raise ConfigError(describe("rows", repr(rows), "rows (a data set, or mappings), not a path", remedy))
    for number, row in enumerate(rows or ()):
        if not isinstance(row, Mapping):
            raise ConfigError(describe(f"rows, number {number}", type(row).__name__, "a mapping", remedy))
        if id_column not in row:
            found = f"no column {id_column!r} among {', '.join(map(str, row))}"
            raise ConfigError(describe(f"rows, number {number}", found, "one", "name it: id_column='...'."))
        yield row


def row_text(row: CapturedRow, tokenizer: Any) -> tuple[str, str]:
    """(prompt, response) of a row as text, without special tokens; the whole as response where no prompt is masked.

    The template's own words around a single user turn (its roles) are taken off.
    """
    cut = max(row.first_label, 0)
    response = tokenizer.decode(row.ids[cut:], skip_special_tokens=True)
    before, after = _around_user_turn(tokenizer)
    marked = tokenizer.decode(row.ids[:cut])
    if before and marked.startswith(before) and marked.endswith(after):
        prompt = marked[len(before) : len(marked) - len(after)]
        if not any(token in prompt for token in tokenizer.all_special_tokens):
            return prompt, response
    return tokenizer.decode(row.ids[:cut], skip_special_tokens=True), response


def new_texts(rows: Sequence[CapturedRow], ids: Sequence[str], known: set[str], tokenizer: Any) -> list[dict[str, Any]]:
    """Id, hash, prompt and response of the `rows` whose id is not `known` yet; it is then."""
    new = []
    for row, row_id in zip(rows, ids, strict=True):
        if row_id not in known:
            known.add(row_id)
            prompt, response = row_text(row, tokenizer)
            new.append({"id": row_id, "hash": row.hash, "prompt": prompt, "response": response})
    return new


def _around_user_turn(tokenizer: Any) -> tuple[str, str]:
    """What the chat template writes before and after the text of a single user turn; two empty texts without one."""
    if not getattr(tokenizer, "chat_template", None):
        return "", ""
    mark = "\u2042"
    turn = [{"role": "user", "content": mark}]
    whole = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    before, _, after = whole.partition(mark)
    return before, after


def _token_forms(row: Mapping[str, Any], tokenizer: Any) -> list[list[int]]:
    """The row's token ids as a trainer may prepare them; [] for a form that is not known."""
    prompt, completion = row.get("prompt"), row.get("completion")
    messages: Any = row.get("messages")
    if isinstance(prompt, list) and isinstance(completion, list):
        messages = [*prompt, *completion]
    if isinstance(messages, list):
        texts = [tokenizer.apply_chat_template(messages, tokenize=False)]
    elif isinstance(prompt, str) and isinstance(completion, str):
        texts = [prompt + completion]
    elif isinstance(row.get("text"), str):
        texts = [row["text"]]
    else:
        return []
    # Plain text gets an end token from the trainer, and the tokenizer's own special tokens.
    texts += [texts[0] + (tokenizer.eos_token or "")]
    return [
        list(tokenizer(text, add_special_tokens=special)["input_ids"]) for text in texts for special in (False, True)
    ]
