"""What configs/ names: in sae-lens' registry, and resolved on tiny random models of the same architecture and depth.

Their chat templates have the same marks and their dictionaries the same format; no hub is asked.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import pytest
import tiny
import torch
import yaml
from families import FAMILIES, FEATURES, WIDTH, Family
from safetensors.torch import save_file

from smda_monitor.errors import ConfigError, PrerequisiteError
from smda_monitor.instruments.assemble import assemble, open_bench
from smda_monitor.instruments.behaviour import PAPER_OPENINGS, REFUSAL_OPENINGS, resolve_behaviour
from smda_monitor.instruments.chat import check_tokenizer, prompt_tokens
from smda_monitor.instruments.config_file import load_config, resolve
from smda_monitor.instruments.dictionary_files import read_dictionary
from smda_monitor.instruments.embedded import load_model
from smda_monitor.records.config import MonitorConfig

CONFIGS = Path(__file__).parents[1] / "configs"
RELEASED = [family for family in FAMILIES if family.stem != "llama-3.2-3b-instruct"]
POSITIONS = ("last_prompt_token", "last_user_token")


def config_of(family: Family) -> MonitorConfig:
    return load_config(CONFIGS / f"{family.stem}.yaml")


def layer_of(config: MonitorConfig) -> int:
    """The decoder layer that a config names, in its hookpoint or in the dictionary's id."""
    match = re.search(r"blocks\.(\d+)\.|layer_(\d+)_", config.dictionary.hook or str(config.dictionary.sae_id))
    assert match is not None
    return int(match[1] or match[2])


def changed(config: MonitorConfig, section: str, **values: Any) -> MonitorConfig:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


def by_stem(family: Family) -> str:
    return family.stem


class StandIn(NamedTuple):
    """A config whose model and dictionary are tiny random ones on disk, and the model as `smda check` loads it."""

    family: Family
    config: MonitorConfig
    model: Any
    tokenizer: Any


@pytest.fixture(scope="module", params=FAMILIES, ids=by_stem)
def stand_in(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    family: Family = request.param
    folder = tmp_path_factory.mktemp(family.stem)
    made = family.tokenizer()
    made.save_pretrained(folder / "model")
    family.model(made).save_pretrained(folder / "model")
    config = config_of(family)
    hook = f"blocks.{layer_of(config)}.hook_resid_post"
    family.write_dictionary(folder / "release" / (config.dictionary.sae_id or ""), hook, config.model.name, None)
    config = changed(config, "model", name=str(folder / "model"))
    config = changed(config, "dictionary", path=str(folder / "release"))
    return StandIn(family, config, *load_model(config.model.name, config.model.adapter, config.model.dtype))


def test_every_config_has_a_stand_in() -> None:
    embedded = {"smollm2-135m-demo", "smollm2-135m-stereotype"}
    assert {path.stem for path in CONFIGS.iterdir()} == {family.stem for family in FAMILIES} | embedded


@pytest.mark.parametrize("family", FAMILIES, ids=by_stem)
def test_a_config_reads_the_middle_third_and_fits_its_policy(family: Family) -> None:
    config = config_of(family)
    assert family.layers / 3 <= layer_of(config) < 2 * family.layers / 3
    assert config.policy.path == "fit"
    paper = family.stem.startswith("llama-3.2")
    assert config.policy.preset == ("paper" if paper else "robust")
    assert resolve(config).dictionary.position == ("last_user_token" if paper else "last_prompt_token")


@pytest.fixture(scope="module")
def registry() -> dict[str, Any]:
    """sae-lens' own table of releases, from the installed package, which is not imported."""
    spec = find_spec("sae_lens")
    assert spec is not None
    assert spec.origin is not None
    text = Path(spec.origin).with_name("pretrained_saes.yaml").read_text("utf-8")
    table: dict[str, Any] = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return table


def registered(registry: dict[str, Any], config: MonitorConfig) -> dict[str, Any]:
    """The entry of the dictionary that `config` names."""
    (entry,) = [e for e in registry[config.dictionary.path]["saes"] if e["id"] == config.dictionary.sae_id]
    return dict(entry)


@pytest.mark.parametrize("family", RELEASED, ids=by_stem)
def test_a_release_is_in_the_registry_for_this_very_model(family: Family, registry: dict[str, Any]) -> None:
    config = config_of(family)
    assert registry[config.dictionary.path]["model"] == config.model.name
    entry = registered(registry, config)
    assert re.match(rf"resid_post[_/]layer_{layer_of(config)}(\D|$)", entry["path"])
    assert entry["neuronpedia"], "its features have pages"


def test_the_papers_dictionary_is_a_repository_and_no_release(registry: dict[str, Any]) -> None:
    named = config_of(FAMILIES[0]).dictionary
    assert named.path not in registry
    assert named.path.count("/") == 1, "the hub's owner/name"
    assert named.sae_id is None


@pytest.mark.parametrize("position", POSITIONS)
def test_a_config_resolves_on_its_architecture(stand_in: StandIn, position: str) -> None:
    family, config, model, tokenizer = stand_in
    bench = open_bench(changed(config, "dictionary", position=position), model, tokenizer)
    layer, dictionary = layer_of(config), bench.reader.dictionary
    assert bench.reader.hook == f"blocks.{layer}.hook_resid_post"
    assert (dictionary.d_in, dictionary.d_sae) == (model.config.hidden_size, FEATURES) == (WIDTH, FEATURES)
    assert dictionary.architecture == family.dictionary
    assert dictionary.model_name == config_of(family).model.name
    assert bench.reader.pad == tokenizer.pad_token_id
    for probe in bench.probes:
        found = bench.encode(probe.prompt)
        text, read = tokenizer.decode(list(found.ids)), tokenizer.decode([found.ids[found.read]])
        turn = f"{family.user}{probe.prompt.strip()}{family.end}"
        assert text.endswith((turn + family.answer, turn + "\n" + family.answer))
        assert text.count(family.bos or "no such mark") == bool(family.bos)
        if position == "last_prompt_token":
            assert found.read == len(found.ids) - 1
        else:
            assert read == family.end
            assert tokenizer.decode(list(found.ids[: found.read])).endswith(probe.prompt.strip())


@pytest.mark.parametrize("position", POSITIONS)
def test_what_is_read_is_the_layers_output_at_that_token(stand_in: StandIn, position: str) -> None:
    _, config, _, tokenizer = stand_in
    model = load_model(config.model.name)[0]  # in float32, for a sharp comparison
    bench = open_bench(changed(config, "dictionary", position=position), model, tokenizer)
    # Of different lengths, so that one of them is padded, and both longer than Gemma's window here.
    texts = ("How do I bake bread?", "Tell me about the sea, and take your time over it")
    prompts = [bench.encode(text) for text in texts]
    measured = bench.reader.measure(prompts)
    layer = layer_of(config)
    for prompt, hidden, X in zip(prompts, measured.hidden, measured.X, strict=True):
        with torch.no_grad():
            output = model(input_ids=torch.tensor([prompt.ids]), output_hidden_states=True, use_cache=False)
        # hidden_states[L + 1] is the output of layer L.
        distance = (torch.stack(output.hidden_states)[:, 0].float() - hidden).norm(dim=-1) / hidden.norm()
        assert float(distance[layer + 1, prompt.read]) < 1e-4
        elsewhere = [(layer, prompt.read), (layer + 2, prompt.read), (layer + 1, prompt.read - 1)]
        assert min(float(distance[place]) for place in elsewhere) > 1e-3
        assert torch.allclose(X, bench.reader.dictionary.features(hidden, bench.reader.gate))
        assert 0 < int((X > 0).sum()) < FEATURES


def test_the_openings_are_tokens_of_the_family(stand_in: StandIn) -> None:
    _, config, _, tokenizer = stand_in
    found = resolve_behaviour(config.behaviour, tokenizer, config.policy.preset)
    own = PAPER_OPENINGS if config.policy.preset == "paper" else REFUSAL_OPENINGS
    assert found.texts[: len(own)] == own
    assert found.left_out == ()
    assert tuple(tokenizer.decode(list(tokens)) for tokens in found.tree.sequences) == found.texts
    straight, curly = (found.tree.sequences[found.texts.index(text)] for text in PAPER_OPENINGS)
    assert straight[:2] == curly[:2]
    assert straight[2] != curly[2], "the two apostrophes are different tokens"


def test_a_policy_is_fitted_on_each(stand_in: StandIn, tmp_path: Path) -> None:
    _, config, model, tokenizer = stand_in
    small = tiny.tiny_config(tmp_path)["probes"]
    config = changed(config, "probes", **small)
    # Random features differ little between kinds of prompts, so the paper's contrast would keep none.
    config = changed(changed(config, "behaviour", answers=None), "policy", bootstrap=4, feature_contrast=0.0)
    bench = open_bench(config, model, tokenizer)
    instruments = assemble(bench)
    policy = instruments.policy
    assert (policy.preset, policy.fingerprints) == (config.policy.preset, bench.fingerprints)
    assert policy.X.shape == (84, len(policy.feature_ids))
    assert 0 < len(policy.feature_ids) <= FEATURES
    assert len(policy.y.unique()) > 1


def test_a_tokenizer_without_a_pad_token_gets_the_trainers(stand_in: StandIn) -> None:
    family, _, _, tokenizer = stand_in
    assert tokenizer.pad_token == (family.pad or family.eos)
    if family.pad is None:
        with pytest.raises(PrerequisiteError, match="found no pad token"):
            check_tokenizer(family.tokenizer())


def test_a_dictionary_of_another_width_is_refused_by_name(stand_in: StandIn) -> None:
    family, config, _, tokenizer = stand_in
    wider = family.model(tokenizer, width=WIDTH + 8)
    name = re.escape(config_of(family).model.name)
    with pytest.raises(ConfigError, match=rf"trained on {name}\): found d_in 16; expected 24, the width of the"):
        open_bench(config, wider, tokenizer)


def test_a_template_that_tells_the_time_does_not_change_a_probe(tmp_path: Path) -> None:
    tokenizer = tiny.tiny_tokenizer()
    tokenizer.chat_template = "{{ strftime_now('%f') }}" + tiny.CHAT
    assert len({prompt_tokens(tokenizer, "hello", POSITIONS[0]).ids for _ in range(5)}) > 1
    bench = open_bench(load_config(tiny.tiny_config(tmp_path)), tiny.tiny_llama(), tokenizer)
    assert len({bench.encode("hello").ids for _ in range(5)}) == 1


@pytest.mark.parametrize("family", FAMILIES, ids=by_stem)
def test_the_stand_ins_have_the_marks_of_the_familys_own_template(family: Family) -> None:
    real = files("trl").joinpath("chat_templates", f"{family.real_template}.jinja")
    if not real.is_file():
        pytest.skip("this release of trl does not carry it")
    mine, theirs = family.tokenizer(), family.tokenizer()
    theirs.chat_template = real.read_text("utf-8")
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(["Hi", "Well", " And? "])]
    ours, own = (t.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) for t in (mine, theirs))
    assert ours[ours.index(family.user) :] == own[own.index(family.user) :]
    assert own.startswith(family.bos or "")
    for position in POSITIONS:
        found = prompt_tokens(theirs, "Hi", position)
        read = theirs.decode([found.ids[found.read]])
        assert read == (family.end if position == "last_user_token" else theirs.decode([found.ids[-1]]))


class Files(BaseHTTPRequestHandler):
    """A hub that answers one kind of request: a range of bytes of a file."""

    root: Path

    def do_GET(self) -> None:
        first, last = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups()
        repository, path = self.path.lstrip("/").split("/resolve/main/")
        content = (snapshot(self.root, repository) / path).read_bytes()[int(first) : int(last) + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def snapshot(cache: Path, repository: str) -> Path:
    """Where the hub's cache keeps the files of `repository`."""
    return cache / f"models--{repository.replace('/', '--')}" / "snapshots" / ("0" * 40)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """A cache folder as the hub's client makes it, and the environment of an interpreter that finds it."""
    handler = type("Here", (Files,), {"root": tmp_path})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    here = {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    yield tmp_path, {**os.environ, **here, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
    server.shutdown()
    server.server_close()


def publish(family: Family, cache: Path, entry: dict[str, Any], repository: str, layer: int) -> None:
    """The family's weights as its release has them: names, shapes and files from before sae-lens converts them."""
    top = snapshot(cache, repository)
    folder, weights = top / entry["path"], family.weights()
    folder.mkdir(parents=True)
    (cache / top.parts[-3] / "refs").mkdir()
    (cache / top.parts[-3] / "refs" / "main").write_text(top.name)
    if family.stem.startswith("gemma"):
        names = {"W_enc": "w_enc", "W_dec": "w_dec"}
        save_file({names.get(name, name): t for name, t in weights.items()}, folder / "params.safetensors")
        about: dict[str, Any] = {"architecture": "jump_relu", "model_name": "gemma-v3-1b-it"}
        about["hf_hook_point_in"] = f"model.layers.{layer}.output"
    else:
        transposed = {"encoder.weight": weights["W_enc"].T, "decoder.weight": weights["W_dec"].T}
        rest = {"encoder.bias": weights["b_enc"], "b_dec": weights["b_dec"], "threshold": weights["threshold"][0]}
        torch.save({**transposed, **rest, "k": torch.tensor(4)}, folder / "ae.pt")
        sizes = {"activation_dim": WIDTH, "dict_size": FEATURES, "k": 4, "layer": layer}
        trainer = {"dict_class": "BatchTopKSAE", "lm_name": config_of(family).model.name, **sizes}
        about = {"trainer": trainer, "buffer": {"ctx_len": 1024}}
    (folder / "config.json").write_text(json.dumps(about))


def test_releases_are_read_from_their_own_files(
    hub: tuple[Path, dict[str, str]], registry: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    # Through sae-lens' own loaders, in an interpreter that has the files as if they had been downloaded.
    cache, environment = hub
    expected = {}
    for family in RELEASED:
        config = config_of(family)
        named, layer = config.dictionary, layer_of(config)
        entry = registered(registry, config)
        publish(family, cache, entry, registry[named.path]["repo_id"], layer)
        folder = tmp_path_factory.mktemp(family.stem) / "converted"
        hook = f"blocks.{layer}.hook_resid_post"
        converted = read_dictionary(family.write_dictionary(folder, hook, config.model.name, entry["neuronpedia"]))
        facts = [converted.fingerprint, converted.hook_name, converted.neuronpedia_id]
        expected[f"{named.path} {named.sae_id}"] = facts
    program = (
        "import json, sys\n"
        "from smda_monitor.instruments.dictionary_files import load_dictionary\n"
        "found = {name: load_dictionary(*name.split()) for name in sys.argv[1:]}\n"
        "print(json.dumps({n: [d.fingerprint, d.hook_name, d.neuronpedia_id] for n, d in found.items()}))"
    )
    result = subprocess.run([sys.executable, "-c", program, *expected], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == expected
    assert len({fingerprint for fingerprint, _, _ in expected.values()}) == len(RELEASED)
