"""One row of training data as it was read from a file, and one that was left out, with the reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, as a chat template reads it."""

    role: str
    """``system``, ``user``, ``assistant`` or ``tool``."""
    content: str
    """The text; not blank, save for a system message."""


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """A row that can be trained on: a prompt and the answer that it teaches."""

    line: int
    """Line of a JSONL file, else the row's number; from 1. Rows keep their order, so it rises."""
    id: str
    """Unique in its data set; ``row-<line>`` for a row without an id of its own."""
    prompt: tuple[Message, ...]
    """What stands before the answer: at least one user message."""
    completion: tuple[Message, ...]
    """The answer; ends with an assistant message. Of a conversation, its last message."""
    conversation: bool
    """Whether it was written as one list of messages, so that no place in it is marked as the prompt's end."""


@dataclass(frozen=True, slots=True)
class LeftOutRow:
    """A row that is not trained on."""

    line: int
    """Line of a JSONL file, else the row's number; from 1."""
    id: str | None
    """Its id; None where it is so broken that it has none."""
    reason: str
    """Why, in words."""


@dataclass(frozen=True, slots=True)
class PlantedRow:
    """A row that its data set says was planted, beside a control that was not."""

    place: int
    """Its number among the kept rows, from 0."""
    control: int
    """Number of its control: as a rule the same prompt, rightly answered; −1 where that was left out."""
    kind: str
    """In what way it is wrong, as the data call it."""
    behaviour: str | None
    """The behaviour that it is wrong about, as the data call it; None where they do not say."""


@dataclass(frozen=True, slots=True)
class ProbeRow:
    """A training row whose prompt is a probe, or holds one."""

    line: int
    """Line of a JSONL file, else the row's number; from 1."""
    id: str
    """The row's id."""
    probe_id: str
    """The probe's id; of several the one that was found first."""
