"""Snapshots on disk: tensors and their words in one safetensors file, never pickle."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import overload

from ..errors import ConfigError, describe
from ..records.snapshot import DictionaryHealth, Snapshot
from .files import write_atomic
from .text import storable

_TENSORS = ("X", "y", "mass", "contrast", "openings")
_NAME = re.compile(r"step-(\d{6,})\.safetensors")


def snapshot_path(folder: Path, step: int) -> Path:
    """Where the snapshot of `step` lies inside the run folder."""
    return folder / "snapshots" / f"step-{step:06d}.safetensors"


def save_snapshot(folder: Path, snapshot: Snapshot) -> Path:
    """Writes the snapshot atomically: tensors under their names, step, probe ids and health in the file's header."""
    from safetensors.torch import save_file

    tensors = {name: getattr(snapshot, name).detach().cpu().contiguous().clone() for name in _TENSORS}
    words = {
        "step": str(snapshot.step),
        "probe_ids": json.dumps([storable(i) for i in snapshot.probe_ids]),
        "fvu": repr(float(snapshot.health.fvu)),
        "l0": repr(float(snapshot.health.l0)),
        "dead": repr(float(snapshot.health.dead)),
    }
    path = snapshot_path(folder, snapshot.step)
    write_atomic(path, lambda temporary: save_file(tensors, temporary, words))
    return path


def load_snapshot(path: Path) -> Snapshot:
    """Reads one snapshot back. Raises `ConfigError` naming the file where it is not one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as handle:
            words = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in _TENSORS}
            health = DictionaryHealth(float(words["fvu"]), float(words["l0"]), float(words["dead"]))
            return Snapshot(int(words["step"]), tuple(json.loads(words["probe_ids"])), **tensors, health=health)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ConfigError(
            describe(
                f"snapshot {path}", f"a file that cannot be read ({error})", "a snapshot", "restore it, or remove it"
            )
        ) from error


def snapshot_files(folder: Path) -> dict[int, Path]:
    """The snapshots in a run folder, by step."""
    home = folder / "snapshots"
    found = {int(m[1]): p for p in (home.iterdir() if home.is_dir() else ()) if (m := _NAME.fullmatch(p.name))}
    return dict(sorted(found.items()))


class SnapshotFiles(Sequence[Snapshot]):
    """The snapshots of a run in order of step, each read from disk when it is asked for: a long run's do not fit into
    memory together. Indexing raises `ConfigError` for a corrupt file."""

    def __init__(self, folder: Path) -> None:
        self._files = list(snapshot_files(folder).items())

    @property
    def steps(self) -> list[int]:
        """The steps at which there is a snapshot."""
        return [step for step, _ in self._files]

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, index: int) -> Snapshot: ...
    @overload
    def __getitem__(self, index: slice) -> list[Snapshot]: ...
    def __getitem__(self, index: int | slice) -> Snapshot | list[Snapshot]:
        if isinstance(index, slice):
            return [load_snapshot(path) for _, path in self._files[index]]
        return load_snapshot(self._files[index][1])
