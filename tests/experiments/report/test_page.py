"""The page: what it says and shows of records written by hand, and that its tables have room."""

import json
import subprocess
import sys
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from quicksilver.decoders import Greedy, TopProbability
from quicksilver.experiments.frontier.experiment import Frontier
from quicksilver.experiments.frontier.findings import findings
from quicksilver.experiments.harness.progress import console
from quicksilver.experiments.harness.records import RecordStore, key_of
from quicksilver.experiments.joint_error.experiment import JointError
from quicksilver.experiments.report.page import related_records, report_name, write_report
from quicksilver.experiments.study.rows import rows, sources

from tests.experiments.handmade import PROVENANCE, cache_record, joint_record, model, step
from tests.experiments.study.test_rows import TEXT, record, reference, training

pytestmark = pytest.mark.usefixtures("undrawn")  # but for the page of everything, made before
EXACT = step(0, 0, kl=[0.0], flips=[0])


def stored(folder: Path, record: dict[str, Any]) -> Path:
    path = folder / f"{key_of(record['point'])}.json"
    path.write_text(json.dumps(record))
    return path


def test_each_kind_of_record_makes_a_section(tmp_path: Path) -> None:
    page = write_report(tmp_path, [], [joint_record(2, "11"), cache_record("dual", [EXACT])])
    html = page.read_text()
    assert "<h1>What caches get wrong; What parallel commits lose</h1>" in html
    assert html.count("</h2>") == 4  # what was found, the two, and every setting
    assert html.count("data:image/png;base64,") == 2
    assert "cache error sums" in html  # every setting
    for absent in ("Quality against speed", "All settings", ">Training<"):
        assert absent not in html
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache_error.png", "joint_error.png", "report.html"]


def test_failures_of_a_section_are_counted_on_the_page(tmp_path: Path) -> None:
    failed = joint_record(1, "1") | {"result": {"failed": "RuntimeError: out of memory"}}
    assert "1 points failed" in write_report(tmp_path, [], [joint_record(2, "11"), failed]).read_text()


def test_a_record_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    made = joint_record(2, "11")
    with pytest.raises(ValueError, match="kind=.Other.: must be one of .*CacheErrorPoint.*JointErrorPoint"):
        write_report(tmp_path, [], [made | {"point": made["point"] | {"kind": "Other"}}])


def test_only_whole_records_of_the_same_models_lie_beside(tmp_path: Path) -> None:
    mine, other_seed = joint_record(2, "11"), joint_record(2, "11", seed=1)
    for made in (mine, other_seed, {"point": model(), "result": {}, "provenance": PROVENANCE}):
        stored(tmp_path, made)
    damaged = stored(tmp_path, cache_record("dual", [EXACT]))
    damaged.write_text(damaged.read_text()[:-9])
    with console.capture() as said:
        assert related_records(tmp_path, [{"point": model()}], but=()) == [mine]
    assert f"left out: {damaged}" in said.get()


def test_the_sweeps_report_shows_what_was_recorded_of_its_models(
        tmp_path: Path, frontier: Callable[..., Frontier]) -> None:
    sweep = frontier(batch_sizes=[4], num_items=[4], thresholds=[], orders={"confident": TopProbability()})
    JointError(sweep.tasks, "diffusion", [0], Greedy(), TopProbability(), 4, 4, 1).run(tmp_path)
    assert sweep.run(tmp_path) == 0
    (page,) = tmp_path.glob("sudoku4-*/report.html")
    html = page.read_text()
    order = [html.index(title) for title in ("<h1>Masked diffusion against autoregression", ">What was found<",
                                             ">Speed-up at equal quality<", ">Quality against speed</h2>",
                                             ">What parallel commits lose</h2>", ">All settings</h2>",
                                             ">Training</h2>")]
    assert order == sorted(order)
    assert len(list(RecordStore(tmp_path / "records").all())) == 2 + 2 + 3


def test_a_reports_folder_tells_tasks_and_seeds() -> None:
    assert report_name("x-", ["a", "b"], [0], 1).rpartition("-")[0] == "x-a+b"
    assert report_name("", ["a"], [1, 2], 1).rpartition("-")[0] == "a-seeds1+2"


class Tables(HTMLParser):
    """The cells of each table, row by row; a cell counts as often as the columns and rows that it spans."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.spans: dict[int, tuple[int, str]] = {}
        self.open: list[tuple[str, str]] = []
        self.is_inside = False
        self.outside = 0

    @classmethod
    def of(cls, html: str) -> list[list[list[str]]]:
        found = cls()
        found.feed(html)
        assert not found.outside, "tables that cannot be scrolled"
        return found.tables

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "div":
            self.open.append((tag, given.get("class", "")))
        elif tag == "table":
            self.outside += ("div", "scroll") not in self.open
            self.tables.append([])
            self.is_inside = True
        elif tag == "tr":
            self.tables[-1].append([""] * sum(left > 0 for left, _ in self.spans.values()))
            self.spans = {place: (left - 1, text) for place, (left, text) in self.spans.items() if left > 1}
        elif tag in ("td", "th"):
            row = self.tables[-1][-1]
            if "rowspan" in given:
                self.spans[len(row)] = (int(given["rowspan"]) - 1, "")
            row += [""] * int(given.get("colspan", "1"))

    def handle_endtag(self, tag: str) -> None:
        if tag == "div":
            self.open.pop()
        elif tag == "table":
            self.is_inside = False

    def handle_data(self, data: str) -> None:
        if self.is_inside and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1] += data.strip()


def everything() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Trainings, decodes of two tasks and of text at two batch sizes and seeds, presets and studies."""
    decodes = [made | {"point": made["point"] | {"model": made["point"]["model"] | {"seed": seed}}}
               for seed in (0, 1) for size in (1, 16) for made in (
                   reference(0.5, batch_size=size), record("diffusion", 0.9, 2.0, batch_size=size),
                   reference(0.9, batch_size=size, task="other"),
                   record("diffusion", 0.2, 2.0, batch_size=size, task="other"),
                   reference(0.7, batch_size=size, task="lines", text=TEXT | {"unique": 1.0}),
                   record("diffusion", 0.6, 2.0, batch_size=size, task="lines", text=TEXT | {"unique": 0.9}))]
    presets = [made | {"point": made["point"] | {"kind": "PresetPoint"}} for made in decodes[:4]]
    mixture = training("other")
    mixture["point"]["recipe"] |= {"balancing": {"kind": "LossFree"}, "shape": {"experts": {
        "num_experts": 32, "shared_width": 16, "routing": {"top_k": 4, "scoring": "sigmoid"}}}}
    mixture["result"] |= {"parameters": 1_234_000, "active_parameters": 567_000, "violations": [1.0, 0.5]}
    return [training(), mixture], [*decodes, *presets, joint_record(2, "11"), cache_record("dual", [EXACT])]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(tmp_path_factory.mktemp("whole"), *everything())


def test_the_page_of_everything_is_as_it_was_looked_at(whole: Path, golden: Callable[[str, str], None]) -> None:
    golden("everything.html", whole.read_text())


def test_tables_can_be_scrolled_and_have_room_on_a_narrow_page(whole: Path) -> None:
    """Rendered at 800 px and more, no table of results/ is wider than the page; 13 columns of numbers are what fits."""
    tables = Tables.of(whole.read_text())
    assert len(tables) > 10
    for table in tables:
        widths = {len(row) for row in table}
        assert len(widths) == 1, table
        assert widths.pop() <= 13, table[0]


def test_what_was_found_is_said_once(whole: Path) -> None:
    html = whole.read_text()
    found = html.split("What was found</h2>")[1].split("</ul>")[0]
    sentences = [part.split("</li>")[0] for part in found.split("<li>")[1:]]
    assert len(sentences) == len(set(sentences)) == 8
    for task in ("sums", "other"):
        assert sum("equal quality" in sentence and task in sentence for sentence in sentences) <= 1
    (speed_ups,) = (table for table in Tables.of(html) if table[0][:2] == ["task", "decoding"])
    assert [row[0] for row in speed_ups if row[0]] == ["task", "other", "sums"]


def test_each_precision_has_figures_tables_and_sentences_of_its_own(tmp_path: Path) -> None:
    records = {precision: [reference(0.5, precision=precision), record("diffusion", share, 2.0, precision=precision)]
               for precision, share in (("bfloat16", 0.9), ("float32", 0.1))}
    alone = [line for made in records.values() for line in findings(rows(made))]
    with console.capture() as said:
        page = write_report(tmp_path, [training(), training(precision="float32")],
                            [*(made for side in records.values() for made in side), joint_record(2, "11")])
    html = page.read_text()
    assert "These records were made under several conditions:" in html
    for precision in records:
        label = f"models trained in {precision}; cpu, 1 thread"
        for place in ("<h3>{}</h3>", "Speed-up at equal quality; {}<", "sums, batch 1: 2000 items; {}<"):
            assert place.format(label) in html
        assert label in said.get()
        for name in ("frontier", "learning_curves"):
            assert page.with_name(f"{name}_{precision}_cpu_1_thread.png").exists()
    assert page.with_name("joint_error_bfloat16_cpu_1_thread.png").exists()
    for line in alone:
        assert line in unescape(html)
    assert not page.with_name("frontier.png").exists()


def test_the_page_of_the_first_task_says_what_is_to_come_and_the_terminal_nothing(tmp_path: Path) -> None:
    with console.capture() as said:
        html = write_report(tmp_path, [training()], [reference(0.5), record("diffusion", 0.9, 2.0)],
                            to_come=["sudoku4", "addition"]).read_text()
    assert "Still to come: sudoku4, addition." in html
    assert said.get() == ""
    assert "Still to come" not in write_report(tmp_path, [training()], [reference(0.5)]).read_text()


def test_a_page_of_models_alone_says_that_nothing_is_found_yet(tmp_path: Path) -> None:
    html = write_report(tmp_path, [training()], [], to_come=["sums"]).read_text()
    assert "Nothing yet." in html
    assert "learning_curves.png" in html
    assert "All settings" not in html


def test_the_first_table_names_precision_device_threads_and_commit(tmp_path: Path) -> None:
    on_gpu = record("diffusion", 0.9, 2.0)
    on_gpu["point"] |= {"device": "cuda", "threads": 2}
    on_gpu["provenance"] = on_gpu["provenance"] | {"gpu": {"name": "H200"}}
    made, trained, measured = Tables.of(write_report(tmp_path, [training()], [on_gpu]).read_text())[0]
    assert made == ["made here", "records", "models trained in", "device", "threads", "cores", "torch", "commit"]
    assert trained == ["models trained", "1", "bfloat16", "cpu", "1", "2", "2", "aaaaaaaaaa"]
    assert measured == ["measured", "1", "bfloat16", "H200 beside cpu", "2", "2", "2", "aaaaaaaaaa"]


def test_the_training_table_tells_active_parameters_experts_and_their_balance(whole: Path) -> None:
    (table,) = (table for table in Tables.of(whole.read_text()) if "family; format" in table[0])
    assert [row[3:5] for row in table[1:]] == [["1.234 (0.567)", "4 of 32 and 16 shared, sigmoid, loss free"],
                                               ["0.000 (0.000)", ""]]
    assert whole.with_name("balance.png").exists()


def test_mixed_machines_and_commits_are_said(tmp_path: Path) -> None:
    one = [reference(0.9), record("diffusion", 0.9, 2.0)]
    other_commit, other_machine = record("diffusion", 0.9, 2.0, commit="b" * 40), record("diffusion", 0.9, 2, cpu="x")
    edits = [record("diffusion", 0.9, 2.0, source_hash=source_hash) for source_hash in ("edited", "again")]
    assert len(sources(one)) == 1
    assert len(sources([*one, other_commit])) == len(sources([*one, other_machine])) == len(sources(edits)) == 2
    assert "Measurements come from 2 sources" in write_report(tmp_path, [], [*one, other_commit]).read_text()
    assert "come from" not in write_report(tmp_path, [training()], one).read_text()


def test_models_may_come_from_a_commit_of_their_own(tmp_path: Path) -> None:
    """Their times are compared with one another's, not with those of what was measured."""
    earlier = training()
    earlier["provenance"] = earlier["provenance"] | {"commit": "b" * 40}
    html = write_report(tmp_path, [earlier], [reference(0.9), record("diffusion", 0.9, 2.0)]).read_text()
    assert "come from" not in html
    made = " ".join(cell for row in Tables.of(html)[0] for cell in row)
    assert "models trained 1 bfloat16 cpu 1 2 2 bbbbbbbbbb measured 2 bfloat16 cpu 1 2 2 aaaaaaaaaa" in made
    assert "Models come from 2 sources" in write_report(tmp_path, [training(), earlier], [reference(0.9)]).read_text()


def test_the_report_holds_every_row_setting_and_failure(tmp_path: Path) -> None:
    failed = record("diffusion", 0.9, 2.0)
    failed["result"] = {"failed": "RuntimeError: <out of memory>"}
    html = write_report(tmp_path, [training(), training(objective="AutoregressiveNLL", seconds=20.0)],
                        [reference(0.9), record("diffusion", 0.5, 7.25), failed]).read_text()
    for expected in ("7.25", "confident, 4 steps", "left to right", "RuntimeError: &lt;out of memory&gt;",
                     "Every setting", "masked diffusion", "not measured"):
        assert expected in html, expected


def test_tasks_with_and_without_text_measures_share_a_table(tmp_path: Path) -> None:
    html = write_report(tmp_path, [training()], [
        reference(0.9), reference(0.7, task="lines", text=TEXT), record("diffusion", 1.0, 2.0, task="lines", text=TEXT)
    ]).read_text()
    assert "<th>valid unique novel</th>" in html
    assert "(collapsed)" in html


def test_report_and_figures_import_no_torch() -> None:
    code = ("import sys, quicksilver.experiments.report.experiment, quicksilver.experiments.report.learning_curves; "
            "sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
