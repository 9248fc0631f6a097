"""The ledger: nothing lost, nothing doubled, whatever the values and whenever it is killed."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic_run import make_account, make_alerts, make_audit, make_header, make_snapshot, write_run

from smda_monitor.errors import ConfigError
from smda_monitor.outputs import parts
from smda_monitor.outputs.audit_tables import audits_to_table, table_to_audits
from smda_monitor.outputs.ledger import Ledger, update_summary
from smda_monitor.outputs.ledger_reader import read_accounts, read_ledger, read_past
from smda_monitor.outputs.snapshots import load_snapshot, save_snapshot
from smda_monitor.outputs.tables import (
    accounts_to_table,
    past_to_table,
    rows_to_table,
    table_to_accounts,
    table_to_past,
    table_to_rows,
)
from smda_monitor.records.account import READINGS, FeatureShift, PastShare, RowEntry, StepAccount, TargetBalance
from smda_monitor.records.alert import Alert
from smda_monitor.records.audit import AuditEntry
from smda_monitor.records.snapshot import DictionaryHealth, Snapshot

POLICY = make_header(Path()).policy

integers = st.integers(-(2**63), 2**63 - 1)
names = st.text(max_size=20)
maps = st.dictionaries(names, st.floats(), max_size=4)
lists = st.dictionaries(st.sampled_from(READINGS), st.lists(st.floats(width=32), max_size=3).map(tuple))


def build(record: type, **fixed: Any) -> st.SearchStrategy[Any]:
    """Any value of a record, by the types of its fields."""
    by_type = {
        "int": integers,
        "float": st.floats(),
        "str": names,
        "bool": st.booleans(),
        "dict[str, float]": maps,
        "dict[str, tuple[float, ...]]": lists,
        "tuple[str, ...]": st.lists(names, max_size=3).map(tuple),
        "tuple[float, ...]": st.lists(st.floats(), max_size=3).map(tuple),
        "float | None": st.none() | st.floats(),
        "dict[int, tuple[float, float]]": st.dictionaries(integers, st.tuples(st.floats(), st.floats()), max_size=3),
        "WatchedBy": st.sampled_from(["", "backward", "replay"]),
        "AlertKind": st.sampled_from(["drift", "rows", "account"]),
        "RowsKept": st.sampled_from(["float32", "bfloat16"]),
        "Method": st.sampled_from(["split", "replay"]),
        "Reason": st.sampled_from(["sample", "asked"]),
        "tuple[FeatureShift, ...]": st.lists(st.builds(FeatureShift, integers, *[st.floats()] * 4), max_size=3).map(
            tuple
        ),
        "DictionaryHealth": st.builds(DictionaryHealth, st.floats(), st.floats(), st.floats()),
    }
    parts = {f.name: fixed.get(f.name, by_type.get(str(f.type))) for f in dataclasses.fields(record)}
    return st.builds(
        record, **{name: s if isinstance(s, st.SearchStrategy) else st.just(s) for name, s in parts.items()}
    )


@st.composite
def runs(draw: st.DrawFn) -> list[StepAccount]:
    """Accounts of one to three steps each, with gaps between them, and their rows step by step."""
    accounts, end = [], 0
    for _ in range(draw(st.integers(0, 4))):
        since = end + draw(st.integers(0, 99_999))
        end = since + draw(st.integers(1, 3))
        steps = sorted(draw(st.lists(st.integers(since + 1, end), max_size=3)))
        balances = st.lists(build(TargetBalance), max_size=3, unique_by=lambda b: b.target).map(tuple)
        accounts.append(
            draw(
                build(
                    StepAccount,
                    step=end,
                    since=since,
                    balances=balances,
                    rows=st.tuples(*(build(RowEntry, step=step) for step in steps)),
                    past=st.lists(build(PastShare), max_size=3).map(tuple),
                    features=st.lists(build(FeatureShift), max_size=3).map(tuple),
                    drift=st.lists(st.floats(width=32), max_size=5).map(tuple),
                )
            )
        )
    return accounts


def canonical(record: Any) -> str:
    """A text in which equal records are equal: NaN equals NaN, the order of keys does not count, −0.0 is not 0.0."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return sorted((k, plain(v)) for k, v in value.items())
        return [plain(v) for v in value] if isinstance(value, list | tuple) else value

    return repr(plain(dataclasses.asdict(record)))


def same(left: list[Any], right: list[Any]) -> bool:
    return [canonical(x) for x in left] == [canonical(x) for x in right]


@given(runs())
@settings(max_examples=25, deadline=None)
def test_accounts_survive_the_tables(accounts: list[StepAccount]) -> None:
    rows = table_to_rows(rows_to_table([r for a in accounts for r in a.rows]))
    past = {a.step: table_to_past(past_to_table(a.step, a.past)).get(a.step, []) for a in accounts}
    assert same(table_to_accounts(accounts_to_table(accounts), rows, past), accounts)


@given(accounts=runs(), merge=st.integers(2, 3))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_accounts_survive_the_disk_merged_or_not(
    tmp_path_factory: pytest.TempPathFactory, accounts: list[StepAccount], merge: int
) -> None:
    folder = tmp_path_factory.mktemp("run")
    ledger = Ledger(folder, merge=merge)
    for account in accounts:
        ledger.account(account)
    assert same(read_accounts(folder), accounts)


@given(st.lists(build(AuditEntry), max_size=4))
@settings(max_examples=15, deadline=None)
def test_audits_survive_the_tables(audits: list[AuditEntry]) -> None:
    assert same(table_to_audits(audits_to_table(audits)), audits)


def audited_run(folder: Path, steps: int, merge: int = 3) -> Ledger:
    """Accounts of all steps, audits of every second, two of a step."""
    ledger = Ledger(folder, merge=merge)
    ledger.start(make_header(folder))
    for step in range(1, steps + 1):
        if step % 2:
            ledger.audits([make_audit(step), make_audit(step, "asked", place=1)])
        ledger.account(make_account(step, POLICY))
    return ledger


def test_audits_survive_the_disk_and_merge(tmp_path: Path) -> None:
    audited_run(tmp_path, 7)
    expected = [make_audit(s, r, place=p) for s in (1, 3, 5, 7) for r, p in (("sample", 0), ("asked", 1))]  # type: ignore[arg-type]
    assert same(read_ledger(tmp_path).audits, expected)
    assert same(list(read_past(tmp_path).audits), expected)
    names = sorted(p.name for p in (tmp_path / "ledger").glob("audits-*"))
    assert names == ["audits-000001-000005.parquet", "audits-000007.parquet"]


@pytest.mark.parametrize("step", [0, 2, 3, 4, 6])
def test_a_resumed_run_doubles_no_audit(tmp_path: Path, step: int) -> None:
    audited_run(tmp_path, 7)
    ledger = Ledger(tmp_path, resume=True, merge=3)
    ledger.drop_after(step)
    assert [a.step for a in read_ledger(tmp_path).audits] == [s for s in (1, 1, 3, 3, 5, 5) if s <= step]
    for later in range(step + 1, 8):
        if later % 2:
            ledger.audits([make_audit(later), make_audit(later, "asked", place=1)])
        ledger.account(make_account(later, POLICY))
    assert [a.step for a in read_ledger(tmp_path).audits] == [1, 1, 3, 3, 5, 5, 7, 7]


def test_a_kill_between_audits_and_account_loses_only_that_step(tmp_path: Path) -> None:
    ledger = audited_run(tmp_path, 2)
    ledger.audits([make_audit(3)])
    assert [a.step for a in read_ledger(tmp_path).audits] == [1, 1]
    resumed = Ledger(tmp_path, resume=True)
    assert not (tmp_path / "ledger" / "audits-000003.parquet").exists()
    resumed.audits([make_audit(3)])
    resumed.account(make_account(3, POLICY))
    assert [a.step for a in read_ledger(tmp_path).audits] == [1, 1, 3]
    with pytest.raises(ConfigError, match=r"audits of step 3 after the account of step 3.*drop_after"):
        resumed.audits([make_audit(3)])


@given(st.lists(build(Alert), max_size=4))
@settings(max_examples=25, deadline=None)
def test_alerts_survive(tmp_path_factory: pytest.TempPathFactory, alerts: list[Alert]) -> None:
    folder = tmp_path_factory.mktemp("run")
    ledger = Ledger(folder)
    ledger.start(make_header(folder))
    for alert in alerts:
        ledger.alert(alert)
    assert same(read_ledger(folder).alerts, alerts)
    for line in (folder / "alerts.jsonl").read_text().splitlines() if alerts else ():
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


@given(n=st.integers(0, 3), d=st.integers(0, 3), health=build(DictionaryHealth), special=st.floats(width=32))
@settings(max_examples=25, deadline=None)
def test_snapshots_survive(
    tmp_path_factory: pytest.TempPathFactory, n: int, d: int, health: DictionaryHealth, special: float
) -> None:
    wide = torch.full((d, n), special, dtype=torch.float32).T  # not contiguous
    column = torch.full((n,), special, dtype=torch.float64)
    ids = tuple(f'probe "{i}" é' for i in range(n))
    snapshot = Snapshot(7, ids, wide, column, column, column, column[:, None].expand(n, 2), health)
    back = load_snapshot(save_snapshot(tmp_path_factory.mktemp("run"), snapshot))
    assert (back.step, back.probe_ids, repr(back.health)) == (7, ids, repr(health))
    for name in ("X", "y", "mass", "contrast", "openings"):
        found, expected = getattr(back, name), getattr(snapshot, name)
        assert found.dtype == expected.dtype
        assert torch.equal(found.nan_to_num(123), expected.nan_to_num(123))


def test_nan_infinity_and_absent_are_three_things(tmp_path: Path) -> None:
    first, second = make_account(1, POLICY), make_account(2, POLICY)
    odd = {"S_X": math.nan, "S_Y": -math.inf, "only here": -0.0}
    first = dataclasses.replace(first, rows=(dataclasses.replace(first.rows[0], share=odd, loss=math.nan),))
    ledger = Ledger(tmp_path, merge=2)
    ledger.account(first)
    ledger.account(second)
    back = read_accounts(tmp_path)
    assert repr(back[0].rows[0].share) == repr(odd)
    assert math.isnan(back[0].rows[0].loss)
    assert "only here" not in back[1].rows[0].share


def test_lone_surrogate_in_a_row_id_does_not_stop_the_ledger(tmp_path: Path) -> None:
    account = make_account(1, POLICY)
    row = dataclasses.replace(account.rows[0], row_id="bad \ud800 id")
    Ledger(tmp_path).account(dataclasses.replace(account, rows=(row,)))
    assert read_accounts(tmp_path)[0].rows[0].row_id == "bad ? id"


def test_merge_leaves_the_same_table_and_few_files(tmp_path: Path) -> None:
    accounts = [make_account(step, POLICY) for step in range(1, 8)]
    for name, merge in (("single", 1000), ("merged", 3)):
        (tmp_path / name).mkdir()
        ledger = Ledger(tmp_path / name, merge=merge)
        for account in accounts:
            ledger.account(account)
    single, merged = tmp_path / "single" / "ledger", tmp_path / "merged" / "ledger"
    assert len(list(single.glob("rows-*"))) == 7
    assert sorted(p.name for p in merged.glob("rows-*")) == [
        "rows-000001-000003.parquet",
        "rows-000004-000006.parquet",
        "rows-000007.parquet",
    ]
    for stem in ("rows", "past", "accounts"):
        assert parts.read_parts(single, stem).equals(parts.read_parts(merged, stem))
    assert read_accounts(tmp_path / "merged") == accounts


def test_columns_are_the_documented_ones(tmp_path: Path) -> None:
    Ledger(tmp_path).account(make_account(1, POLICY))
    rows = parts.read_parts(tmp_path / "ledger", "rows").column_names
    assert {"step", "row_id", "row_hash", "share.S_X", "push.mass.benign", "own_push", "score"} <= set(rows)
    assert {"probe_share.mass", "probe_push.mass"} <= set(rows)
    past = parts.read_parts(tmp_path / "ledger", "past").column_names
    assert {"step", "row_step", "row_id", "row_hash"} <= set(past)
    accounts = parts.read_parts(tmp_path / "ledger", "accounts").column_names
    wanted = {"step", "refusal.mass.harmful", "standard_error.contrast.benign", "balance.S_Y.measured", "health.fvu"}
    assert wanted | {"balance.S_X.absolute_shares", "features", "capture_error"} <= set(accounts)
    assert {"since", "balance.S_X.handed", "balance.S_X.absolute_handed", "probes.mass.measured"} <= set(accounts)


def test_parts_are_zstd(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    Ledger(tmp_path).account(make_account(1, POLICY))
    meta = pq.ParquetFile(tmp_path / "ledger" / "rows-000001.parquet").metadata
    assert meta.row_group(0).column(0).compression == "ZSTD"


def test_kill_between_rows_and_account_loses_only_that_step(tmp_path: Path) -> None:
    accounts = write_run(tmp_path, steps=5)
    (tmp_path / "ledger" / "accounts-000005.parquet").unlink()
    assert read_accounts(tmp_path) == accounts[:4]
    ledger = Ledger(tmp_path, resume=True)
    assert ledger.last_step == 4
    assert not (tmp_path / "ledger" / "rows-000005.parquet").exists()
    ledger.account(accounts[4])
    assert read_accounts(tmp_path) == accounts


def test_unfinished_files_and_lines_are_not_read_and_go_on_resume(tmp_path: Path) -> None:
    accounts = write_run(tmp_path, steps=3)
    home = tmp_path / "ledger"
    whole = (home / "rows-000003.parquet").read_bytes()
    (home / ".rows-000004.parquet.tmp").write_bytes(whole[: len(whole) // 2])
    with (tmp_path / "alerts.jsonl").open("a") as handle:
        handle.write('{"step": 3, "subj')
    view = read_ledger(tmp_path)
    assert view.accounts == accounts
    assert view.alerts == make_alerts()
    ledger = Ledger(tmp_path, resume=True)
    assert not (home / ".rows-000004.parquet.tmp").exists()
    third = dataclasses.replace(make_alerts()[0], subject="row demo-001")
    ledger.alert(third)
    assert read_ledger(tmp_path).alerts == [*make_alerts(), third]


def test_kill_during_a_merge_doubles_nothing(tmp_path: Path) -> None:
    accounts = [make_account(step, POLICY) for step in range(1, 5)]
    ledger = Ledger(tmp_path, merge=4)
    kept = tmp_path / "kept"
    kept.mkdir()
    for account in accounts[:3]:
        ledger.account(account)
    for path in (tmp_path / "ledger").glob("*-000002.parquet"):
        shutil.copy(path, kept)
    ledger.account(accounts[3])
    for path in kept.iterdir():  # the range is there, this part is not yet gone
        shutil.copy(path, tmp_path / "ledger")
    assert read_accounts(tmp_path) == accounts
    Ledger(tmp_path, resume=True)
    assert sorted(p.name for p in (tmp_path / "ledger").glob("rows-*")) == ["rows-000001-000004.parquet"]
    assert read_accounts(tmp_path) == accounts


@pytest.mark.parametrize(("step", "merge"), [(0, 3), (2, 4), (3, 3), (4, 3), (5, 1000)])
def test_resume_leaves_no_gap_and_no_duplicate(tmp_path: Path, step: int, merge: int) -> None:
    accounts = [make_account(s, POLICY) for s in range(1, 6)]
    header = make_header(tmp_path)
    first = Ledger(tmp_path, merge=merge)
    first.start(header)
    for account in accounts:
        first.snapshot(make_snapshot(header.probes, account.step, [0]))
        first.account(account)
    second = Ledger(tmp_path, resume=True, merge=merge)
    second.drop_after(step)
    assert second.last_step == step
    assert read_accounts(tmp_path) == accounts[:step]
    assert read_ledger(tmp_path).snapshots.steps == list(range(1, step + 1))
    for account in accounts[step:]:
        second.account(account)
    assert read_accounts(tmp_path) == accounts


def interval(since: int, step: int) -> StepAccount:
    """An account of all steps after `since` up to `step`."""
    rows = tuple(row for at in range(since + 1, step + 1) for row in make_account(at, POLICY).rows)
    return dataclasses.replace(make_account(step, POLICY), since=since, rows=rows)


@pytest.mark.parametrize("merge", [2, 3, 1000])
def test_a_checkpoint_between_accounts_of_several_steps_can_be_resumed(tmp_path: Path, merge: int) -> None:
    """Accounts end at checkpoints, so what is dropped are whole accounts with their rows and earlier rows."""
    accounts = [interval(0, 3), interval(3, 5), interval(5, 8), interval(8, 10)]
    ledger = Ledger(tmp_path, merge=merge)
    for account in accounts:
        ledger.account(account)
    assert read_accounts(tmp_path) == accounts
    assert all(account.past for account in accounts)
    second = Ledger(tmp_path, resume=True, merge=merge)
    second.drop_after(5)
    assert second.last_step == 5
    assert read_accounts(tmp_path) == accounts[:2]
    assert max(parts.read_parts(tmp_path / "ledger", "rows")["step"].to_pylist()) == 5
    assert max(parts.read_parts(tmp_path / "ledger", "past")["step"].to_pylist()) == 5
    for account in accounts[2:]:
        second.account(account)
    assert read_accounts(tmp_path) == accounts


def test_rows_of_an_account_that_a_kill_cut_off_are_not_read(tmp_path: Path) -> None:
    accounts = [interval(0, 3), interval(3, 6)]
    ledger = Ledger(tmp_path)
    for account in accounts:
        ledger.account(account)
    (tmp_path / "ledger" / "accounts-000006.parquet").unlink()
    assert read_accounts(tmp_path) == accounts[:1]
    again = Ledger(tmp_path, resume=True)
    assert again.last_step == 3
    again.account(accounts[1])
    assert read_accounts(tmp_path) == accounts


def test_kill_while_dropping_can_be_dropped_again(tmp_path: Path) -> None:
    accounts = [make_account(s, POLICY) for s in range(1, 5)]
    ledger = Ledger(tmp_path, merge=4)
    for account in accounts:
        ledger.account(account)
    ranges = {path.name: path.read_bytes() for path in (tmp_path / "ledger").iterdir()}
    ledger.drop_after(2)
    name = "rows-000001-000004.parquet"
    (tmp_path / "ledger" / name).write_bytes(ranges[name])  # rows not yet dropped, accounts are
    assert read_accounts(tmp_path) == accounts[:2]
    resumed = Ledger(tmp_path, resume=True)
    resumed.drop_after(2)
    for account in accounts[2:]:
        resumed.account(account)
    assert read_accounts(tmp_path) == accounts


def test_drop_after_drops_later_alerts(tmp_path: Path) -> None:
    write_run(tmp_path)
    Ledger(tmp_path, resume=True).drop_after(15)
    assert [a.step for a in read_ledger(tmp_path).alerts] == [13]


def test_step_twice_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, steps=2)
    with pytest.raises(ConfigError, match="drop_after"):
        Ledger(tmp_path, resume=True).account(make_account(2, POLICY))


def test_manifest_tells_the_run_from_start_to_end(tmp_path: Path) -> None:
    header = make_header(tmp_path)
    ledger = Ledger(tmp_path)
    ledger.start(header)
    manifest = read_ledger(tmp_path).manifest
    assert (manifest["status"], manifest["finished"], manifest["resumed"]) == ("running", None, [])
    assert manifest["config"] == header.manifest["config"]
    assert manifest["policy"]["quality"]["r2_heldout"] == 0.912
    again = Ledger(tmp_path, resume=True)
    again.start(header)
    again.finish({"status": "stopped", "policy_r2": math.nan})
    closed = read_ledger(tmp_path).manifest
    assert (closed["status"], closed["started"]) == ("stopped", manifest["started"])
    assert len(closed["resumed"]) == 1
    assert closed["finished"] >= closed["started"]


def test_summary_can_be_added_to(tmp_path: Path) -> None:
    write_run(tmp_path, steps=1)
    update_summary(tmp_path, {"auroc_planted": 0.93})
    summary = read_ledger(tmp_path).summary
    assert summary is not None
    assert (summary["auroc_planted"], summary["alerts"]) == (0.93, 2)


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    from smda_monitor.outputs.files import write_atomic

    path = tmp_path / "manifest.json"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        write_atomic(path, fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["manifest.json"]
