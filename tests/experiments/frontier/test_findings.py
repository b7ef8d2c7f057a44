"""What is said of rows: each thing once, over all tasks of which it holds."""

from typing import Any

import pytest
from quicksilver.experiments.frontier.findings import best_texts, findings
from quicksilver.experiments.study.rows import rows

from tests.experiments.study.test_rows import TEXT, record, reference


def said(*records: dict[str, Any]) -> list[str]:
    return findings(rows(records))


def pair(share: float, speed_up: float, right: float = 0.9, **changes: Any) -> list[dict[str, Any]]:
    return [reference(right, **changes), record("diffusion", share, speed_up, **changes)]


def test_a_pattern_is_said_once_over_all_tasks_and_batch_sizes_that_show_it() -> None:
    assert said(*(made for task in "abc" for size in (1, 16) for made in pair(0.9, 2.0, task=task, batch_size=size)),
                *(made for size in (1, 16) for made in pair(0.5, 2.0, task="d", batch_size=size))) == [
        "a, b and c: diffusion is faster at equal quality at batch 1 and 16.",
        "d: diffusion loses, no setting is as good at batch 1 and 16."]


def test_a_slower_setting_is_said_to_lose() -> None:
    assert said(*pair(0.9, 0.5)) == ["sums: diffusion loses on speed at batch 1, as good but slower."]


def test_a_reference_that_solves_nothing_is_not_compared() -> None:
    sentences = said(*pair(0.01, 20.0, right=0.01))
    assert sentences == ["sums: autoregression solves under 5 %, too little for a speed-up at equal quality to mean "
                         "anything."]


def test_where_no_diffusion_setting_is_measured_it_does_not_lose() -> None:
    assert said(reference(0.9)) == ["sums: no setting of diffusion is measured."]


@pytest.mark.parametrize(("speed_ups", "expected"), [
    ((3.0, 1.5, 0.8), "vanishes between batch 4 and 16 (faster at batch 1 and 4 and slower at batch 16)"),
    ((3.0, 0.9, 0.8), "vanishes between batch 1 and 4 (faster at batch 1 and slower at batch 4 and 16)"),
    ((3.0, 2.0, 1.1), "faster at equal quality at batch 1, 4 and 16"),
    ((0.5, 2.0, 3.0), "sums: diffusion is slower at batch 1 and faster at batch 4 and 16."),
    ((3.0, 0.9, 1.1), "sums: diffusion is faster at batch 1, slower at batch 4 and faster at batch 16.")])
def test_the_batch_size_where_the_advantage_vanishes_is_named(speed_ups: tuple[float, ...], expected: str) -> None:
    (sentence,) = said(*(made for size, speed_up in zip((1, 4, 16), speed_ups, strict=True)
                         for made in pair(0.9, speed_up, batch_size=size)))
    assert expected in sentence


def test_a_better_quality_is_said_with_what_becomes_of_the_speed() -> None:
    sentences = said(*pair(0.99, 2.0), *pair(0.99, 0.5, batch_size=16), *pair(0.9, 2.0, task="level"))
    assert sentences[-1] == ("Diffusion's best quality is above autoregression's on sums (faster at batch 1, slower at "
                             "batch 16).")


def test_orders_are_told_in_one_sentence_with_whether_they_matter() -> None:
    def orders(task: str, confident: float, chance: float) -> list[dict[str, Any]]:
        return [record("diffusion", confident, 1.0, task=task), record("diffusion", 0.1, 1.0, steps=1, task=task),
                record("diffusion", chance, 1.0, order="random", task=task)]

    assert said(*orders("a", 0.9, 0.5), *orders("b", 0.9, 0.9)) == [
        "The order of commits (most confident first / random / all in one step, at the largest batch) matters on "
        "a 90.0 / 50.0 / 10.0 % in 4 steps, makes no difference on b 90.0 / 90.0 / 10.0 % in 4 steps."]


def test_collapsed_text_is_told_and_not_ranked() -> None:
    records = [reference(0.75, text=TEXT | {"unique": 1.0, "valid_unique_novel": 0.7}),
               record("diffusion", 0.4, 2, order="random", text=TEXT | {"unique": 0.98, "valid_unique_novel": 0.38}),
               record("diffusion", 1.0, 2.0, text=TEXT)]
    free, collapsed = said(*records)
    assert free.startswith("sums: free text, whose quality is several numbers, so no single speed-up is quoted")
    assert "1 of 3 settings on sums (diffusion, confident, 4 steps, batch 1, prints 100.0 % valid" in collapsed
    assert [row.order for row in best_texts(rows(records))] == ["left to right", "random"]
