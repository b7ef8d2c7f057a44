"""The section of decoder settings, from records written by hand."""

import pytest
from quicksilver.experiments.frontier import section as module
from quicksilver.experiments.frontier.section import section
from quicksilver.experiments.frontier.speed_ups import FASTER, SLOWER
from rich.console import Console

from tests.experiments.study.test_rows import TEXT, record, reference


@pytest.fixture(autouse=True)
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batch sizes of which figures are drawn."""
    asked: list[int] = []
    monkeypatch.setattr(module, "frontier", lambda rows, sources, size: asked.append(size) or b"png")
    return asked


def test_there_is_a_figure_for_each_batch_size_the_smallest_under_the_plain_name(batches: list[int]) -> None:
    found = section([reference(0.9, batch_size=size) for size in (16, 1, 4)], ["here"])
    assert list(found.images) == ["frontier.png", "frontier_batch4.png", "frontier_batch16.png"]
    assert batches == [1, 4, 16]


def test_it_holds_rows_speed_ups_and_findings_of_the_same_records() -> None:
    found = section([reference(0.9), record("diffusion", 0.9, 2.0), reference(0.9, batch_size=16),
                     record("diffusion", 0.9, 0.5, batch_size=16)], ["here"])
    assert [row.label for row in found.values["rows"]] == 2 * ["left to right", "confident, 4 steps"]
    assert [line.outcomes for line in found.values["speed_ups"]] == [{1: FASTER, 16: SLOWER}]
    assert found.findings == ["sums: diffusion's advantage at equal quality vanishes between batch 1 and 16 (faster at "
                              "batch 1 and slower at batch 16)."]


def test_the_terminal_shows_a_table_a_task_and_says_what_has_collapsed() -> None:
    found = section([reference(0.9), record("diffusion", 0.5, 7.25), record("diffusion", 1, 2, task="prose", text=TEXT),
                     record("diffusion", 0, 1) | {"result": {"failed": "why"}}], ["here"])
    wide = Console(width=200)
    with wide.capture() as said:
        wide.print(found.shown)
    lines = [line.strip() for line in said.get().splitlines()]
    assert [line for line in lines if line in ("prose", "sums")] == ["prose", "sums"]
    (setting,) = (line.split() for line in lines if "7.25" in line)
    assert setting[:4] == ["1", "confident", "4", "50.0"]
    (collapsed,) = (line for line in lines if "(collapsed)" in line)
    assert "0.00" in collapsed
