"""What a recipe refuses, its learning rate, and what a point checks before anything is trained."""

from collections.abc import Callable
from dataclasses import replace
from unittest.mock import patch

import pytest
from quicksilver.decoders import Linear
from quicksilver.experiments.training import recipe as module
from quicksilver.experiments.training.recipe import Recipe, TrainingPoint
from quicksilver.models import SeparateHead

from tests.experiments.conftest import LEFT_TO_RIGHT, ONE_A_STEP, diffusion_recipe


@pytest.mark.parametrize(("field", "value"), [
    ("updates", 0), ("batch_size", -1), ("threads", 1.5), ("precision", "float8"), ("muon_lr", 0), ("adamw_lr", "x"),
    ("warmup_updates", -1)])
def test_a_bad_recipe_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{field}="):
        diffusion_recipe(**{field: value})


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    recipe: Recipe = diffusion_recipe(updates=100, warmup_updates=10)
    factors = [recipe.learning_rate_factor(update) for update in range(100)]
    assert factors[0] < factors[5] < factors[10]
    assert max(factors) == factors[10]
    assert factors[-1] < 0.001


def test_all_decoders_of_a_model_are_checked_on_one_model_without_memory(
        training_point: Callable[..., TrainingPoint]) -> None:
    point = training_point(seed=123)
    with patch.object(module, "Transformer", wraps=module.Transformer) as built:
        for steps in (1, 2, 4):
            point.check(replace(ONE_A_STEP, schedule=Linear(steps)), SeparateHead())
        with pytest.raises(ValueError, match="needs a causal next-token model"):
            point.check(LEFT_TO_RIGHT, SeparateHead())
    assert built.call_count == 1
