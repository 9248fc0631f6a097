"""From a configuration and a live model to all that a run measures with; a mismatch is found here, before step 1."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import PrerequisiteError
from ..maths.by_kind import are_harmful
from ..maths.pathways import PolicyFrame
from ..maths.rulers import balanced, fit_ruler, opinion, read_by
from ..maths.score import expectation
from ..records.config import MonitorConfig
from ..records.policy import Fingerprints, Ruler, SymbolicPolicy
from ..records.probes import ProbeSet
from .behaviour import resolve_behaviour
from .chat import PromptTokens, check_tokenizer, prompt_tokens
from .config_file import resolve
from .dictionary import Dictionary
from .dictionary_files import load_dictionary
from .fingerprint import model_fingerprint
from .hookpoint import check_width, find_block
from .measurement import Measurement
from .plan import StepPlan, plan_step
from .policy_files import check_fingerprints, load_policy
from .policy_fit import FitPrompts, fit_policy
from .probe_files import read_probes
from .probe_reader import ProbeReader
from .quiet import quiet
from .read_behaviour import check_lead, check_reading
from .reference_answers import read_reference_answers, reference_means
from .training_ranks import ALONE, TrainingRanks


@dataclass(frozen=True)
class Bench:
    """A model's instruments, before a policy is known; `reader` reads the whole dictionary."""

    config: MonitorConfig
    """With the preset's values filled in."""
    probes: ProbeSet
    """The probe set."""
    encode: Callable[[str], PromptTokens]
    """A prompt as tokens."""
    tokenizer: Any
    """The model's."""
    reader: ProbeReader
    """Reads prompts on the model."""
    fingerprints: Fingerprints
    """Of this model, dictionary, behaviour and probe set."""

    def fit(self) -> SymbolicPolicy:
        """A policy fitted to the model as it is now."""
        config = self.config
        further = _without(read_probes(config.probes.fit, "fit"), self.probes)
        prompts = FitPrompts(self.probes, further, read_probes(config.probes.heldout, "heldout"), self.encode)
        contrast = config.policy.feature_contrast or 0.0
        policy = fit_policy(
            self.reader,
            prompts,
            config.policy.preset,
            contrast,
            config.policy.bootstrap,
            config.seed,
            self.fingerprints,
        )
        return self.with_answers(policy)

    def with_answers(self, policy: SymbolicPolicy) -> SymbolicPolicy:
        """`policy` with the rulers of answers, from the reference answers on the model as it is now; the shipped ones
        are of the shipped refusal alone."""
        behaviour = self.config.behaviour
        if behaviour.answers is None or (behaviour.answers == "shipped" and behaviour.openings):
            return replace(policy, answers=None, asked=None)
        found = read_reference_answers(behaviour.answers)
        means = reference_means(self.reader.model, self.tokenizer, self.reader.hook, found.rows)
        shows, asked = torch.tensor(found.shows), torch.tensor(found.asked)
        weight = balanced(shows, asked)
        both_ways = behaviour.wanted_on == "harmful" and len({*zip(found.shows, found.asked, strict=True)}) == 4
        return replace(
            policy,
            answers=fit_ruler(means, shows, weight),
            asked=fit_ruler(means, asked, weight) if both_ways else None,
        )


@dataclass(frozen=True)
class Instruments:
    """A bench with its symbolic policy: all that an account needs."""

    bench: Bench
    """The model's instruments."""
    policy: SymbolicPolicy
    """Fixed for the run."""
    frame: PolicyFrame
    """Its factors."""
    opinion: Ruler
    """Its own prediction as a ruler over its features."""
    reader: ProbeReader
    """Reads the policy's features alone."""
    plan: StepPlan
    """What is measured at every step."""
    ranks: TrainingRanks = ALONE
    """The processes of the training that share the measuring."""

    def tokens(self, chosen: list[int]) -> list[PromptTokens]:
        """The tokens of the probes at `chosen`."""
        return [self.bench.encode(self.bench.probes.probes[i].prompt) for i in chosen]

    def expected(self, measured: Measurement) -> Tensor:
        """(n,) what is expected on the prompts of `measured` (`maths.score`) by what the policy's ruler of prompts
        reads, or its own opinion where it has none; float64."""
        ruler, vectors = self.policy.prompts, measured.hidden
        if ruler is None:
            ruler, vectors = self.opinion, measured.X
        return expectation(read_by(ruler, vectors.double()), self.bench.config.behaviour.wanted_on)

    def measuring(self, per_step: int, rotation: int) -> Instruments:
        """The same with another stratified choice of probes: `per_step` of them (0: all), choice number `rotation`."""
        seed = self.bench.config.seed + rotation
        return replace(self, plan=plan_step(self.bench.probes, self.policy, self.frame, per_step, seed))


def open_bench(config: MonitorConfig, model: nn.Module, tokenizer: Any) -> Bench:
    """Resolves `config` on `model`.

    Raises `ConfigError` or `PrerequisiteError` for what does not fit: tokenizer, dictionary, width, hookpoint, probes.
    """
    config = resolve(config)
    check_tokenizer(tokenizer)
    probes = read_probes(config.probes.file, "probes")
    behaviour = resolve_behaviour(config.behaviour, tokenizer, config.policy.preset)
    device = next(model.parameters()).device
    dictionary = load_dictionary(config.dictionary.path, config.dictionary.sae_id).to(device)
    hook = config.dictionary.hook or dictionary.hook_name
    find_block(model, hook)
    check_width(dictionary, model)
    gate, position = str(config.dictionary.gate), str(config.dictionary.position)
    # Kept, since a template may write the date (Llama 3.2): at midnight a probe would become another prompt.
    encode = cache(partial(prompt_tokens, tokenizer, position=position, lead=behaviour.lead))
    reader = ProbeReader(
        model,
        behaviour,
        dictionary,
        hook,
        gate,
        torch.arange(dictionary.d_sae, device=device),
        tokenizer.pad_token_id,
        config.memory_gib,
    )
    if dictionary.threshold is None and gate == "continuous":
        reader = replace(reader, dictionary=_calibrated(replace(reader, gate="native"), config, probes, encode))
    prompts = [encode(p.prompt) for p in probes]
    check_reading(model, behaviour, prompts, tokenizer.pad_token_id)
    check_lead(model, tokenizer, prompts[0])
    found = Fingerprints(
        model_fingerprint(model), _place(dictionary, hook, gate, position), behaviour.fingerprint, probes.fingerprint
    )
    return Bench(config, probes, encode, tokenizer, reader, found)


def assemble(bench: Bench, policy: SymbolicPolicy | None = None, ranks: TrainingRanks = ALONE) -> Instruments:
    """The bench with `policy`, or with the policy its configuration names: loaded and checked, or fitted now; on
    several `ranks` theirs is the first one's."""
    given = ranks.of_first(policy is not None)
    if not given and (ranks.first or ranks.in_step):
        policy = _configured_policy(bench)
    policy = ranks.of_first(policy)
    assert policy is not None, "the first rank has one"
    frame = PolicyFrame.of(policy)
    ids = torch.tensor(policy.feature_ids, device=bench.reader.feature_ids.device)
    plan = plan_step(bench.probes, policy, frame, bench.config.probes.per_step, bench.config.seed)
    # The probe set's rows come first in the policy's X.
    own = opinion(policy, are_harmful(bench.probes))
    return Instruments(bench, policy, frame, own, replace(bench.reader, feature_ids=ids), plan, ranks)


def _configured_policy(bench: Bench) -> SymbolicPolicy:
    if bench.config.policy.path == "fit":
        return bench.fit()
    policy = load_policy(bench.config.policy.path)
    try:
        check_fingerprints(policy, bench.fingerprints)
    except PrerequisiteError:
        if bench.config.policy.mismatch == "error":
            raise
        return bench.fit()
    # A saved policy brings the rulers that it was saved with; own reference answers, or none, are taken as configured.
    return policy if bench.config.behaviour.answers == "shipped" else bench.with_answers(policy)


def _calibrated(
    reader: ProbeReader, config: MonitorConfig, probes: ProbeSet, encode: Callable[[str], PromptTokens]
) -> Dictionary:
    """A topk dictionary with the global threshold that gives its k on average over the fit set."""
    fit_set = [*probes, *_without(read_probes(config.probes.fit, "fit"), probes)]
    with quiet(reader.model):
        hidden = reader.measure([encode(p.prompt) for p in fit_set]).hidden
    z = reader.dictionary.pre_activations(hidden.to(reader.feature_ids.device))
    return reader.dictionary.calibrated(z)


def _place(dictionary: Dictionary, hook: str, gate: str, position: str) -> str:
    content = "|".join((dictionary.fingerprint, hook, gate, position))
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _without(further: ProbeSet, probes: ProbeSet) -> ProbeSet:
    """`further` less the prompts that are probes already."""
    known = set(probes.ids)
    return ProbeSet(tuple(p for p in further if p.id not in known))
