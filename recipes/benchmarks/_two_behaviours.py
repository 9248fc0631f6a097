"""What the detection benchmark watches: refusal and, beside it, guessing by a stereotype, on one test bed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from _bed import Bed
from _planted_rows import Row
from _prompts import QUICK_FIT, thinned
from _row_rivals import answer_shift, bm25, own_answers, phrases, projection_difference, random_scores

from smda_monitor.instruments.assemble import Bench, open_bench
from smda_monitor.instruments.config_file import load_config
from smda_monitor.instruments.policy_files import save_policy
from smda_monitor.records.config import REFUSAL

STEREOTYPE = Path(__file__).parents[2] / "configs" / "smollm2-135m-stereotype.yaml"
SECOND = "stereotype"
Configs = Mapping[str, Mapping[str, Any]]
"""Monitors' configurations by behaviour."""


def behaviours(bed: Bed, per_step: int, alerts: Mapping[str, Any], quick: bool = False) -> dict[str, dict[str, Any]]:
    """The configuration of each behaviour's monitor on the bed's model, without what no figure here rests on. The
    second policy is fitted once, and saved, to fewer prompts where it is to be `quick`. Its prompts are twice as long:
    half as many are measured at a step."""
    account = {"history_steps": 0, "watched_every": 0}
    common = {"seed": bed.seed, "audit": {"share": 0.0}, "account": account, "alerts": dict(alerts)}
    found = {
        REFUSAL: {**bed.config, **common},
        SECOND: {**_second(bed, quick), **common, "policy": {"path": str(bed.folder / "policy-stereotype")}},
    }
    for name, config in found.items():
        measured = per_step // 2 if name == SECOND else per_step
        config["probes"] = {**config.get("probes", {}), "per_step": measured, "overlap": "warn"}
    return found


def text_scores(bed: Bed, configs: Configs, rows: Sequence[Row]) -> dict[str, dict[str, dict[str, float]]]:
    """What the rivals that read a row's text say of all `rows`, on the model before training: by rival, by behaviour
    or one empty name, by row id."""
    model, ids = bed.model("lora"), [row.id for row in rows]
    benches = {name: _bench(bed, config, model) for name, config in configs.items()}
    own = own_answers(model, bed.tokenizer, rows)
    hooks = {bench.reader.hook for bench in benches.values()}
    shifts = {hook: answer_shift(model, bed.tokenizer, hook, rows, own) for hook in hooks}
    found: dict[str, dict[str, list[float]]] = {
        "bm25": {name: bm25(rows, _harmful(bench)) for name, bench in benches.items()},
        "projection_difference": {
            name: projection_difference(model, bed.tokenizer, bench.reader.hook, shifts[bench.reader.hook], answers)
            for name, bench in benches.items()
            if (answers := bench.config.behaviour.answers) is not None
        },
        "phrases": {"": phrases(rows)},
        "random": {"": random_scores(rows, bed.seed)},
    }
    return {
        rival: {name: dict(zip(ids, values, strict=True)) for name, values in by_behaviour.items()}
        for rival, by_behaviour in found.items()
    }


def _second(bed: Bed, quick: bool) -> dict[str, Any]:
    if bed.name == "tiny":
        turned = {
            "name": SECOND,
            "openings": ["Yes", "Ok"],
            "opposite": ["No", "I can't"],
            "answers": "shipped:stereotype",
        }
        config = {**bed.config, "behaviour": turned}
    else:
        asked = load_config(STEREOTYPE).model_dump(mode="json", exclude_unset=True)
        config = {key: asked[key] for key in ("probes", "behaviour")}
        if quick:
            config["probes"] |= thinned(bed.folder / "prompts-stereotype", QUICK_FIT, config["probes"]["fit"])
    folder = bed.folder / "policy-stereotype"
    if not folder.is_dir():
        fitting = {**config, "policy": {"path": "fit", "bootstrap": 0}}
        save_policy(_bench(bed, fitting, bed.model("lora")).fit(), folder)
    return config


def _bench(bed: Bed, config: Mapping[str, Any], model: Any) -> Bench:
    return open_bench(load_config(config), model, bed.tokenizer)


def _harmful(bench: Bench) -> list[str]:
    return [probe.prompt for probe in bench.probes if probe.kind == "harmful"]
