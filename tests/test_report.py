"""The report: one file, complete from the ledger, nothing in it that data could set off."""

from __future__ import annotations

import base64
import csv
import dataclasses
import hashlib
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import FEATURES, MEASURED, WATCHED, make_account, make_header, make_snapshot, write_run

from smda_monitor.errors import ConfigError
from smda_monitor.maths.by_kind import readings_by_kind
from smda_monitor.outputs.ledger import Ledger
from smda_monitor.outputs.report import ReportSink, write_report
from smda_monitor.outputs.report.figure import csv_text, data_link, label, script_json
from smda_monitor.outputs.report.watched import watched_section
from smda_monitor.records.account import RowEntry
from smda_monitor.records.alert import Alert
from smda_monitor.records.probes import Probe, ProbeSet

HOSTILE = (
    "<script>alert(1)</script></script><!-- <img src=x onerror=alert(2)> "
    "<a href=javascript:alert(3)>go</a> \" onmouseover='alert(4)' <b>bold</b> {{7*7}} \x1b[31m\u202e&lt;i&gt;"
)


class Page(HTMLParser):
    """What a browser would make of the page: its elements, the text of scripts, and the visible text."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self._inside = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif self._inside != "style":
            self.text += data

    @property
    def running(self) -> list[str]:
        return [text for attributes, text in self.scripts if attributes.get("type") != "application/json"]

    @property
    def figures(self) -> dict[str, Any]:
        return {str(a["data-figure"]): json.loads(text) for a, text in self.scripts if "data-figure" in a}

    def download(self, name: str) -> str:
        (link,) = [a["href"] for t, a in self.elements if t == "a" and a.get("download") == name]
        return base64.b64decode(str(link).split(",", 1)[1]).decode()

    def numbers(self, name: str) -> list[dict[str, str]]:
        """The figures of a picture, as its CSV has them."""
        return list(csv.DictReader(io.StringIO(self.download(f"{name}.csv"))))


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [s for item in value.values() for s in strings(item)]
    if isinstance(value, list):
        return [s for item in value for s in strings(item)]
    return [value] if isinstance(value, str) else []


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "demo"
    write_run(folder)
    return folder


@pytest.fixture(scope="module")
def page(run_folder: Path) -> Page:
    return Page(write_report(run_folder))


def test_report_says_what_moved_by_how_much_and_which_rows(page: Page) -> None:
    assert "Refusal of harmful requests fell by 2.89 nats and refusal of benign look-alikes rose by 1.31" in page.text
    assert "that of benign requests held." in page.text
    assert re.search(r"expected on their prompts are demo-165, demo-171, demo-032", page.text)
    assert "2 alerts were raised." in page.text
    assert "1.8 % of the feature pathway unexplained" in page.text


def test_every_section_has_its_picture(page: Page) -> None:
    expected = {"refusal-mass", "refusal-contrast", "rows", "drift", "balance-policy", "balance-refusal", "unexplained"}
    expected |= {"parts-s-x", "parts-s-y", "health-fvu", "health-l0", "health-dead", "coefficients", "effects"}
    assert set(page.figures) == expected
    places = {a.get("id") for t, a in page.elements if t == "div"}
    assert {f"plot-{name}" for name in expected} <= places
    for figure in page.figures.values():
        assert figure["layout"]["xaxis"]["title"]["text"]
    assert sum(t == "article" for t, _ in page.elements) == 10  # cards


def test_what_rows_did_beside_their_prompts_adds_up_over_the_run(page: Page, run_folder: Path) -> None:
    policy = make_header(run_folder).policy
    rows = [row for step in range(1, 19) for row in make_account(step, policy).rows]
    size = sum(row.absolute_shift for row in rows)
    outside = sum(row.absolute_shift * row.interference for row in rows)
    lines = {trace["name"]: trace for trace in page.figures["effects"]["data"]}
    assert lines["interference"]["y"][-1] == pytest.approx(outside / size)
    by_unintended = sum(row.absolute_shift for row in rows if row.unintended)
    assert lines["unintended"]["y"][-1] == pytest.approx(by_unintended / size)
    first = make_account(1, policy).rows
    alone = sum(r.absolute_shift * r.interference for r in first) / sum(r.absolute_shift for r in first)
    assert lines["interference of one account"]["y"][0] == pytest.approx(alone)


def test_pictures_show_the_ledgers_numbers(page: Page, run_folder: Path) -> None:
    policy = make_header(run_folder).policy
    account = make_account(14, policy)
    lines = {t["name"]: t for t in page.figures["refusal-mass"]["data"] if "name" in t}
    assert lines["harmful"]["x"] == list(range(19))  # step 0 comes from the first snapshot
    probes = make_header(run_folder).probes
    part, whole = (readings_by_kind(make_snapshot(probes, 0, which), probes)[0] for which in (MEASURED, None))
    assert lines["harmful"]["y"][0] == pytest.approx(part["mass.harmful"]), "the same probes as at every other step"
    assert part["mass.harmful"] != pytest.approx(whole["mass.harmful"], abs=1e-3)
    diamonds = [t for t in page.figures["refusal-mass"]["data"] if t["mode"] == "markers"]
    assert diamonds[0]["x"] == [0, 18]
    assert diamonds[0]["y"][0] == pytest.approx(whole["mass.harmful"]), "all probes, at both ends"
    assert lines["harmful"]["y"][14] == account.refusal["mass.harmful"]
    step = page.figures["parts-s-y"]["data"]
    stacked = sum(trace["y"][13] for trace in step if trace["type"] == "bar")
    assert stacked == pytest.approx(account.balance("S_Y").measured)
    (heat,) = page.figures["drift"]["data"]
    assert len(heat["z"]) == len(heat["y"])
    assert {len(line) for line in heat["z"]} == {18}
    leading = max(range(FEATURES), key=lambda k: abs(float(policy.coef[k]) * make_account(18, policy).drift[k]))
    assert heat["z"][0][13] == pytest.approx(float(policy.coef[leading]) * account.drift[leading])
    rows = page.figures["rows"]["data"]
    assert [t["name"][:2] for t in rows] == ["ΔX", "ΔY"]


def test_the_self_audit_has_a_line_for_every_target(page: Page, run_folder: Path) -> None:
    text = " ".join(page.text.split())
    assert "Self-audit" in text
    assert "3 rows were left out of a step that was replayed exactly, of steps after warm-up" in text
    assert "S_Y302 %100 %n/a" in text
    assert "all2402 %100 %n/a" in text
    assert "Rows asked for" in text
    assert "accounts are made by replay" not in text


def test_warm_up_alone_is_marked_and_no_audit_leaves_no_section(tmp_path: Path) -> None:
    for name, steps in (("early", 5), ("none", 0)):
        write_run(tmp_path / name, steps=steps)
        write_report(tmp_path / name)
    early, none = (" ".join(Page(tmp_path / name / "report.html").text.split()) for name in ("early", "none"))
    assert "1 row was left out" in early
    assert "S_Y1*02 %100 %n/a" in early
    assert "left out of a step" not in none


def test_accounts_by_replay_are_said(tmp_path: Path) -> None:
    ledger, header = Ledger(tmp_path), make_header(tmp_path)
    ledger.start(header)
    ledger.account(dataclasses.replace(make_account(1, header.policy), method="replay"))
    assert "its accounts are made by replay" in " ".join(Page(write_report(tmp_path)).text.split())


def test_numbers_behind_a_picture_can_be_taken_away(page: Page) -> None:
    for name in page.figures:
        table = page.numbers(name)
        objects = json.loads(page.download(f"{name}.json"))
        assert len(table) == len(objects) > 0
        assert list(table[0]) == list(objects[0])
    assert json.loads(page.download("rows.json"))[0]["row_id"] == "demo-165"


def test_plotly_is_inside_once_and_nothing_is_loaded(page: Page) -> None:
    plotly, ours = page.running
    assert plotly.startswith("/**\n* plotly.js")
    assert len(ours) < 5_000
    assert not [a for _, a in page.elements if "src" in a]
    assert not [t for t, _ in page.elements if t in ("link", "iframe", "object", "embed", "base", "form", "img")]
    links = [str(a["href"]) for t, a in page.elements if t == "a"]
    assert links
    assert all(link.startswith(("#", "data:text/csv;base64,", "data:application/json;base64,")) for link in links)


def test_policy_of_the_page_allows_our_scripts_alone(page: Page) -> None:
    (policy,) = [str(a["content"]) for t, a in page.elements if t == "meta" and "http-equiv" in a]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    for script in page.running:
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
    assert policy.count("sha256-") == 2
    assert "unsafe-inline" not in policy.split("style-src")[0]


def hostile_run(folder: Path) -> None:
    """A run in which every text that comes from data is hostile."""
    folder.mkdir()
    header = make_header(folder)
    probe = header.probes.probes[0]
    probes = ProbeSet((Probe(HOSTILE, HOSTILE, HOSTILE, "harmful", HOSTILE), *header.probes.probes[1:]))
    header = dataclasses.replace(header, probes=probes, manifest={"config": {HOSTILE: HOSTILE}})
    header = dataclasses.replace(
        header, policy=dataclasses.replace(header.policy, preset=HOSTILE, notes={"n": HOSTILE})
    )
    ledger = Ledger(folder)
    ledger.start(header)
    ledger.snapshot(make_snapshot(probes, 0))
    account = make_account(13, header.policy)

    def spoil(row: RowEntry, i: int) -> RowEntry:
        return dataclasses.replace(row, row_id=f"{HOSTILE}{i}", push={**row.push, HOSTILE: 1.0}, score=99.0 - i)

    balance = dataclasses.replace(account.balances[0], target=HOSTILE)
    rows = tuple(spoil(row, i) for i, row in enumerate(account.rows))
    account = dataclasses.replace(account, rows=rows, balances=(*account.balances, balance))
    account = dataclasses.replace(account, refusal={**account.refusal, HOSTILE: 1.0})
    ledger.account(account)
    ledger.alert(
        Alert("drift", 13, 12, HOSTILE, HOSTILE, math.inf, math.nan, math.inf, (HOSTILE,), (math.nan,), HOSTILE)
    )
    ledger.row_texts([{"id": HOSTILE, "hash": r.row_hash, "prompt": HOSTILE, "response": HOSTILE} for r in rows])
    probes_on_card = [{"id": HOSTILE, "prompt": HOSTILE, "activation": 1.0}] if probe else []
    card = {"feature": 3, "coefficient": 1.0, "drift": 1.0, "density": 0.1}
    ledger.feature_cards([{**card, "top_probes": probes_on_card, "top_tokens": [HOSTILE, "</script>", "\x1b[0m", ""]}])
    ledger.finish({"status": HOSTILE})


def test_hostile_text_is_shown_and_inert(tmp_path: Path, page: Page) -> None:
    hostile_run(tmp_path / HOSTILE[:20].replace("/", "_"))
    (folder,) = tmp_path.iterdir()
    bad = Page(write_report(folder))
    assert bad.running == page.running  # not one more script, not one character in them
    assert {t for t, _ in bad.elements} <= {t for t, _ in page.elements}  # no element that a harmless run lacks
    attributes = {name for _, a in bad.elements for name in a}
    assert not [name for name in attributes if name.startswith("on")]
    assert all(str(a["href"]).startswith(("#", "data:")) for t, a in bad.elements if t == "a")
    assert "<script>alert(1)</script></script><!-- <img src=x onerror=alert(2)>" in bad.text  # visible, as text
    assert "{{7*7}}" in bad.text
    assert "\x1b" not in bad.text
    assert "\u202e" not in bad.text


def test_plots_get_no_markup_from_data(tmp_path: Path) -> None:
    hostile_run(tmp_path / "demo")
    bad = Page(write_report(tmp_path / "demo"))
    texts = [s for figure in bad.figures.values() for s in strings(figure)]
    assert any("&lt;script&gt;" in text for text in texts)  # hostile ids did get that far
    markup = {tag for text in texts for tag in re.findall(r"<[^<>]*>?", text)}
    assert markup <= {"<br>", "<extra>", "</extra>"}


def test_text_of_rows_only_where_it_was_kept(tmp_path: Path, page: Page) -> None:
    assert "It would not be appropriate." in page.text
    write_run(tmp_path / "private", row_text=False)
    private = Page(write_report(tmp_path / "private"))
    assert "It would not be appropriate." not in private.text
    assert "Row text is not kept in this run" in private.text


def test_empty_ledger_renders_and_says_so(tmp_path: Path) -> None:
    Ledger(tmp_path).start(make_header(tmp_path))
    empty = Page(write_report(tmp_path))
    assert "No step has been accounted for yet." in empty.text
    assert set(empty.figures) == {"coefficients"}


def test_figures_that_were_not_read_do_not_stop_the_report(tmp_path: Path) -> None:
    header = make_header(tmp_path)
    ledger = Ledger(tmp_path)
    ledger.start(header)
    account = make_account(1, header.policy)
    nan = math.nan
    rows = [dataclasses.replace(r, loss=nan, own_push=nan, score=nan, interference=nan, push={}) for r in account.rows]
    odd = [dataclasses.replace(b, measured=nan, shares=math.inf) for b in account.balances]
    ledger.account(dataclasses.replace(account, rows=tuple(rows), balances=tuple(odd), features=(), refusal={}))
    bare = Page(write_report(tmp_path))
    assert "Refusal was not measured" in bare.text
    assert "No row has a score" in bare.text
    assert "as intended" not in bare.text, "nothing is known of a row that was not read"


def test_another_behaviour_is_called_by_its_name_and_judged_by_where_it_is_right(tmp_path: Path) -> None:
    write_run(tmp_path)
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    plain = Page(write_report(tmp_path))
    manifest["config"]["behaviour"] = {"name": "guessing <i>", "wanted_on": "harmless"}
    path.write_text(json.dumps(manifest))
    page = Page(write_report(tmp_path))
    assert "Guessing <i> of harmful requests fell by 2.89 nats and guessing <i> of benign look-alikes rose" in page.text
    assert "Guessing <i> by kind of probe" in page.text
    assert page.figures["refusal-mass"]["layout"]["yaxis"]["title"]["text"] == "log-odds of guessing &lt;i&gt; (nats)"
    bad = [[a for _, a in p.elements if "value bad" in str(a.get("class"))] for p in (plain, page)]
    assert [len(tiles) for tiles in bad] == [2, 0], "what is bad of refusal is good of a guess"


def test_missing_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        write_report(tmp_path / "nowhere")


def test_what_lies_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    with pytest.raises(ConfigError, match="a file: found a file; expected a run folder"):
        write_report(tmp_path / "a file")
    run = tmp_path / "run"
    Ledger(run).start(make_header(run))
    (run / "report.html").mkdir()
    with pytest.raises(ConfigError, match=r"report\.html: found .*What to do"):
        write_report(run)


@pytest.mark.parametrize("damage", [{"policy": [1]}, {"measured_probes": 3}, {"config": "x"}])
def test_a_damaged_manifest_is_named(tmp_path: Path, damage: dict[str, Any]) -> None:
    Ledger(tmp_path).start(make_header(tmp_path))
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    with pytest.raises(ConfigError, match=f"manifest.json: found a .* under '{next(iter(damage))}'"):
        write_report(tmp_path)


def test_figures_of_the_policy_may_be_words(tmp_path: Path) -> None:
    Ledger(tmp_path).start(make_header(tmp_path))
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["policy"]["quality"]["r2_heldout"] = "high"
    path.write_text(json.dumps(manifest))
    assert re.search(r"R² on held-out prompts\s*n/a", Page(write_report(tmp_path)).text)


def test_sink_writes_the_report_at_the_end(tmp_path: Path) -> None:
    write_run(tmp_path, steps=1)
    sink = ReportSink()
    sink.start(make_header(tmp_path))
    assert not (tmp_path / "report.html").exists()
    sink.finish({})
    assert (tmp_path / "report.html").stat().st_size > 1_000_000


def test_label_and_script_json_neutralise() -> None:
    assert label("<b>x</b> & \x1b[1m") == "&lt;b&gt;x&lt;/b&gt; &amp; [1m"
    assert json.loads(script_json({"a": "</script><!--&", "b": math.nan})) == {"a": "</script><!--&", "b": None}
    assert not set("<>&") & set(script_json("</script>&"))


def test_csv_cells_are_no_formulas() -> None:
    text = csv_text(["a"], [["=cmd|calc"], ["+1"], ["@x"], [-1.5], ["plain, with comma"], [math.nan]])
    assert text.splitlines() == ["a", "'=cmd|calc", "'+1", "'@x", "-1.5", '"plain, with comma"', '""']
    assert data_link("text/csv", 'a"b').endswith(base64.b64encode(b'a"b').decode())


def test_watched_features_and_the_rows_that_pushed_them_most(page: Page, tmp_path: Path) -> None:
    """Every fourth step is split; row i pushes each of three features by 0.01·(i + 1) − 0.002·k."""
    policy = make_header(tmp_path).policy
    accounts = [make_account(step, policy) for step in range(1, 9)]
    section = watched_section(accounts)
    assert section is not None
    size = {policy.feature_ids[k]: abs(float(policy.coef[k])) for k in WATCHED}
    assert [line.feature for line in section.lines] == sorted(size, key=lambda f: -size[f])
    for line in section.lines:
        assert (line.accounts, line.shift_X, line.shift_Y) == (8, pytest.approx(0.08), pytest.approx(0.16))
        assert line.most is not None
        assert (line.most.row.row_id, line.most.row.step, line.most.warm_up) == ("demo-039", 4, True)
        assert line.most.push == pytest.approx(0.1 - 0.002 * policy.feature_ids.index(line.feature))
    assert len(section.by_row) == 20
    (first,) = (most for (_, row_id), most in section.by_row.items() if row_id == "demo-030")
    pushed = {policy.feature_ids[k]: abs(0.01 - 0.002 * k) * size[policy.feature_ids[k]] for k in WATCHED}
    assert first.feature == max(pushed, key=pushed.__getitem__)
    assert "Watched features" in page.text
    unsplit = watched_section([dataclasses.replace(a, rows=()) for a in accounts])
    assert unsplit is not None
    assert unsplit.by_row == {}
    assert all(line.most is None for line in unsplit.lines)
    assert watched_section([dataclasses.replace(a, watched=()) for a in accounts]) is None
