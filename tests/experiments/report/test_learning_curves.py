"""The learning curves, from records written by hand."""

import pytest
from matplotlib.figure import Figure
from quicksilver.experiments.report import learning_curves as module
from quicksilver.experiments.report.learning_curves import learning_curves

from tests.experiments.drawing import keep_figures, series
from tests.experiments.study.test_rows import training


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    return keep_figures(monkeypatch, module)


def test_a_task_is_a_panel_of_right_answers_against_seconds_of_training(drawn: list[Figure]) -> None:
    learning_curves([training(), training(objective="AutoregressiveNLL", seconds=20.0), training("other")], ["here"])
    other, sums = drawn[0].axes
    assert (sums.get_title(), other.get_title()) == ("sums", "other")
    assert series(sums) == {"masked diffusion": [(4.5, 40), (9, 80)], "autoregressive": [(10, 40), (20, 80)]}
    assert (sums.get_xlabel(), other.get_ylabel()) == ("seconds of training", "right answers, %")


def test_the_order_of_the_records_changes_nothing(drawn: list[Figure]) -> None:
    records = [training(task, objective) for task in ("sums", "other") for objective in ("MaskedDiffusion", "Other")]
    for order in (records, records[::-1]):
        learning_curves(order, ["here"])
    one, another = ([(axes.get_title(), [line.get_label() for line in axes.lines]) for axes in figure.axes]
                    for figure in drawn)
    assert one == another


def test_models_with_experts_are_told_from_dense_ones(drawn: list[Figure]) -> None:
    mixture = training()
    mixture["point"]["recipe"] |= {"shape": {"experts": {"num_experts": 8}}}
    learning_curves([training(), mixture], ["here"])
    assert series(drawn[0].axes[0]).keys() == {"masked diffusion", "masked diffusion, experts"}


def test_a_model_that_failed_to_train_has_no_curve(drawn: list[Figure]) -> None:
    learning_curves([training("sums"), training("failed") | {"result": {"failed": "why"}}], ["here"])
    assert [axes.get_title() for axes in drawn[0].axes] == ["sums"]


def test_one_figure_never_mixes_precisions() -> None:
    with pytest.raises(ValueError, match="models trained in bfloat16; cpu, 1 thread and of models trained in float32"):
        learning_curves([training(), training(precision="float32")], ["here"])
