"""The page and the figure come from records alone, without torch, and say what was not measured."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from quicksilver.experiments.harness.json_lines import JsonLines
from quicksilver.experiments.kernel_bench import page as kernel_report
from quicksilver.experiments.kernel_bench.page import OUTCOME, KernelReport, write_report
from rich.console import Console

from .test_rows import CASE, CEILINGS, PROGRAM, TIME

PROVENANCE = {"commit": "c" * 40, "dirty": False, "source_hash": "s" * 16, "device": "none",
              "machine": {"cpu": "a processor"}, "versions": {"triton": "3.9.0"}}
VERDICT = {"kernel": "head", "shape": "tiny 0", "case": "HeadCase(rows=3)", "dtype": "float32", "passed": True,
           "error": 1e-7, "tolerance": 5e-6, "integers_differ": 0, "ran": "interpreter",
           "provenance": PROVENANCE | {"device": "cpu"}}
HARDWARE = {"driver_version": "570.1", "clocks.sm": "1980 MHz", "power.limit": "700 W"}
ON_GPU = {"provenance": PROVENANCE | {"device": "NVIDIA H200"}, "hardware": HARDWARE}
FOLDER = Path(kernel_report.__file__).parent


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr(kernel_report, "console", Console(file=text, width=110, highlight=False))
    return text


def write(folder: Path, *, has_gpu: bool, failures: list[str]) -> str:
    times = [CEILINGS | ON_GPU, TIME | ON_GPU] if has_gpu else []
    cases, programs = [CASE | {"provenance": PROVENANCE}], [PROGRAM | {"provenance": PROVENANCE}]
    path = write_report(folder, cases, programs, [VERDICT], times, failures, has_gpu=has_gpu)
    return path.read_text()


def test_without_a_gpu_the_page_and_the_screen_say_that_nothing_was_measured(
        tmp_path: Path, screen: io.StringIO, golden: Callable[[str, str], None]) -> None:
    golden("without_gpu.html", write(tmp_path, has_gpu=False, failures=[]))
    assert "times: not measured: no GPU here" in screen.getvalue()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "programs.csv", "report.html", "roofline.png", "times.csv"]


def test_with_times_the_page_shows_the_share_the_ceilings_and_the_clocks(
        tmp_path: Path, screen: io.StringIO, golden: Callable[[str, str], None]) -> None:
    golden("with_gpu.html", write(tmp_path, has_gpu=True, failures=["head: spills 8 bytes"]))
    assert "no GPU here" not in screen.getvalue()


def test_launches_that_disagree_with_the_replay_are_marked(tmp_path: Path, screen: io.StringIO) -> None:
    page = [write_report(tmp_path, [CASE | {"provenance": PROVENANCE}], [], [], [TIME | ON_GPU | {"flushed_us": times}],
                         [], has_gpu=True).read_text() for times in ([130.0] * 3, [500.0] * 3)]
    assert ["4 &times; the replay" in text for text in page] == [False, True]
    assert "over 1.25 times" in page[0]


def test_a_cut_run_is_not_called_right(tmp_path: Path, screen: io.StringIO) -> None:
    cases = [CASE | {"provenance": PROVENANCE}]
    page = write_report(tmp_path, cases, [], [], [], [], has_gpu=True, cut="cut: 3 of 3 verdicts missing").read_text()
    assert "This run was cut: 3 of 3 verdicts missing." in page
    assert "No limit is broken" not in page
    assert "not measured: the time budget ended" in page
    assert "Roofline" not in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["programs.csv", "report.html", "times.csv"]
    assert write_report(tmp_path, [], [], [], [], [], has_gpu=True, cut="cut: all missing").exists()


def test_what_was_launched_only_keeps_its_row(tmp_path: Path, screen: io.StringIO) -> None:
    launched = TIME | ON_GPU | {"cold_us": None, "warm_us": None, "no_graph": "RuntimeError: capture"}
    cases = [CASE | {"provenance": PROVENANCE}]
    page = write_report(tmp_path, cases, [], [], [launched], [], has_gpu=True).read_text()
    assert "130 <small" in page
    assert "RuntimeError: capture" in page


@pytest.mark.parametrize("has_gpu", [False, True])
def test_tables_scroll_by_themselves_and_have_room_on_a_narrow_page(
        has_gpu: bool, tmp_path: Path, screen: io.StringIO) -> None:
    """Rendered at 800, 1200 and 1600 px, no table of results/kernels is wider than the page."""
    page = write(tmp_path, has_gpu=has_gpu, failures=[])
    tables = re.findall(r"<div class=\"scroll\"><table>\n<tr>(.*?)</tr>", page, re.DOTALL)
    assert len(tables) == page.count("<table") == 4
    assert [header.count("<th") for header in tables] == [11, 12, 11, 8]
    assert set(re.findall(r"<tr class=\"group\"><th colspan=\"(\d+)\">", page)) == {"11", "12"}


def test_the_page_of_a_run_is_made_again_from_what_it_left(tmp_path: Path, screen: io.StringIO) -> None:
    cases, programs = [CASE | {"provenance": PROVENANCE}], [PROGRAM | {"provenance": PROVENANCE}]
    times = [CEILINGS | ON_GPU, TIME | ON_GPU]
    outcome = {"has_gpu": True, "failures": ["head: spills 8 bytes"], "cut": "cut: 2 times missing"}
    for name, rows in (("cases.jsonl", cases), ("programs.jsonl", programs), ("verdicts.jsonl", [VERDICT]),
                       ("times.jsonl", times), (OUTCOME, [outcome])):
        JsonLines(tmp_path / "run" / name).replace(rows)
    first = write_report(tmp_path / "first", cases, programs, [VERDICT], times, outcome["failures"],
                         has_gpu=True, cut=outcome["cut"]).read_bytes()
    experiment = KernelReport(str(tmp_path / "run"))
    experiment.check()
    assert experiment.run(tmp_path / "again") == 0
    assert (tmp_path / "again" / "report.html").read_bytes() == first
    with pytest.raises(ValueError, match="must be a folder that kernel_bench wrote"):
        KernelReport(str(tmp_path)).check()
