"""A policy saved and loaded is the same; anything missing, damaged or swapped is named before it is used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from smda_monitor.errors import ConfigError, MeasurementError, PrerequisiteError
from smda_monitor.instruments.policy_files import RULERS, SHIPPED, check_fingerprints, load_policy, save_policy
from smda_monitor.maths.ridge import bootstrap_coef, fit_ridge
from smda_monitor.records.policy import Fingerprints, PolicyQuality, Ruler, SymbolicPolicy


def make_policy(seed: int = 0, intercept: bool = True) -> SymbolicPolicy:
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(12, 5, generator=generator).relu()
    y = torch.randn(12, generator=generator, dtype=torch.float64) - 12
    fit = fit_ridge(X.double(), y, 2.0, intercept)
    low, high = bootstrap_coef(X.double(), y, 2.0, intercept, 10, 0)
    return SymbolicPolicy(
        preset="robust" if intercept else "paper",
        alpha=2.0,
        feature_ids=(7, 3, 2000, 11, 0),
        coef=fit.coef,
        intercept=fit.intercept,
        has_intercept=intercept,
        X=X,
        y=y,
        fit_ids=tuple(f"prompt-{i}-é" for i in range(12)),
        coef_low=low,
        coef_high=high,
        quality=PolicyQuality(0.97, float("nan"), 0.0, 0),
        fingerprints=Fingerprints("model-a", "dictionary-a", "behaviour-a", "probes-a"),
        notes={"recipe": "fit_policy.py", "seed": "0"},
    )


def assert_equal(one: SymbolicPolicy, two: SymbolicPolicy) -> None:
    for f in fields(SymbolicPolicy):
        a, b = getattr(one, f.name), getattr(two, f.name)
        if isinstance(a, Tensor):
            assert a.dtype == b.dtype, f.name
            assert torch.equal(a.nan_to_num(-99), b.nan_to_num(-99)), f.name
        else:
            assert repr(a) == repr(b), f.name  # repr, as NaN is not equal to itself


@pytest.mark.parametrize("intercept", [True, False])
def test_round_trip_is_bit_for_bit(tmp_path: Path, intercept: bool) -> None:
    policy = make_policy(intercept=intercept)
    save_policy(policy, tmp_path / "deep" / "policy")
    assert_equal(load_policy(tmp_path / "deep" / "policy"), policy)
    assert {p.name for p in (tmp_path / "deep" / "policy").iterdir()} == {"policy.safetensors", "policy.json"}
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["policy"], "nothing is left of the temporary folder"
    header = json.loads((tmp_path / "deep" / "policy" / "policy.json").read_text(encoding="utf-8"))
    assert header["quality"]["r2_heldout"] is None, "JSON has no NaN"


def test_round_trip_of_views_and_of_intervals_not_taken(tmp_path: Path) -> None:
    policy = make_policy()
    unknown = torch.full((5,), float("nan"), dtype=torch.float64)
    odd = replace(policy, X=policy.X.T.contiguous().T, coef_low=unknown, coef_high=unknown)
    save_policy(odd, tmp_path / "policy")
    assert_equal(load_policy(str(tmp_path / "policy")), odd)


def test_rulers_come_back(tmp_path: Path) -> None:
    """Each under its own name; one that is not there is None again."""
    rulers = {name: Ruler(torch.randn(4).double(), 0.1 * k) for k, name in enumerate(RULERS)}
    for lacking in RULERS:
        saved = {name: ruler for name, ruler in rulers.items() if name != lacking}
        save_policy(replace(make_policy(), **saved), tmp_path / lacking)
        found = load_policy(tmp_path / lacking)
        assert getattr(found, lacking) is None
        for name, ruler in saved.items():
            there = getattr(found, name)
            assert torch.equal(there.direction, ruler.direction)
            assert there.offset == ruler.offset


def test_a_second_save_replaces_the_policy_and_keeps_the_card(tmp_path: Path) -> None:
    save_policy(make_policy(0), tmp_path / "policy")
    (tmp_path / "policy" / "README.md").write_text("card")
    save_policy(make_policy(1), str(tmp_path / "policy"))
    assert_equal(load_policy(tmp_path / "policy"), make_policy(1))
    assert (tmp_path / "policy" / "README.md").read_text() == "card"
    assert [p.name for p in tmp_path.iterdir()] == ["policy"]


def test_a_failed_save_leaves_the_earlier_policy(tmp_path: Path) -> None:
    save_policy(make_policy(0), tmp_path / "policy")
    with pytest.raises(MeasurementError, match="values of coef"):
        save_policy(replace(make_policy(1), coef=make_policy(1).coef * float("nan")), tmp_path / "policy")
    with pytest.raises(ConfigError, match=r"preset: found 'mine'"):
        save_policy(replace(make_policy(1), preset="mine"), tmp_path / "policy")
    assert_equal(load_policy(tmp_path / "policy"), make_policy(0))
    assert [p.name for p in tmp_path.iterdir()] == ["policy"]


def test_a_folder_that_is_no_policy_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="other contents"):
        save_policy(make_policy(), tmp_path)
    with pytest.raises(ConfigError, match="a file"):
        save_policy(make_policy(), tmp_path / "thesis.txt")
    with pytest.raises(ConfigError, match="policy folder"):
        save_policy(make_policy(), tmp_path / "thesis.txt" / "policy")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    (tmp_path / "empty").mkdir()
    save_policy(make_policy(), tmp_path / "empty")
    assert_equal(load_policy(tmp_path / "empty"), make_policy())


def unlink(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def truncate(name: str, keep: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(keep * len(data))])

    return damage


def flip_one_bit(folder: Path) -> None:
    data = bytearray((folder / "policy.safetensors").read_bytes())
    data[-5] ^= 1
    (folder / "policy.safetensors").write_bytes(data)


def write_list(folder: Path) -> None:
    (folder / "policy.json").write_text("[1]")


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Changes the header."""

    def damage(folder: Path) -> None:
        header = json.loads((folder / "policy.json").read_text())
        change(header)
        (folder / "policy.json").write_text(json.dumps(header))

    return damage


def sign(folder: Path) -> None:
    """Writes the hash of the tensor file as it now is, so that only the content can give it away."""
    digest = hashlib.sha256((folder / "policy.safetensors").read_bytes()).hexdigest()
    edit(lambda header: header.update(tensors_sha256=digest))(folder)


def retensor(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    """Changes the tensors and signs them."""

    def damage(folder: Path) -> None:
        tensors = load_file(folder / "policy.safetensors")
        change(tensors)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "policy.safetensors")
        sign(folder)

    return damage


def garbage(folder: Path) -> None:
    (folder / "policy.safetensors").write_bytes(b"\x80\x04cposix\nsystem\n")  # the head of a hostile pickle
    sign(folder)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no tensors": (unlink("policy.safetensors"), r"policy\.safetensors: found no such file"),
    "no header": (unlink("policy.json"), r"policy\.json: found no such file"),
    "tensors cut": (truncate("policy.safetensors", 0.6), "damaged, truncated"),
    "tensors empty": (truncate("policy.safetensors", 0), "found 0 bytes"),
    "one bit": (flip_one_bit, "damaged, truncated"),
    "header cut": (truncate("policy.json", 0.6), r"policy\.json: found .*Invalid JSON"),
    "header empty": (truncate("policy.json", 0), "Invalid JSON"),
    "header a list": (write_list, r"policy\.json: found \[1\]"),
    "not safetensors": (garbage, "unreadable"),
    "later schema": (edit(lambda h: h.update(schema_version=2)), "schema_version: found 2"),
    "no schema": (edit(lambda h: h.pop("schema_version")), "schema_version"),
    "unknown key": (edit(lambda h: h.update(colour="red")), "colour: found 'red'"),
    "no fingerprint": (edit(lambda h: h["fingerprints"].pop("model")), r"fingerprints\.model"),
    "alpha a word": (edit(lambda h: h.update(alpha="five")), "alpha: found 'five'"),
    "alpha negative": (edit(lambda h: h.update(alpha=-1.0)), "alpha: found -1"),
    "preset": (edit(lambda h: h.update(preset="mine")), "preset: found 'mine'"),
    "intercept": (edit(lambda h: h.update(has_intercept=False)), "intercept: found"),
    "an id less": (edit(lambda h: h["fit_ids"].pop()), "fit_ids: found 11, 11 of them distinct; expected 12"),
    "an id twice": (edit(lambda h: h.update(fit_ids=h["fit_ids"][:-1] + h["fit_ids"][:1])), "12, 11 of them distinct"),
    "tensor missing": (retensor(lambda t: t.pop("y")), "tensors"),
    "coef short": (retensor(lambda t: t.update(coef=t["coef"][:4])), r"shape of coef: found \(4,\); expected \(5,\)"),
    "y long": (retensor(lambda t: t.update(y=torch.cat([t["y"], t["y"]]))), r"shape of y: found \(24,\)"),
    "X flat": (retensor(lambda t: t.update(X=t["X"].flatten())), r"shape of X: found \(60,\)"),
    "X half": (retensor(lambda t: t.update(X=t["X"].half())), r"type of X: found torch\.float16"),
    "X empty": (retensor(lambda t: t.update(X=t["X"][:0])), r"shape of X: found \(0, 5\)"),
    "ids float": (retensor(lambda t: t.update(feature_ids=t["feature_ids"].double())), "feature_ids"),
    "ids twice": (retensor(lambda t: t["feature_ids"].fill_(3)), "feature_ids: found 5, 1 of them distinct"),
    "id negative": (retensor(lambda t: t["feature_ids"][0].fill_(-3)), "feature_ids: found -3"),
    "NaN in X": (retensor(lambda t: t["X"][2, 2].fill_(float("nan"))), "values of X: found 1 NaN"),
    "Inf in y": (retensor(lambda t: t["y"][2].fill_(float("inf"))), "values of y: found 1 NaN or Inf"),
    "NaN in coef_low": (retensor(lambda t: t["coef_low"][1].fill_(float("nan"))), "values of coef_low"),
    "columns swapped": (retensor(lambda t: t.update(X=t["X"].flip(1))), "optimality gap"),
    "rows swapped": (retensor(lambda t: t.update(y=t["y"].flip(0))), "optimality gap"),
    "another alpha": (edit(lambda h: h.update(alpha=3.0)), "optimality gap"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_refused_by_name(tmp_path: Path, name: str) -> None:
    damage, message = DAMAGES[name]
    folder = tmp_path / "policy"
    save_policy(make_policy(), folder)
    load_policy(folder)
    damage(folder)
    with pytest.raises(ConfigError, match=message) as caught:
        load_policy(folder)
    assert "What to do:" in str(caught.value)
    assert str(folder) in str(caught.value)


def test_the_tools_of_damage_do_none_by_themselves(tmp_path: Path) -> None:
    save_policy(make_policy(), tmp_path / "policy")
    edit(lambda header: None)(tmp_path / "policy")
    retensor(lambda tensors: None)(tmp_path / "policy")
    assert_equal(load_policy(tmp_path / "policy"), make_policy())


def test_a_pair_of_two_policies_is_refused(tmp_path: Path) -> None:
    save_policy(make_policy(0), tmp_path / "one")
    save_policy(make_policy(1), tmp_path / "two")
    (tmp_path / "two" / "policy.safetensors").replace(tmp_path / "one" / "policy.safetensors")
    with pytest.raises(ConfigError, match="another policy"):
        load_policy(tmp_path / "one")
    with pytest.raises(ConfigError, match="no such file"):
        load_policy(tmp_path / "none")


def test_shipped_is_the_package_folder() -> None:
    assert SHIPPED.parts[-4:] == ("smda_monitor", "assets", "smollm2-135m-instruct", "policy")
    if SHIPPED.exists():
        shipped = load_policy("shipped")
        assert shipped.preset == "robust"
        assert all(getattr(shipped, name) is not None for name in RULERS)
    else:
        with pytest.raises(ConfigError, match="smollm2-135m-instruct"):
            load_policy("shipped")


def test_fingerprints() -> None:
    policy = make_policy()
    check_fingerprints(policy, Fingerprints("model-a", "dictionary-a", "behaviour-a", "probes-a"))
    for name in ("model", "dictionary", "behaviour", "probes"):
        with pytest.raises(PrerequisiteError) as caught:
            check_fingerprints(policy, replace(policy.fingerprints, **{name: "other"}))
        message = str(caught.value)
        assert f"another {name};" in message
        assert f"found {name} other" in message
        assert f"expected {name} {name}-a" in message
        assert "policy.path: fit" in message
        assert "policy.mismatch: refit" in message
        assert message.count("-a") == 1, "those that agree are not named"
    with pytest.raises(PrerequisiteError, match="another model, probes;"):
        check_fingerprints(policy, replace(policy.fingerprints, model="x", probes="y"))
