"""What is said of presets, from records written by hand."""

from typing import Any

from quicksilver.experiments.presets.section import section
from tests.experiments.test_analysis import record, reference


def presets(task: str, share: float, batch_size: int = 1) -> list[dict[str, Any]]:
    return [record("diffusion", share, speed_up, order=order, task=task, batch_size=batch_size)
            for order, speed_up in (("llada", 2.0), ("klass", 0.5))]


def test_presets_are_counted_over_all_tasks_and_batch_sizes() -> None:
    found = section([made for size in (1, 16) for task in ("a", "b") for made in (
        reference(0.9, task=task, batch_size=size), *presets(task, 0.9, size))], ["here"])
    assert found.findings == ["Presets as good as autoregression: 2 of 2 on a and b; faster as well: 1 at batch 1 "
                              "and 1 at batch 16."]
    assert [(line.task, line.batch_size, line.num_faster) for line in found.values["summary"]] == [
        ("a", 1, 1), ("a", 16, 1), ("b", 1, 1), ("b", 16, 1)]


def test_a_task_on_which_none_is_as_good_and_one_that_cannot_be_compared_are_told_apart() -> None:
    assert section([reference(0.9), *presets("sums", 0.5), reference(0.01, task="hard"), *presets("hard", 0.5)],
                   ["here"]).findings == [
        "hard: autoregression solves under 5 %, too little to compare presets with.",
        "sums: no preset is as good as autoregression at batch 1."]
