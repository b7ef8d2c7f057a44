"""Rows of training records written by hand."""

from quicksilver.experiments.report.training_rows import training_rows
from tests.experiments.test_analysis import training


def test_quality_at_equal_seconds_is_that_of_the_last_look_in_the_quicker_models_time() -> None:
    diffusion, other = training_rows([training(), training(objective="AutoregressiveNLL", seconds=20.0)])[::-1]
    assert (diffusion.family, diffusion.final, diffusion.at_equal_seconds) == ("masked diffusion", 0.8, 0.8)
    assert (other.family, other.final, other.at_equal_seconds) == ("autoregressive", 0.8, None)


def test_failed_trainings_have_no_row_and_set_no_pace() -> None:
    failed = training(objective="AutoregressiveNLL") | {"result": {"failed": "out of memory"}}
    (row,) = training_rows([failed, training()])
    assert (row.format, row.experts, row.active_parameters) == ("prompt then answer", "", 10)


def test_experts_are_told_in_words() -> None:
    mixture = training()
    mixture["point"]["recipe"] |= {"balancing": {"kind": "LossFree"}, "shape": {"experts": {
        "num_experts": 32, "shared_width": 16, "routing": {"top_k": 4, "scoring": "sigmoid"}}}}
    assert training_rows([mixture])[0].experts == "4 of 32 and 16 shared, sigmoid, loss free"
