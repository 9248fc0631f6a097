"""What makes a row of training data: its prompt and answer in any of the forms in which data sets are written.

``prompt`` with ``completion`` or ``response`` (each a text or a list of messages), or ``messages`` that end with the
assistant's. A key that is null counts as absent; other keys are not looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from ..records.training_row import LeftOutRow, Message, TrainingRow

ANSWERS = ("completion", "response")
"""Keys that hold the answer to ``prompt``."""
KEYS = ("id", "prompt", *ANSWERS, "messages")
"""The keys that are read."""
FORMS = "prompt with completion or response, or messages"
"""The forms of a row, for messages."""
ROLES = ("system", "user", "assistant", "tool")
"""Roles that a message may have."""

_SYNONYMS = {
    "instruction": "prompt",
    "question": "prompt",
    "input": "prompt",
    "output": "response",
    "answer": "response",
    "chosen": "response",
    "conversation": "messages",
    "conversations": "messages",
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
"""What other data sets call the same thing."""
_TEMPLATE_KEYS = ("tool_calls", "reasoning_content", "thinking")
"""Further keys of a message that chat templates read: without them another text would be trained on."""
_MOST_KEYS = 8
"""Keys listed in one reason."""


class _Unfit(Exception):
    """Carries the reason for which a row is left out to the one place where that is noted."""


def training_row(line: int, row: object) -> TrainingRow | LeftOutRow:
    """The training row that `row`, at `line` of its source, is, or why it is none.

    `row` is a parsed value, or the error that parsing gave; no value raises.
    """
    if isinstance(row, Exception):
        return LeftOutRow(line, None, f"no JSON: {_problem(row)}")
    if not isinstance(row, Mapping):
        return LeftOutRow(line, None, f"no object with keys, but a {type(row).__name__}")
    name = None
    try:
        name = _id(row.get("id"), line)
        prompt, completion, conversation = _turns(row)
    except _Unfit as unfit:
        return LeftOutRow(line, name, str(unfit))
    except RecursionError as error:  # comparing two values goes as deep as they do
        return LeftOutRow(line, name, _problem(error))
    return TrainingRow(line, name, prompt, completion, conversation)


def nearest(found: Iterable[str], wanted: Iterable[str]) -> str:
    """``did you mean …`` for what in `found` looks like something in `wanted` or is another word for it; else ''."""
    known = list(wanted)
    for name in found:
        near = [_SYNONYMS[name]] if _SYNONYMS.get(name) in known else get_close_matches(name, known, n=1)
        if name not in known and near:
            return f"did you mean {near[0]!r} by {name!r}?"
    return ""


def named(names: Iterable[object]) -> str:
    """Keys or columns in a message: quoted, so that no character of theirs acts, and not more than a handful."""
    found = list(names)
    listed = [f"{str(name)!r:.40}" for name in found[:_MOST_KEYS]]
    return ", ".join(listed + [f"{len(found) - len(listed)} more"] * (len(found) > len(listed))) or "none"


def _problem(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, at character {error.pos + 1}"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start + 1} is not UTF-8"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return str(error)


def _id(value: object, line: int) -> str:
    """The row's own id, or one made of its place."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        return f"row-{line}"
    if not isinstance(value, str):
        raise _Unfit(f"id is neither a text nor a whole number, but a {type(value).__name__}")
    return _text(value, "id")


def _turns(row: Mapping[object, object]) -> tuple[tuple[Message, ...], tuple[Message, ...], bool]:
    """(prompt, completion, whether it is a conversation)"""
    answers = [key for key in ANSWERS if row.get(key) is not None]
    if row.get("messages") is not None:
        if answers:
            raise _Unfit(f"two answers: in messages and in {answers[0]}")
        turns = _messages(row["messages"], "messages")
        if not turns or turns[-1].role != "assistant":
            raise _Unfit("messages do not end with an assistant message")
        prompt, completion = turns[:-1], turns[-1:]
        _checked_beside(row.get("prompt"), prompt)
    else:
        if row.get("prompt") is None:
            raise _Unfit(f"no prompt; {_found(row)}")
        if not answers:
            raise _Unfit(f"no answer; {_found(row)}")
        if len(answers) > 1 and row[answers[0]] != row[answers[1]]:
            raise _Unfit("two answers: completion and response differ")
        prompt = _messages(row["prompt"], "prompt", "user")
        completion = _messages(row[answers[0]], answers[0], "assistant")
        if not completion:
            raise _Unfit(f"empty answer: {answers[0]} holds no message")
        for place, turn in (("begin", completion[0]), ("end", completion[-1])):
            if turn.role != "assistant":
                raise _Unfit(f"{answers[0]} does not {place} with an assistant message")
    if not any(turn.role == "user" for turn in prompt):
        raise _Unfit("no prompt: no user message before the answer")
    return prompt, completion, row.get("messages") is not None


def _checked_beside(prompt: object, before: tuple[Message, ...]) -> None:
    """Many data sets repeat a conversation's first turn in a column of its own; a prompt that is no part of the
    conversation would be lost."""
    if prompt is None or (isinstance(prompt, str) and prompt.strip() in {"", *(m.content.strip() for m in before)}):
        return
    if not isinstance(prompt, str) and _messages(prompt, "prompt") == before:
        return
    raise _Unfit("prompt is no part of messages")


def _messages(value: object, key: str, role: str | None = None) -> tuple[Message, ...]:
    """`value` as messages; a text is one of `role`."""
    if isinstance(value, str) and role is not None:
        if not value.strip():
            raise _Unfit(f"no prompt: {key} is empty" if role == "user" else f"empty answer: {key} is blank")
        return (Message(role, _text(value, key)),)
    if not isinstance(value, list | tuple):
        allowed = "text or a list of messages" if role is not None else "a list of messages"
        raise _Unfit(f"{key} is not {allowed}, but a {type(value).__name__}")
    return tuple(_message(one, f"{key}, message {n}", n == len(value)) for n, one in enumerate(value, start=1))


def _message(value: object, where: str, last: bool) -> Message:
    if not isinstance(value, Mapping):
        raise _Unfit(f"{where} is no object with role and content, but a {type(value).__name__}")
    role, content = value.get("role"), value.get("content")
    if not isinstance(role, str):
        raise _Unfit(f"{where} has no role; {_found(value)}")
    if role not in ROLES:
        raise _Unfit(_joined(f"{where}: unknown role {role!r:.40}", nearest([role], ROLES)))
    for key in _TEMPLATE_KEYS:
        if value.get(key):
            raise _Unfit(f"{where} has {key}, which would be lost")
    if content is None:
        raise _Unfit(f"{where} has no content")
    if not isinstance(content, str):
        raise _Unfit(f"{where}: content is not text, but a {type(content).__name__}")
    if not content.strip() and role != "system":
        empty = "empty answer: " if role == "assistant" and last else ""
        raise _Unfit(f"{empty}{where} has no content")
    return Message(role, _text(content, where))


def _found(row: Mapping[object, object]) -> str:
    """The keys of `row` that hold something, for a reason."""
    keys = [str(key) for key, value in row.items() if value is not None]
    wanted = ("role", "content") if "role" in row or "content" in row or "from" in row else KEYS
    return _joined(f"keys found: {named(keys)}", nearest(keys[:_MOST_KEYS], wanted))


def _joined(*parts: str) -> str:
    return "; ".join(filter(None, parts))


def _text(value: str, where: str) -> str:
    """`value`, if it can be written as UTF-8; JSON lets lone surrogates through."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _Unfit(f"{where} holds half of a surrogate pair, at character {error.start + 1}") from None
    return value
