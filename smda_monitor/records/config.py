"""The monitor's configuration: one YAML file or one `MonitorConfig`, unknown keys refused by name.

Each section is a frozen pydantic model; a field's docstring is its documentation and gives the unit. Relative paths are
resolved against the file's folder; the word ``shipped`` names what comes with the package.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from .alerts_config import AlertsConfig
from .section import Section

Preset = Literal["robust", "paper"]
WantedOn = Literal["harmful", "harmless"]
REFUSAL = "refusal"
"""The name of the shipped behaviour."""


class ModelConfig(Section):
    """Which model `smda check` and the recipes load. The callback always takes the trainer's own model."""

    name: str = "smollm2-135m-instruct"
    """``smollm2-135m-instruct`` (the embedded model), a folder, or a hub id."""
    adapter: str | None = None
    """A PEFT adapter put on top: ``shipped`` (the refusing adapter of the embedded model), a folder or a hub id."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the weights once loaded."""


class ProbesConfig(Section):
    """What is measured."""

    file: str = "shipped"
    """Probe set: ``shipped`` (refusal's), ``shipped:stereotype``, a JSONL file, a ``datasets`` id; so the next two."""
    fit: str = "shipped"
    """Further prompts on which the policy is fitted, beside the probes."""
    heldout: str = "shipped"
    """Prompts for measuring the policy's fidelity alone."""
    per_step: Annotated[int, Field(ge=0)] = 32
    """Probes measured between the first and the last snapshot, stratified by kind and category; 0 measures all."""
    overlap: Literal["error", "warn"] = "error"
    """When a training prompt is also a probe: refuse, or say so and go on."""
    own_prompts: bool = True
    """Read each training row on its own prompt too (needed for its score)."""


class BehaviourConfig(Section):
    """Which behaviour is read. Without openings: the shipped refusal."""

    name: Annotated[str, Field(min_length=1)] = REFUSAL
    """A word for titles and tables, and the place of its figures in W&B. Monitors of one training need one each."""
    openings: tuple[str, ...] = ()
    """Response openings that show the behaviour; empty takes the shipped refusal openings."""
    opposite: tuple[str, ...] = ()
    """Openings of the opposite behaviour, for the contrast reading; empty takes the shipped ones."""
    lead: str = ""
    """What stands between the generation prompt and the openings of all answers, such as an empty block of thinking;
    prompts are read behind it."""
    wanted_on: WantedOn = "harmful"
    """Probe kinds on which the behaviour is right: ``harmful`` (as refusal is), or ``harmless``, the other two. Alerts,
    scores and flags of gaps are turned accordingly."""
    answers: str | None = "shipped"
    """Reference answers, to read what a row teaches: ``shipped`` (for the shipped openings alone), or a JSONL file as
    `read_reference_answers` takes it, of which ``shipped:stereotype`` is one; null for none."""


class DictionaryConfig(Section):
    """The sparse autoencoder through which features are read."""

    path: str = "shipped"
    """``shipped``, a folder in sae-lens format, or a release of the sae-lens registry or hub."""
    sae_id: str | None = None
    """The dictionary's id inside a release; None for a folder."""
    hook: str | None = None
    """Overrides the hookpoint that the dictionary names, e.g. ``blocks.22.hook_resid_post``."""
    gate: Literal["continuous", "relu_proxy", "native"] | None = None
    """``continuous`` relu(z − θ), ``relu_proxy`` relu(z), ``native``; None: continuous, or relu_proxy under paper."""
    position: Literal["last_prompt_token", "last_user_token"] | None = None
    """The token at which features are read; None: last_prompt_token for robust, last_user_token for paper."""


class PolicyConfig(Section):
    """The symbolic policy."""

    path: str = "shipped"
    """``shipped``, a saved policy's folder, or ``fit`` to fit one at the start of training."""
    preset: Preset = "robust"
    """``robust`` or ``paper``; sets gate, position, reading, intercept, alpha and feature choice together."""
    feature_contrast: Annotated[float, Field(ge=0)] | None = None
    """Keep features with |mean over harmful − mean over the others| above this, activation units; None: 0 (all that are
    ever active) for robust, 0.1 for paper."""
    mismatch: Literal["error", "refit"] = "error"
    """When the saved policy belongs to other weights, probes, openings or dictionary: refuse, or fit anew at start."""
    bootstrap: Annotated[int, Field(ge=0)] = 200
    """Bootstrap resamples for the coefficients' intervals."""


class AccountConfig(Section):
    """How the step account is kept."""

    every: Annotated[int, Field(ge=1)] = 1
    """Optimizer steps between two snapshots; an account covers them all."""
    history_steps: Annotated[int, Field(ge=0)] = 24
    """Momentum's part is handed on to the rows of so many steps before an account, whose gradients are kept, beside
    those within it; 0: to none before it. A resumed run begins with none."""
    history_gib: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """Memory for these gradients, GiB (half precision); as many of the last steps are kept as fit."""
    watched_features: Annotated[int, Field(ge=0)] = 16
    """Features with ΔW in every account, and for every audited row: so many that lead the policy by |w_k|·std(X_k)."""
    watched_drifting: Annotated[int, Field(ge=0)] = 8
    """And so many of the others that have drifted most since step 0, by |drift_k·w_k|; chosen anew at each account
    that splits them, none before the first."""
    watched_every: Annotated[int, Field(ge=0)] = 10
    """Accounts from one that splits the watched features' ΔW among the rows of its last step to the next; 0: never."""
    watched_by: Literal["auto", "backward", "replay"] = "auto"
    """How: a backward for every feature, a replay for every row, or whichever is less work."""


class TrainingConfig(Section):
    """The training that `smda audit` looks ahead to, as your own SFTTrainer is set up."""

    arguments: dict[str, Any] = Field(default_factory=dict)
    """Of `trl.SFTConfig`: learning_rate, per_device_train_batch_size, optim, max_length, …"""
    lora: dict[str, Any] | None = None
    """Of `peft.LoraConfig`; None: the model's own adapter trains (``model.adapter``) or, without one, all of it."""


class DataAuditConfig(Section):
    """How `smda audit` judges the rows of a data set before training."""

    update: Literal["robust", "paper"] | None = None
    """The step that is taken on a row. ``robust``: that of ``training``, from a state warmed on the same rows;
    ``paper``: one of plain SGD, lr 1e-4, all parameters, eval mode, mean loss of the answer. None: by the preset."""
    method: Literal["gradient", "replay"] = "gradient"
    """``replay``: every row's step is taken, and the probes measured; ``gradient``: it is read on the gradients of the
    probes' targets, first order and several times faster."""
    probes: Annotated[int, Field(ge=0)] = 48
    """A stratified part of the probe set; 0: all of it."""
    warm_up: Annotated[int, Field(ge=0)] = 12
    """Optimizer steps on the rows before they are judged, under ``robust``: Adam's state is then one of training."""
    check: Annotated[int, Field(ge=0)] = 8
    """Rows that ``gradient`` also replays, to say how close it comes; 0: none."""


class AuditConfig(Section):
    """How often the monitor checks itself: a step is replayed without one row and measured, before it is taken."""

    share: Annotated[float, Field(ge=0, le=1)] = 0.03
    """Part of the run's wall time that replays of randomly drawn rows may take, one at most in an account, at any of
    its steps; 0 never checks. The first account is always checked; with ``overhead`` set the first whose replay its
    part for audits pays for."""
    rows: tuple[str, ...] = ()
    """Ids of rows that are replayed whenever they come, whatever that costs."""


class OutputsConfig(Section):
    """Where figures go."""

    folder: Annotated[str, Field(min_length=1)] = "runs/smda"
    """The run folder: ledger, manifest, report."""
    exists: Literal["error", "move_aside"] = "error"
    """When the folder holds another run: refuse, or rename the old one with a number."""
    wandb: bool = True
    """Log to the W&B run in progress; where there is none nothing is logged and nothing fails."""
    row_text: Literal["none", "local", "upload"] = "none"
    """Where the text of training rows may appear: nowhere, in local files and the report, or in W&B too."""
    leading_features: Annotated[int, Field(ge=1)] = 16
    """Features listed in each account, by |ΔW_k w_k|."""


class MonitorConfig(Section):
    """The whole configuration of one monitored run."""

    model: ModelConfig = ModelConfig()
    """Which model the recipes load."""
    probes: ProbesConfig = ProbesConfig()
    """What is measured."""
    behaviour: BehaviourConfig = BehaviourConfig()
    """Which behaviour is read."""
    dictionary: DictionaryConfig = DictionaryConfig()
    """Through which features."""
    policy: PolicyConfig = PolicyConfig()
    """The symbolic policy."""
    account: AccountConfig = AccountConfig()
    """How the step account is kept."""
    alerts: AlertsConfig = AlertsConfig()
    """When to speak up."""
    audit: AuditConfig = AuditConfig()
    """How often the monitor checks itself."""
    training: TrainingConfig = TrainingConfig()
    """The training that an audit of data looks ahead to; the monitor itself asks the trainer."""
    data_audit: DataAuditConfig = DataAuditConfig()
    """How rows are judged before training."""
    outputs: OutputsConfig = OutputsConfig()
    """Where figures go."""
    overhead: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Budget of time: the part of plain training time that the monitor may add, e.g. 0.10. It then chooses: at least
    ``account.every``, at most ``probes.per_step``, audits for a third of it. None: as configured."""
    memory_gib: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 4.0
    """Budget of one probe pass, GiB: probes are measured in chunks under it. And of the steps that wait for their
    account: where ``account.every`` of them do not fit, accounts cover fewer, with a warning. Gradients by probe or by
    waiting row are in bfloat16 where float32 would take more than an eighth of it."""
    seed: int = 0
    """Of the stratified choice of probes and of the bootstrap; training's own random state is never touched."""
    allow_untested: bool = False
    """Try modes whose parts are tested, and that could not be run as a whole (FSDP2)."""
    on_error: Literal["raise", "warn"] = "raise"
    """A failed measurement stops training, or is recorded and warned of while training goes on unmonitored."""
