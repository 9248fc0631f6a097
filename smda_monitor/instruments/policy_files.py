"""A symbolic policy on disk: ``policy.safetensors`` (tensors) beside ``policy.json`` (everything else). Never pickle.

The JSON carries the SHA-256 of the tensor file, so a pair that does not belong together is refused. Loading checks
that nothing is missing, damaged or non-finite, that all shapes agree, and that the coefficients are the Ridge solution
of the X and y kept with them (`optimality_gap`): columns in another order, or rows of another set, do not get through.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, fields
from math import isfinite
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from ..errors import ConfigError, MeasurementError, PrerequisiteError, describe
from ..maths.pathways import GAP_LIMIT
from ..maths.ridge import optimality_gap
from ..records.policy import Fingerprints, Ruler, SymbolicPolicy
from .policy_header import SCHEMA, PolicyHeader

SHIPPED = Path(__file__).resolve().parents[1] / "assets" / "smollm2-135m-instruct" / "policy"
"""The folder that the word ``shipped`` stands for."""

TENSORS = dict.fromkeys(("coef", "y", "coef_low", "coef_high"), torch.float64) | {"X": torch.float32}
"""The policy's tensors and their types on disk; ``feature_ids`` (int64) comes beside them, and those of `RULERS` that
the policy has (float64, (d_in,))."""

RULERS = {"answers": "answer_direction", "asked": "asked_direction", "prompts": "prompt_direction"}
"""Under which name the direction of each ruler lies there; its offset lies in the header."""


def save_policy(policy: SymbolicPolicy, folder: str | Path) -> None:
    """Writes the two files into `folder`, all or nothing: into a new folder beside it, which is then renamed.

    An earlier policy there is replaced (moved out, then the new one in: a kill between the two leaves both in a hidden
    folder beside it) and other files in it are kept. Leave columns of X that are zero throughout out of the policy.

    Raises `MeasurementError` for a policy that `load_policy` would refuse, `ConfigError` where `folder` is a file,
    holds something else than a policy, or cannot be written.
    """
    if problem := _problem(policy):
        raise MeasurementError(describe(f"policy to save, {problem[0]}", *problem[1:], "fit the policy again"))
    folder = Path(folder).expanduser().absolute()
    replaces = folder.is_dir() and any(folder.iterdir())
    if (folder.exists() and not folder.is_dir()) or (replaces and not (folder / "policy.json").exists()):
        found = "a folder with other contents" if folder.is_dir() else "a file"
        raise ConfigError(describe(str(folder), found, "a new, empty or policy folder", "name another folder"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
            new, old = Path(scratch) / "new", Path(scratch) / "old"
            if replaces:
                shutil.copytree(folder, new, symlinks=True)
            else:
                new.mkdir()
            _write(policy, new)
            if folder.exists():
                folder.rename(old)
            try:
                new.rename(folder)
            except OSError:
                if old.exists():
                    old.rename(folder)
                raise
    except OSError as error:
        remedy = "check the path, its permissions and the free space"
        raise ConfigError(describe(f"policy folder {folder}", error, "a folder that can be written", remedy)) from error


def load_policy(folder: str | Path) -> SymbolicPolicy:
    """The policy saved in `folder`; ``shipped`` is the one that comes with the package.

    Raises `ConfigError`, naming the file, where one is missing, unreadable, truncated or of another schema, where
    shapes disagree, a value is NaN or Inf, or the coefficients do not belong to the X and y beside them.
    """
    shipped = str(folder) == "shipped"
    root = SHIPPED if shipped else Path(folder).expanduser()
    remedy = "install the package again" if shipped else "save the policy again, or set policy.path: fit"
    raw, data = (_read(root / name, remedy) for name in ("policy.json", "policy.safetensors"))
    header = _header(root / "policy.json", raw, remedy)
    path = root / "policy.safetensors"
    digest = hashlib.sha256(data).hexdigest()
    if digest != header.tensors_sha256:
        found, expected = f"{len(data)} bytes, SHA-256 {digest[:16]}…", f"SHA-256 {header.tensors_sha256[:16]}…"
        raise ConfigError(describe(f"{path} (damaged, truncated, or of another policy)", found, expected, remedy))
    tensors = _tensors(path, data, remedy)
    policy = SymbolicPolicy(
        preset=header.preset,
        alpha=header.alpha,
        feature_ids=tuple(tensors["feature_ids"].tolist()),
        coef=tensors["coef"],
        intercept=header.intercept,
        has_intercept=header.has_intercept,
        X=tensors["X"],
        y=tensors["y"],
        fit_ids=tuple(header.fit_ids),
        coef_low=tensors["coef_low"],
        coef_high=tensors["coef_high"],
        quality=header.quality.record(),
        fingerprints=header.fingerprints,
        answers=_ruler(tensors.get(RULERS["answers"]), header.answer_offset),
        asked=_ruler(tensors.get(RULERS["asked"]), header.asked_offset),
        prompts=_ruler(tensors.get(RULERS["prompts"]), header.prompt_offset),
        notes=header.notes,
    )
    if problem := _problem(policy):
        raise ConfigError(describe(f"policy in {root}, {problem[0]}", *problem[1:], remedy))
    return policy


def check_fingerprints(policy: SymbolicPolicy, found: Fingerprints) -> None:
    """Raises `PrerequisiteError` where `found` is not what `policy` is bound to, naming all that differ."""
    names = [f.name for f in fields(Fingerprints)]
    differing = [n for n in names if getattr(policy.fingerprints, n) != getattr(found, n)]
    if differing:
        raise PrerequisiteError(
            describe(
                f"the policy belongs to another {', '.join(differing)}; fingerprint",
                ", ".join(f"{n} {getattr(found, n)}" for n in differing),
                ", ".join(f"{n} {getattr(policy.fingerprints, n)}" for n in differing),
                "use what the policy was fitted on, or fit a new one at the start of training: `policy.path: fit`, or "
                "`policy.mismatch: refit` to do so only when a fingerprint differs",
            )
        )


def _problem(policy: SymbolicPolicy) -> tuple[str, str, str] | None:
    """(what, found, expected) of the first thing that makes a policy unusable; None where it is sound."""
    if policy.X.ndim != 2 or 0 in policy.X.shape:
        return "shape of X", str(tuple(policy.X.shape)), "(n, d), neither 0"
    n, d = policy.X.shape
    shapes = {"coef": (d,), "X": (n, d), "y": (n,), "coef_low": (d,), "coef_high": (d,)}
    for name, dtype in TENSORS.items():
        tensor: Tensor = getattr(policy, name)
        if tuple(tensor.shape) != shapes[name]:
            return f"shape of {name}", str(tuple(tensor.shape)), f"{shapes[name]}, as X is {(n, d)}"
        if tensor.dtype != dtype:
            return f"type of {name}", str(tensor.dtype), str(dtype)
        untaken = name in ("coef_low", "coef_high") and bool((policy.coef_low + policy.coef_high).isnan().all())
        if not untaken and not bool(torch.isfinite(tensor).all()):
            return f"values of {name}", f"{int((~torch.isfinite(tensor)).sum())} NaN or Inf", "finite values"
    for name, ids, length in (("feature_ids", policy.feature_ids, d), ("fit_ids", policy.fit_ids, n)):
        if len(ids) != length or len(set(ids)) != length:
            return name, f"{len(ids)}, {len(set(ids))} of them distinct", f"{length} distinct, as X is {(n, d)}"
    if min(policy.feature_ids) < 0:
        return "feature_ids", str(min(policy.feature_ids)), "ids of 0 or more"
    if not (isfinite(policy.alpha) and policy.alpha > 0):
        return "alpha", str(policy.alpha), "a finite number above 0"
    if not isfinite(policy.intercept) or (policy.intercept != 0 and not policy.has_intercept):
        return "intercept", str(policy.intercept), "a finite number, and 0 where has_intercept is false"
    for name in RULERS:
        ruler: Ruler | None = getattr(policy, name)
        if ruler is not None and not (bool(ruler.direction.isfinite().all()) and isfinite(ruler.offset)):
            return f"ruler of {name}", "NaN or Inf", "finite values"
    if not (gap := optimality_gap(policy)) <= GAP_LIMIT:
        return "optimality gap of coef", f"{gap:.2g}", f"at most {GAP_LIMIT:g}: coef fitted on this X, y and alpha"
    return None


def _write(policy: SymbolicPolicy, folder: Path) -> None:
    from safetensors.torch import save

    tensors = {name: getattr(policy, name).detach().cpu().contiguous().clone() for name in TENSORS}
    tensors["feature_ids"] = torch.tensor(policy.feature_ids, dtype=torch.int64)
    rulers = {name: ruler for name in RULERS if (ruler := getattr(policy, name)) is not None}
    for name, ruler in rulers.items():
        tensors[RULERS[name]] = ruler.direction.detach().cpu().contiguous().clone()
    data = save(tensors)
    header = {
        "schema_version": SCHEMA,
        "preset": policy.preset,
        "alpha": policy.alpha,
        "intercept": policy.intercept,
        "has_intercept": policy.has_intercept,
        "fit_ids": policy.fit_ids,
        "quality": {k: v if isfinite(v) else None for k, v in asdict(policy.quality).items()},
        "fingerprints": asdict(policy.fingerprints),
        "answer_offset": rulers["answers"].offset if "answers" in rulers else None,
        "asked_offset": rulers["asked"].offset if "asked" in rulers else None,
        "prompt_offset": rulers["prompts"].offset if "prompts" in rulers else None,
        "notes": policy.notes,
        "tensors_sha256": hashlib.sha256(data).hexdigest(),
    }
    text = (json.dumps(header, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    _header(folder / "policy.json", text, "correct the policy's records")  # what is written must load again
    for name, content in (("policy.safetensors", data), ("policy.json", text)):
        (folder / name).unlink(missing_ok=True)
        with open(folder / name, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def _ruler(direction: Tensor | None, offset: float | None) -> Ruler | None:
    return None if direction is None or offset is None else Ruler(direction, offset)


def _read(path: Path, remedy: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise ConfigError(describe(str(path), found, "a saved policy's file", remedy)) from error


def _header(path: Path, raw: bytes, remedy: str) -> PolicyHeader:
    try:
        return PolicyHeader.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        what = ", ".join([str(path), ".".join(str(part) for part in first["loc"])]).removesuffix(", ")
        raise ConfigError(describe(what, repr(first["input"])[:80], first["msg"], remedy)) from error


def _tensors(path: Path, data: bytes, remedy: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ConfigError(describe(str(path), f"unreadable ({error})", "a safetensors file", remedy)) from error
    names = {*TENSORS, "feature_ids"}
    if set(tensors) - set(RULERS.values()) != names:
        raise ConfigError(describe(f"{path}, tensors", sorted(tensors), sorted(names), remedy))
    ids = tensors["feature_ids"]
    if ids.ndim != 1 or ids.dtype != torch.int64:
        found = f"{ids.dtype} of shape {tuple(ids.shape)}"
        raise ConfigError(describe(f"{path}, feature_ids", found, "one dimension of torch.int64", remedy))
    return tensors
