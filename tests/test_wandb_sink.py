"""What really reaches W&B: an offline run is made, its file read back, and looked through for row text."""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import make_account, make_alerts, make_audit, make_header, make_row_texts, make_snapshot

from smda_monitor.outputs.ledger import Ledger
from smda_monitor.outputs.sink import SinkGroup
from smda_monitor.outputs.wandb_sink import PART, WandbSink, artifact_files, scalars

SECRET = "a sentence of training text that must stay at home"
BLOCK = 32768


def records(path: Path) -> Iterator[Any]:
    """The protobuf records of a ``.wandb`` file: a 7-byte header, then blocks of 32 KiB that hold records behind heads
    of 7 bytes (checksum, length, kind: 1 whole, 2 first, 3 middle, 4 last), as LevelDB's log does. Where the file is
    still being written it may end within a record: that one is not there yet."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, pending = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:  # a head never straddles blocks; the rest is padding
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        if at + 7 + length > len(data):
            return
        pending += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(pending)
            pending = b""
            yield record


def history(found: list[Any]) -> list[dict[str, Any]]:
    lines = []
    for record in found:
        if record.WhichOneof("record_type") == "history":
            lines.append({"|".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item})
    return lines


def of_kind(found: list[Any], kind: str) -> list[Any]:
    return [getattr(r, kind) for r in found if r.WhichOneof("record_type") == kind]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything that wandb writes stays under this folder."""
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path


def monitored_run(
    home: Path, row_text: str, steps: int = 5, flush_every: int = 2, behaviour: str = "refusal"
) -> list[Any]:
    """A whole monitored run inside a real offline W&B run; returns the records in its file."""
    import wandb

    folder = home / "run"
    folder.mkdir()
    header = replace(make_header(folder), behaviour=behaviour)
    accounts = [make_account(step, header.policy) for step in range(1, steps + 1)]
    ledger = Ledger(folder)
    sinks = SinkGroup(ledger, [WandbSink(row_text, flush_every=flush_every)])  # type: ignore[arg-type]
    settings = wandb.Settings(console="off", silent=True, x_disable_stats=True)
    with wandb.init(mode="offline", dir=str(home), project="smda-test", settings=settings) as run:
        sinks.start(header)
        ledger.row_texts([{**text, "prompt": SECRET, "response": SECRET} for text in make_row_texts(accounts)])
        (folder / "report.html").write_text(SECRET)
        (folder / "policy").mkdir()
        (folder / "policy" / "policy.json").write_text("{}")
        sinks.snapshot(make_snapshot(header.probes, 0))
        for account in accounts:
            run.log({"train/loss": 1.0 / account.step, "train/global_step": account.step})  # as the trainer does
            sinks.audits([make_audit(account.step, place=i) for i in range(min(9, 1 + account.step))])
            sinks.account(account)
        for alert in (*make_alerts(), *make_alerts()):
            sinks.alert(alert)
        sinks.finish({})
        assert sinks.failures == []
    (path,) = home.glob("wandb/offline-run-*/*.wandb")
    for _ in range(600):  # wandb's own process may still be writing when finish() has returned
        found = list(records(path))
        if found and found[-1].WhichOneof("record_type") == "exit":
            return found
        time.sleep(0.1)
    raise AssertionError(f"{path} never got its last record")


def everything_written(home: Path) -> str:
    """All that wandb has put anywhere, as one text."""
    files = [p for folder in ("wandb", "WANDB_DATA_DIR", "WANDB_CACHE_DIR") for p in (home / folder).rglob("*")]
    return "".join(p.read_bytes().decode("utf-8", "replace") for p in files if p.is_file())


def test_offline_run_holds_what_was_logged_and_no_row_text(home: Path) -> None:
    found = monitored_run(home, "local")
    lines = history(found)
    ours = {line["train/global_step"]: line for line in lines if "smda/seconds" in line}
    assert sorted(ours) == [1, 2, 3, 4, 5]
    account = make_account(3, make_header(home).policy)
    line = ours[3]
    assert line["smda/refusal/mass.harmful"] == pytest.approx(account.refusal["mass.harmful"])
    assert line["smda/refusal/contrast.benign"] == pytest.approx(account.refusal["contrast.benign"])
    assert line["smda/measured/S_X"] == pytest.approx(account.balance("S_X").measured)
    assert line["smda/unexplained/S_Y"] == pytest.approx(account.balance("S_Y").unexplained_fraction)
    assert line["smda/health/fvu"] == pytest.approx(account.health.fvu)
    rows = [row for step in (1, 2, 3) for row in make_account(step, make_header(home).policy).rows]
    so_far = sum(r.absolute_shift * r.interference for r in rows) / sum(r.absolute_shift for r in rows)
    assert line["smda/run/interference"] == pytest.approx(so_far)
    assert line["smda/interference"] != pytest.approx(so_far)
    assert len([key for key in line if key.startswith("smda/")]) < 20  # few scalars
    # never step=: W&B's own step counts every log, the trainer's too, without a gap
    assert [entry["_step"] for entry in lines] == list(range(len(lines)))
    defined = {m.name or m.glob_name: m for m in of_kind(found, "metric")}
    assert defined["smda/*"].step_metric == "train/global_step"
    assert SECRET not in everything_written(home)
    assert "demo-003" in everything_written(home)  # ids are there, so it was not merely empty


def test_the_figures_of_two_behaviours_stay_apart(home: Path) -> None:
    """Monitors of one run log into one W&B run."""
    found = monitored_run(home, "none", behaviour="a guess")
    names = {name for line in history(found) for name in line if name.startswith("smda")}
    assert {"smda/a-guess/mass.harmful", "smda/a-guess/measured/S_X", "smda/a-guess/audit/sign"} <= names
    assert all(name.startswith("smda/a-guess/") for name in names)
    (ledger,) = [a.name for a in of_kind(found, "artifact") if a.type == "smda-ledger"]
    assert ledger.startswith("smda-a-guess-ledger-")
    account = make_account(1, make_header(home).policy)
    assert not set(scalars(account, "a guess")) & set(scalars(account))


def test_the_audits_fidelity_is_pooled_over_the_run(home: Path) -> None:
    lines = {
        line["train/global_step"]: line for line in history(monitored_run(home, "none")) if "smda/audit/sign" in line
    }
    assert sorted(lines) == [1, 2, 3, 4, 5]
    assert lines[5]["smda/audit/relative_error"] == pytest.approx(0.02)
    assert lines[5]["smda/audit/sign"] == 1.0
    assert "smda/audit/spearman" not in lines[2], "five entries of a target have no ranks worth naming"
    assert lines[3]["smda/audit/spearman"] == pytest.approx(1.0)


def test_alerts_are_named_and_sent_once(home: Path) -> None:
    alerts = of_kind(monitored_run(home, "none", steps=1), "alert")
    assert [a.title for a in alerts] == [a.title for a in make_alerts()]
    assert alerts[0].title.startswith("refusal of harmful probes")
    assert "demo-123" in alerts[0].text
    assert alerts[0].level == "WARN"


def test_table_is_incremental_and_holds_every_row_once(home: Path) -> None:
    monitored_run(home, "none", steps=5, flush_every=2)
    tables = sorted(home.glob("wandb/offline-run-*/files/media/table/smda/rows*.table.json"))
    assert len(tables) == 3  # after 2, after 4, the rest at the end
    content = [json.loads(path.read_text()) for path in tables]
    assert all("prompt" not in table["columns"] for table in content)
    ids = [line[table["columns"].index("row_id")] for table in content for line in table["data"]]
    assert sorted(ids) == [f"demo-{i:03d}" for i in range(50)]


def test_in_a_long_run_the_table_follows_more_seldom(home: Path) -> None:
    """Every 2 accounts, and from 2·PART on after one PARTth of all so far: each time lists all times before."""
    steps = 5 * PART
    monitored_run(home, "none", steps=steps, flush_every=2)
    sizes, logged = [], 0
    while logged + max(2, math.ceil(logged / PART)) <= steps:
        sizes.append(max(2, math.ceil(logged / PART)))
        logged += sizes[-1]
    tables = list(home.glob("wandb/offline-run-*/files/media/table/smda/rows*.table.json"))
    assert len(tables) == len(sizes) + (logged < steps) < steps / 2 - 10
    assert sum(len(json.loads(path.read_text())["data"]) for path in tables) == 10 * steps, "every row once"


def test_artifact_holds_the_ledger_and_no_text(home: Path) -> None:
    found = monitored_run(home, "local", steps=2)
    (artifact,) = [a for a in of_kind(found, "artifact") if a.type == "smda-ledger"]
    names = {entry.path for entry in artifact.manifest.contents}
    assert {"manifest.json", "policy/policy.json", "snapshots/step-000000.safetensors"} <= names
    assert {"ledger/rows-000001.parquet", "ledger/accounts-000002.parquet", "ledger/coefficients.parquet"} <= names
    assert not names & {"rows.jsonl", "report.html", "probes.jsonl", "feature_cards.json"}


def test_row_text_goes_up_only_when_asked(home: Path) -> None:
    found = monitored_run(home, "upload", steps=2)
    assert SECRET in everything_written(home)
    (artifact,) = [a for a in of_kind(found, "artifact") if a.type == "smda-ledger"]
    assert {"rows.jsonl", "report.html"} <= {entry.path for entry in artifact.manifest.contents}


def test_without_a_run_nothing_happens(tmp_path: Path) -> None:
    import wandb

    assert wandb.run is None
    header = make_header(tmp_path)
    sink = WandbSink()
    sink.start(header)
    sink.account(make_account(1, header.policy))
    sink.alert(make_alerts()[0])
    sink.finish({})
    assert list(tmp_path.iterdir()) == []


def test_without_wandb_installed_nothing_happens(tmp_path: Path) -> None:
    program = """
        import sys
        sys.path.insert(0, sys.argv[1])
        sys.modules["wandb"] = None  # what "import wandb" meets where it is not installed
        from pathlib import Path
        from synthetic_run import make_account, make_alerts, make_header
        from smda_monitor.outputs.wandb_sink import WandbSink
        header = make_header(Path("nowhere"))
        sink = WandbSink("upload", flush_every=1)
        sink.start(header)
        sink.account(make_account(1, header.policy))
        sink.alert(make_alerts()[0])
        sink.finish({})
        print("went through")
    """
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(here)], cwd=here.parent, capture_output=True, text=True
    )
    assert done.stdout.strip() == "went through", done.stderr


def test_sink_does_not_import_wandb(tmp_path: Path) -> None:
    program = "import sys, smda_monitor.outputs.wandb_sink; print('wandb' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_artifact_files_are_a_closed_list(tmp_path: Path) -> None:
    (tmp_path / "ledger").mkdir()
    for name in (
        "manifest.json",
        "rows.jsonl",
        "report.html",
        "probes.jsonl",
        "notes.txt",
        "ledger/rows-000001.parquet",
    ):
        (tmp_path / name).touch()
    (tmp_path / "ledger" / ".rows-000002.parquet.tmp").touch()
    names = {p.name for p in artifact_files(tmp_path, row_text=False)}
    assert names == {"manifest.json", "rows-000001.parquet"}
