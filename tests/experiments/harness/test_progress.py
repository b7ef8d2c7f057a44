"""Progress on a terminal and in a log."""

import io
from types import SimpleNamespace

import pytest
from quicksilver.experiments.harness import progress
from quicksilver.experiments.harness.progress import bar
from rich.console import Console


def screen(monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=text, force_terminal=is_terminal, width=110, highlight=False))
    return text


def test_a_log_gets_a_line_now_and_then_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    text = screen(monkeypatch, is_terminal=False)
    shown = progress._LogLines("train", 100, start=10, began=0.0, printed=0.0)
    for now, done in ((14, 12), (20, 20), (30, 40), (36, 50)):
        monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda now=now: now))
        shown.update(done, "loss [1.0]")
    assert text.getvalue().splitlines() == ["train  20/100  loss [1.0]  160 s left",  # 10 in 20 s, 80 to come
                                            "train  50/100  loss [1.0]  45 s left"]


def test_a_log_says_nothing_before_anything_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    text = screen(monkeypatch, is_terminal=False)
    shown = progress._LogLines("train", 100, start=10, began=0.0, printed=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: 60.0))
    shown.update(10, "resumed")
    assert text.getvalue() == ""


def test_where_there_is_no_terminal_a_short_piece_of_work_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    text = screen(monkeypatch, is_terminal=False)
    with bar("measure", 2) as shown:
        shown.update(1, "sums")
    assert text.getvalue() == ""


def test_a_terminal_shows_a_bar_with_what_is_done_and_the_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    text = screen(monkeypatch, is_terminal=True)
    with bar("measure", 4, start=1) as shown:
        shown.update(3, "sums, batch 16")
    assert "measure" in text.getvalue()
    assert "3/4" in text.getvalue()
    assert "sums, batch 16" in text.getvalue()
