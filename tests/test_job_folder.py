from __future__ import annotations

import json
from pathlib import Path

import pytest

from smda_monitor.errors import ConfigError
from smda_monitor.outputs.job_folder import (
    add_to_manifest,
    begin_job,
    begin_set_up,
    check_job_folder,
    removed_on_error,
)

IDENTITY = {"steps": 3, "config": {"rate": 0.1, "names": ("a", "b")}}


def manifest(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "manifest.json").read_text())
    return found


def test_a_job_is_begun_gone_on_with_and_finished(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    assert check_job_folder(folder, "proof", resume=False)
    begin_job(folder, "proof", IDENTITY, resume=False)
    begun = manifest(folder)
    assert (begun["kind"], begun["status"], begun["steps"]) == ("proof", "running", 3)
    assert not check_job_folder(folder, "proof", resume=True)
    begin_job(folder, "proof", IDENTITY, resume=True)
    assert manifest(folder) == begun
    add_to_manifest(folder, {"status": "finished"})
    assert manifest(folder) == {**begun, "status": "finished"}


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".half.tmp").touch()
    check_job_folder(tmp_path, "proof", resume=False)  # an unfinished write is no content
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"a folder that is not empty.*--resume a proof"):
        check_job_folder(tmp_path, "proof", resume=False)
    with pytest.raises(ConfigError, match="found a file"):
        check_job_folder(tmp_path / "notes.txt", "proof", resume=False)
    with pytest.raises(ConfigError, match="manifest"):
        check_job_folder(tmp_path, "proof", resume=True)
    begin_job(tmp_path, "audit", IDENTITY, resume=False)
    with pytest.raises(ConfigError, match="the folder of no proof"):
        check_job_folder(tmp_path, "proof", resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_what_was_killed_while_it_was_set_up_begins_anew(tmp_path: Path, resume: bool) -> None:
    begin_set_up(tmp_path, "proof", {"steps": 9})
    (tmp_path / "rows").mkdir()
    with pytest.raises(ConfigError):
        check_job_folder(tmp_path, "audit", resume)
    assert check_job_folder(tmp_path, "proof", resume)
    begin_job(tmp_path, "proof", IDENTITY, resume=False)
    assert (manifest(tmp_path)["status"], manifest(tmp_path)["steps"]) == ("running", 3)


def test_another_job_is_told_by_what_differs(tmp_path: Path) -> None:
    begin_job(tmp_path, "proof", IDENTITY, resume=False)
    with pytest.raises(ConfigError, match="a proof with other config and seed"):
        begin_job(tmp_path, "proof", {**IDENTITY, "config": {}, "seed": 1}, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_what_cannot_be_set_up_leaves_nothing_of_a_new_job(tmp_path: Path, resume: bool) -> None:
    folder = tmp_path / "job"

    def interrupted() -> None:
        with removed_on_error(folder, not resume):
            (folder / "rows").mkdir(parents=True)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert folder.exists() == resume
    with removed_on_error(tmp_path / "other", not resume):
        (tmp_path / "other").mkdir()
    assert (tmp_path / "other").exists()
