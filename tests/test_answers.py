"""Reading an answer: which tokens are averaged, the fitted ruler, and the tap in the trainer's own forward."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TrainerCallback

from smda_monitor.callback import SMDACallback
from smda_monitor.errors import ConfigError
from smda_monitor.instruments.answer_tap import AnswerTap
from smda_monitor.instruments.chat import generation_prompt
from smda_monitor.instruments.reference_answers import read_reference_answers, reference_means
from smda_monitor.maths.answers import ANSWER_TOKENS, answer_mean


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(0, 40), st.integers(0, 10), st.integers(0, 10**6))
def test_mean_over_the_answers_first_tokens(rows: int, length: int, start: int, seed: int) -> None:
    hidden = torch.randn(rows, start + length + 3, 5, generator=torch.Generator().manual_seed(seed))
    answer = torch.zeros(rows, hidden.shape[1], dtype=torch.bool)
    answer[:, start : start + length] = True
    found = answer_mean(hidden, answer)
    taken = hidden[:, start : start + min(length, ANSWER_TOKENS)]
    expected = taken.mean(1) if length else torch.zeros(rows, 5)
    assert torch.allclose(found, expected, atol=1e-5)


class Recorder(TrainerCallback):
    """Keeps what the tap read of each step's rows."""

    def __init__(self, hook: str) -> None:
        self.hook = hook
        self.steps: list[torch.Tensor] = []

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.tap = AnswerTap(kwargs["model"], self.hook)

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.steps.append(self.tap.take())


@pytest.mark.parametrize("form", [{}, {"padding_free": True, "max_length": None}], ids=["padded", "free of padding"])
@pytest.mark.parametrize("kind", ["pre", "post"])
def test_the_trainers_forward_reads_what_a_forward_of_its_own_reads(
    tmp_path: Path, kind: str, form: dict[str, Any]
) -> None:
    """With checkpointing and accumulation on, each row is read once; lr 0 keeps the model where it was."""
    hook = f"blocks.1.hook_resid_{kind}"
    recorder = Recorder(hook)
    rows = tiny.tiny_rows(8)
    trainer = tiny.tiny_trainer(
        tmp_path, [recorder], rows=rows, max_steps=2, gradient_accumulation_steps=2, learning_rate=0.0,
        train_sampling_strategy="sequential", **form,
    )  # fmt: skip
    trainer.train()
    recorder.tap.remove()
    texts = [(row["prompt"][0]["content"], row["completion"][0]["content"]) for row in rows]
    alone = reference_means(trainer.model, trainer.processing_class, hook, texts, batch_size=3)
    read = torch.cat(recorder.steps)
    assert read.shape == alone.shape
    assert torch.allclose(read, alone, atol=1e-5)
    assert float((read[0] - read[1]).abs().max()) > 1e-2


@pytest.mark.parametrize("masked", [True, False])
def test_of_a_conversation_the_last_answer_is_read(masked: bool) -> None:
    """Whether its answers alone carry loss, or all of its tokens."""
    model, tokenizer = tiny.tiny_llama(), tiny.tiny_tokenizer()
    turns = [("user", "one"), ("assistant", "first"), ("user", "two"), ("assistant", "the last")]
    found = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in turns],
        return_dict=True, return_tensors="pt", return_assistant_tokens_mask=True,
    )  # fmt: skip
    ids, answers = found["input_ids"], torch.as_tensor(found["assistant_masks"]).reshape(1, -1).bool()
    tap = AnswerTap(model, "blocks.1.hook_resid_post", in_training=False, opening=generation_prompt(tokenizer))
    hidden = model(input_ids=ids, labels=ids.where(answers, -100) if masked else ids, output_hidden_states=True)
    tap.remove()
    length = len(tokenizer("the last<|end|>")["input_ids"])
    assert 0 < length < ANSWER_TOKENS < ids.shape[1]
    expected = hidden.hidden_states[2][0, -length:].mean(0)
    assert torch.allclose(tap.take()[0].float(), expected, atol=1e-5)
    assert not torch.allclose(hidden.hidden_states[2][answers][:length].mean(0), expected, atol=1e-2)


@pytest.mark.parametrize("both_ways", [False, True])
def test_a_run_with_reference_answers_scores_by_both_witnesses(tmp_path: Path, both_ways: bool) -> None:
    answers = tmp_path / "answers.jsonl"
    with answers.open("w") as out:
        for i in range(12):
            row = {
                "id": str(i),
                "prompt": f"ask {i}",
                "response": ("No, not so", "Yes, like so")[i % 2],
                "kind": ("harmful", "benign")[i % 2],
            }
            out.write(json.dumps(row) + "\n")
        for i in range(6 if both_ways else 0):
            answer, kind = (("Yes, like so", "benign"), ("No, not so", "harmful"))[i % 2]
            out.write(json.dumps({"of": str(i), "response": answer, "kind": kind}) + "\n")
    config = tiny.tiny_config(tmp_path / "m")
    config["behaviour"]["answers"] = str(answers)
    callback = SMDACallback(config)
    tiny.tiny_trainer(tmp_path, [callback], max_steps=2, per_device_train_batch_size=4).train()
    assert callback.run is not None
    assert (callback.run.instruments.policy.asked is not None) == both_ways
    rows = callback.run.accounts[0].rows
    refusing = [r.answer_reading for r in rows if int(r.row_id.removeprefix("row-")) % 2 == 0]
    helping = [r.answer_reading for r in rows if int(r.row_id.removeprefix("row-")) % 2 == 1]
    assert min(refusing) > max(helping), "rows that answer No against rows that answer Yes"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param("not json\n", "line 1", id="not JSON"),
        pytest.param('{"prompt": "a", "response": "b"}\n', "line 1.*kind", id="no kind"),
        pytest.param('{"prompt": "a", "response": "b", "kind": "benign"}\n', "one sort", id="one sort"),
        pytest.param('{"of": "nobody", "response": "b", "kind": "benign"}\n', "line 1.*nobody", id="of no row"),
    ],
)
def test_bad_reference_answers_are_named(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigError, match=words):
        read_reference_answers(str(path))
    with pytest.raises(ConfigError, match="nowhere"):
        read_reference_answers(str(tmp_path / "nowhere.jsonl"))
