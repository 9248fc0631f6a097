"""The second behaviour: its texts, and that it is watched by configuration alone."""

from __future__ import annotations

import json
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
import tiny
import torch
from sklearn.metrics import roc_auc_score

from smda_monitor.callback import SMDACallback
from smda_monitor.instruments.assemble import Instruments, assemble, open_bench
from smda_monitor.instruments.config_file import load_config
from smda_monitor.instruments.overlap import overlapping
from smda_monitor.instruments.probe_files import normalise, read_probes
from smda_monitor.instruments.reference_answers import read_reference_answers, reference_means
from smda_monitor.maths.rulers import read_by
from smda_monitor.records.config import MonitorConfig
from smda_monitor.records.probes import ProbeSet

CONFIG = Path(__file__).parents[1] / "configs" / "smollm2-135m-stereotype.yaml"
Role = Literal["probes", "fit", "heldout"]
ROLES = get_args(Role)
CHOICES = "Answer 'Yes' or 'Cannot be known'."


def texts(role: Role) -> ProbeSet:
    return read_probes("shipped:stereotype", role)


def data(name: str) -> list[dict[str, Any]]:
    return [json.loads(s) for s in files("smda_monitor").joinpath("data", name).read_text("utf-8").splitlines()]


def asked(prompt: str) -> str:
    """Of whom the question is: ``Was it Ruth who paid?`` of Ruth."""
    who = prompt.split("? Answer")[0].rpartition("Was it ")[2].split(" who")[0].split(" whose")[0]
    return who.removeprefix("the ")


@pytest.mark.parametrize(("role", "pairs", "whole"), [("probes", 20, 48), ("heldout", 12, 40), ("fit", 60, 200)])
def test_every_scene_stands_in_two_versions(role: Role, pairs: int, whole: int) -> None:
    probes = texts(role)
    assert len(probes) >= whole
    scenes: dict[str, list[str]] = {}
    for probe in probes:
        if probe.pair is not None:
            scenes.setdefault(probe.pair, []).append(probe.kind)
    assert len(scenes) >= pairs
    assert all(set(kinds) == {"harmful", "lookalike"} for kinds in scenes.values())
    categories = Counter(p.category for p in probes if p.kind == "harmful")
    assert len(categories) >= 6
    assert categories["religious_stereotyping"] >= categories.total() / 5
    religions = ("Jew", "Muslim", "Catholic", "Hindu", "Mormon", "Buddhist", "Sikh", "Orthodox", "Amish")
    named = {r for p in probes for r in religions if p.category == "religious_stereotyping" and r in p.prompt}
    assert len(named) >= (7 if role == "fit" else 3), "not one group alone"


@pytest.mark.parametrize("role", ROLES)
def test_the_choices_are_the_same_words_for_all(role: Role) -> None:
    assert all(probe.prompt.endswith(CHOICES) for probe in texts(role))


@pytest.mark.parametrize("role", ["probes", "fit"])
def test_whom_the_guess_is_of_stands_first_as_often_as_second(role: Role) -> None:
    first = []
    for probe in texts(role):
        if probe.id.endswith("-harmful"):
            scene, name = probe.prompt.rpartition("Was it")[0].casefold(), asked(probe.prompt).casefold().split()[-1]
            first.append(scene.find(name) < len(scene.split(" and ")[0]))
    assert len(first) >= 15
    assert 0.35 <= sum(first) / len(first) <= 0.65


def test_answers_guess_or_say_that_it_cannot_be_known() -> None:
    rows = data("stereotype_answers.jsonl")
    assert len(rows) >= 40
    pairs: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["pair"] is not None:
            pairs.setdefault(row["pair"], []).append(row)
    assert len(pairs) >= 20
    for guess, other in pairs.values():
        assert guess["prompt"] == other["prompt"]
        assert (guess["kind"], other["kind"]) == ("harmful", "lookalike")
        lengths = sorted(len(row["response"].split()) for row in (guess, other))
        assert lengths[1] <= 2 * lengths[0], "length does not tell them apart"
    religious = [row for row in rows if row["kind"] == "harmful" and row["category"] == "religious_stereotyping"]
    assert len(religious) >= len(pairs) / 5
    answers = read_reference_answers("shipped:stereotype")
    assert answers.rows == tuple((row["prompt"], row["response"]) for row in rows)
    assert sum(answers.shows) == len(pairs)


def test_no_scene_is_in_the_demo() -> None:
    demo = {normalise(row["prompt"]) for row in data("demo_rows.jsonl")}
    for role in ROLES:
        assert not demo & {normalise(p.prompt) for p in texts(role)}
    assert not demo & {normalise(row["prompt"]) for row in data("stereotype_answers.jsonl")}


def tiny_version(folder: Path) -> MonitorConfig:
    """The shipped configuration on a tiny model: all else is as in the file."""
    config = load_config(CONFIG)
    dictionary = config.dictionary.model_copy(update={"path": str(tiny.write_dictionary(folder / "dictionary"))})
    policy = config.policy.model_copy(update={"bootstrap": 4})
    outputs = config.outputs.model_copy(update={"folder": str(folder / "run"), "wandb": False})
    probes = config.probes.model_copy(update={"per_step": 9})
    changed = {"dictionary": dictionary, "policy": policy, "outputs": outputs, "probes": probes}
    return config.model_copy(update=changed)


@pytest.fixture(scope="module")
def instruments(tmp_path_factory: pytest.TempPathFactory) -> Instruments:
    config = tiny_version(tmp_path_factory.mktemp("stereotype"))
    return assemble(open_bench(config, tiny.tiny_llama(), tiny.tiny_tokenizer()))


def test_the_file_alone_makes_instruments_of_the_behaviour(instruments: Instruments) -> None:
    bench, policy = instruments.bench, instruments.policy
    behaviour = bench.reader.behaviour
    assert behaviour.name == "stereotype"
    assert behaviour.left_out == ()
    assert behaviour.texts[0] == "Yes"
    assert "Cannot be known" in behaviour.texts[behaviour.tree.n_behaviour :]
    assert len(policy.fit_ids) == len(texts("probes")) + len(texts("fit"))
    assert policy.quality.n_heldout == len(texts("heldout"))
    assert policy.answers is not None
    assert policy.prompts is not None
    answers = read_reference_answers("shipped:stereotype")
    means = reference_means(bench.reader.model, bench.tokenizer, bench.reader.hook, answers.rows)
    # A random model hears little of it.
    assert roc_auc_score(answers.shows, read_by(policy.answers, means).numpy()) > 0.6


def test_nothing_is_expected_of_a_prompt_but_not_to_guess(instruments: Instruments) -> None:
    reader = instruments.reader
    expected = instruments.expected(reader.measure(instruments.tokens(list(range(len(instruments.bench.probes))))))
    assert bool((expected < 0).all())
    assert bool((expected > -1).all())
    harmful = torch.tensor([p.kind == "harmful" for p in instruments.bench.probes])
    assert float(expected[harmful].mean()) < float(expected[~harmful].mean())


def test_demo_rows_are_no_probes(instruments: Instruments) -> None:
    tokenizer, rows = instruments.bench.tokenizer, data("demo_rows.jsonl")

    def overlap(prompts: list[str]) -> list[tuple[str, int]]:
        from datasets import Dataset

        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        ids = [tokenizer.apply_chat_template(c, add_generation_prompt=True, return_dict=False) for c in chats]
        prepared = Dataset.from_list([{"input_ids": i, "completion_mask": [0] * len(i)} for i in ids])
        return overlapping(instruments.bench.probes, instruments.bench.encode, prepared, tokenizer)

    assert overlap([row["prompt"] for row in rows]) == []
    assert overlap([instruments.bench.probes.probes[3].prompt]) != [], "the comparison can find one"


def test_it_is_watched_beside_refusal(tmp_path: Path) -> None:
    callbacks = [SMDACallback(tiny.tiny_config(tmp_path / "refusal")), SMDACallback(tiny_version(tmp_path))]
    tiny.tiny_trainer(tmp_path, callbacks, max_steps=2).train()
    for callback, name in zip(callbacks, ("refusal", "stereotype"), strict=True):
        assert callback.run is not None
        assert [account.step for account in callback.run.accounts] == [1, 2]
        manifest = json.loads((Path(callback.config.outputs.folder) / "manifest.json").read_text())
        assert manifest["config"]["behaviour"]["name"] == name
