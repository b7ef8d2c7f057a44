"""The judge: a proper distribution that prefers what it was fitted to."""

import math

import pytest
from quicksilver.experiments.tasks.ngram_model import NgramJudge

LINES = ["return self.name", "return self.value", "import os", "x = None"] * 3
JUDGE = NgramJudge.fitted(LINES, order=4)


@pytest.mark.parametrize("context", ["", "r", "ret", "return ", "zzz", "sel"])
def test_probabilities_sum_to_one(context: str) -> None:
    seen = {character for line in LINES for character in line} | {"\x03"}
    total = sum(JUDGE.probability(context, character) for character in seen)
    unseen = JUDGE.probability(context, "\u2603")
    assert total + unseen == pytest.approx(1.0)
    assert unseen > 0


def test_witten_bell_by_hand() -> None:
    judge = NgramJudge.fitted(["ab"], order=2)
    # Unigrams a, b, end: one each; 3 types + one for the unseen.
    unigram = (1 + 3 * 1 / 4) / (3 + 3)
    assert judge.probability("", "a") == pytest.approx(unigram)
    assert judge.probability("a", "b") == pytest.approx((1 + 1 * unigram) / (1 + 1))


def test_what_it_knows_costs_less_than_what_is_shuffled() -> None:
    shuffled = ["eurnrt mnaef.sl", "spomirt o"]
    assert JUDGE.nats_per_char(["return self.name", "import os"]) < 1.0 < JUDGE.nats_per_char(shuffled)


def test_nats_are_those_of_the_probabilities() -> None:
    judge = NgramJudge.fitted(["ab"], order=2)
    expected = -(math.log(judge.probability("\x02", "b")) + math.log(judge.probability("b", "\x03"))) / 2
    assert judge.nats_per_char(["b"]) == pytest.approx(expected)
