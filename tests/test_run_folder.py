"""The run folder is never overwritten and never deleted."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from synthetic_run import make_header

from smda_monitor.errors import ConfigError
from smda_monitor.outputs.ledger import Ledger
from smda_monitor.outputs.run_folder import check_run_folder, prepare_run_folder


def start_run(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Ledger(folder).start(make_header(folder))


def test_new_folder_is_made(tmp_path: Path) -> None:
    assert prepare_run_folder(tmp_path / "a" / "b", "error") is None
    assert (tmp_path / "a" / "b").is_dir()


def test_empty_folder_and_unfinished_write_are_no_run(tmp_path: Path) -> None:
    (tmp_path / ".manifest.json.tmp").touch()
    assert prepare_run_folder(tmp_path, "error") is None


def test_error_names_folder_and_date(tmp_path: Path) -> None:
    start_run(tmp_path / "demo")
    with pytest.raises(ConfigError, match=r"demo: found another run, started \d{4}-\d\d-\d\dT.*status running"):
        prepare_run_folder(tmp_path / "demo", "error")


def test_unreadable_manifest_is_still_a_run(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ConfigError, match="unknown date"):
        prepare_run_folder(tmp_path, "error")


def test_ledger_alone_is_a_run(tmp_path: Path) -> None:
    (tmp_path / "ledger").mkdir()
    with pytest.raises(ConfigError, match="another run"):
        prepare_run_folder(tmp_path, "error")


def test_move_aside_takes_the_first_free_number_and_keeps_everything(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    names = []
    for number in range(3):
        start_run(folder)
        (folder / "mark").write_text(str(number))
        names.append(prepare_run_folder(folder, "move_aside"))
        assert list(folder.iterdir()) == []
    assert names == [tmp_path / f"demo.{n}" for n in (1, 2, 3)]
    assert [(tmp_path / f"demo.{n}" / "mark").read_text() for n in (1, 2, 3)] == ["0", "1", "2"]
    assert (tmp_path / "demo.2" / "manifest.json").is_file()


def test_move_aside_skips_names_that_are_taken(tmp_path: Path) -> None:
    (tmp_path / "demo.1").symlink_to(tmp_path / "nowhere")  # dangling, yet taken
    (tmp_path / "demo.2").write_text("a file")
    start_run(tmp_path / "demo")
    assert prepare_run_folder(tmp_path / "demo", "move_aside") == tmp_path / "demo.3"
    assert (tmp_path / "demo.2").read_text() == "a file"


@pytest.mark.parametrize("exists", ["error", "move_aside"])
@pytest.mark.parametrize("resume", [False, True])
def test_other_content_is_refused_and_left(tmp_path: Path, exists: str, resume: bool) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match=r"thesis\.txt"):
        prepare_run_folder(tmp_path, exists, resume)  # type: ignore[arg-type]
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(ConfigError, match="found a file"):
        prepare_run_folder(tmp_path / "x", "move_aside")


@pytest.mark.parametrize("exists", ["error", "move_aside"])
def test_resume_keeps_the_run(tmp_path: Path, exists: str) -> None:
    start_run(tmp_path / "demo")
    assert prepare_run_folder(tmp_path / "demo", exists, resume=True) is None  # type: ignore[arg-type]
    assert (tmp_path / "demo" / "manifest.json").is_file()
    assert not (tmp_path / "demo.1").exists()


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="no such users here")
def test_a_folder_that_may_not_be_written_in_is_named() -> None:
    # Whoever may do anything is somebody else for a moment; pytest's own folders are closed to others.
    with tempfile.TemporaryDirectory() as place:
        here, me = Path(place), os.geteuid()
        here.chmod(0o555)
        if me == 0:
            os.seteuid(65534)
        try:
            for folder in (here, here / "new" / "run"):
                with pytest.raises(
                    ConfigError, match=rf"{folder}: found {here}, read-only; expected a folder to write in"
                ):
                    check_run_folder(folder, "error")
        finally:
            os.seteuid(me)
            here.chmod(0o755)
        check_run_folder(here / "new" / "run", "error")
