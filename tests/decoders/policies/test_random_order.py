"""A uniform choice, keyed by seed, position and step."""

from quicksilver.decoders import RandomOrder

from tests.decoders.policies.conftest import MakeInputs, under_seeds


def test_every_masked_position_is_chosen_equally_often(make: MakeInputs) -> None:
    row = make(masked=[True, False, True, True])
    counts = RandomOrder().select(*under_seeds(row, 3000)).commit_BQ.sum(0)
    assert counts[1] == 0
    assert ((counts[[0, 2, 3]] - 1000) ** 2 / 1000).sum() < 13.8  # 2 degrees of freedom, p = 0.001


def test_the_choice_changes_with_the_step(make: MakeInputs) -> None:
    choices = {tuple(RandomOrder().select(*make(masked=[True] * 8, step=step)).commit_BQ[0].tolist())
               for step in range(20)}
    assert len(choices) > 4
