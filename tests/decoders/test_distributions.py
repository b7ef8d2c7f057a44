"""What is drawn has the law that the method promises: exact enumeration on a tiny model, chi-square at 0.001.

The rows of a decode are requests with seeds of their own, so that one decode is a sample."""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from quicksilver.decoders import (
    Binomial,
    ByConfidence,
    Capped,
    Categorical,
    Cosine,
    Decoder,
    FirstHitting,
    Free,
    Linear,
    Policy,
    RandomOrder,
    Rate,
    Recompute,
    Remdm,
    RemdmLoop,
    Request,
    Rescaled,
    Schedule,
    Whole,
)
from quicksilver.kernels.token_statistics import StatisticsRequest, TokenStatistics, token_statistics
from quicksilver.models import Bidirectional, KVStore, ModelSpec, Plan
from torch import Tensor

MASK, LENGTH = 3, 3
NUM_ROWS = 5000
Canvas = tuple[int, ...]
Law = Mapping[Canvas, float]
Returns = Callable[[Canvas], Sequence[float]]
"""The probability that a token returns to mask, for each position of a canvas."""
ALL_MASKED: Canvas = (MASK,) * LENGTH
_PLACE_VALUES_L = torch.tensor([(MASK + 1) ** position for position in range(LENGTH)])


@cache
def table(seed: int, scale: float, independent: bool) -> Tensor:
    """Probabilities [C, L, V] of the three tokens at every position, for each of the canvases."""
    generator = torch.Generator().manual_seed(seed)
    logits_CLV = scale * torch.randn((MASK + 1) ** LENGTH, LENGTH, MASK, generator=generator)
    return (logits_CLV[:1].expand_as(logits_CLV) if independent else logits_CLV).softmax(-1)


@dataclass(frozen=True)
class EnumerableModel:
    """A LanguageModel of three tokens and a mask at three positions, whose conditionals are any table's: in general
    those of no joint, so that the order matters. Where positions are `independent` they ignore the canvas."""

    seed: int = 0
    scale: float = 1.0
    independent: bool = False

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec(MASK, 0, MASK + 1, LENGTH, Bidirectional(), torch.device("cpu"), materializes_logits=True)

    def conditional(self, canvas: Canvas, position: int) -> list[float]:
        code = int((torch.tensor(canvas) * _PLACE_VALUES_L).sum())
        return table(self.seed, self.scale, self.independent)[code, position].tolist()

    def new_store(self, num_rows: int, length: int) -> KVStore:
        raise NotImplementedError

    def hidden(self, tokens_BS: Tensor, plan: Plan, store: KVStore | None) -> Tensor:
        code_B = (tokens_BS[:, :LENGTH] * _PLACE_VALUES_L).sum(1)
        return table(self.seed, self.scale, self.independent)[code_B[:, None], plan.query_BQ].log()

    def statistics(self, hidden_BQE: Tensor, request: StatisticsRequest) -> TokenStatistics:
        return token_statistics(torch.nn.functional.pad(hidden_BQE, (0, 1), value=-torch.inf), request)

    def forward_cost(self, num_fed: int, num_keys_seen: int, num_queried: int, num_stored_read: int) -> tuple[int, int]:
        return 0, 0


def chi_square(observed: Mapping[Canvas, int], law: Law) -> float:
    """The p-value of counts under a law; outcomes expected less than five times are pooled."""
    total, expected, counted = sum(observed.values()), [0.0], [0]
    for outcome, probability in law.items():
        if probability * total < 5:
            expected[0] += probability * total
            counted[0] += observed.get(outcome, 0)
        else:
            expected.append(probability * total)
            counted.append(observed.get(outcome, 0))
    cells = [(c, e) for c, e in zip(counted, expected, strict=True) if e > 1e-9]
    if sum(c for c, _ in cells) < total or len(cells) < 2:
        return float(sum(c for c, _ in cells) == total)  # what the law excludes has happened, or nothing else can
    statistic = sum((c - e) ** 2 / e for c, e in cells)
    return float(torch.special.gammaincc(torch.tensor((len(cells) - 1) / 2).double(), torch.tensor(statistic / 2)))


def chain(model: EnumerableModel, steps: Sequence[tuple[float, Returns]]) -> list[Law]:
    """The law of the canvas after each step, at which every mask is decided by itself with the first probability, given
    the canvas before, and every token returns to mask with the second."""
    laws: list[Law] = [{ALL_MASKED: 1.0}]
    for decides, returns in steps:
        law: defaultdict[Canvas, float] = defaultdict(float)
        for canvas, probability in laws[-1].items():
            choices = []
            for position, (token, sigma) in enumerate(zip(canvas, returns(canvas), strict=True)):
                if token == MASK:
                    shares = [decides * p for p in model.conditional(canvas, position)]
                    choices.append([*enumerate(shares), (MASK, 1 - decides)])
                else:
                    choices.append([(token, 1 - sigma), (MASK, sigma)])
            for outcome in itertools.product(*choices):
                law[tuple(token for token, _ in outcome)] += probability * math.prod(share for _, share in outcome)
        laws.append(law)
    return laws[1:]


def always(sigma: float) -> Returns:
    return lambda canvas: [sigma] * LENGTH


def any_order(model: EnumerableModel) -> Law:
    """One position after another, in every order alike."""
    law: defaultdict[Canvas, float] = defaultdict(float)
    orders = list(itertools.permutations(range(LENGTH)))
    for order, tokens in itertools.product(orders, itertools.product(range(MASK), repeat=LENGTH)):
        canvas, probability = list[int](ALL_MASKED), 1 / len(orders)
        for position in order:
            probability *= model.conditional(tuple(canvas), position)[tokens[position]]
            canvas[position] = tokens[position]
        law[tokens] += probability
    return law


def sample(model: EnumerableModel, schedule: Schedule, policy: Policy) -> list[Counter[Canvas]]:
    """How often each canvas stood after each step."""
    decoder = Decoder(Whole(), schedule, Categorical(1.0), policy, Recompute())
    decoding = decoder.begin(model, [Request(list(ALL_MASKED), seed=seed) for seed in range(NUM_ROWS)])
    counts = [Counter(map(tuple, step.canvas.tokens_BS[:, :LENGTH].tolist())) for step in decoder.stream(decoding)]
    assert all(MASK not in canvas for canvas in counts[-1])
    return counts


def fits(observed: Mapping[Canvas, int], law: Law) -> bool:
    return chi_square(observed, law) > 1e-3


@pytest.mark.parametrize("seed", [0, 1])
def test_first_hitting_draws_from_the_models_any_order_distribution(seed: int) -> None:
    model = EnumerableModel(seed)
    counts = sample(model, FirstHitting(), RandomOrder())
    assert len(counts) == LENGTH
    assert fits(counts[-1], any_order(model))
    assert not fits(counts[-1], chain(model, [(1, always(0))])[-1]), "the sample is large enough to tell"


@pytest.mark.parametrize("num_steps", [1, 2, 4])
@pytest.mark.parametrize("seed", [0, 1])
def test_ancestral_sampling_in_t_steps_draws_from_the_law_of_its_chain(seed: int, num_steps: int) -> None:
    """A mask stays until time s with probability s / t."""
    model, times = EnumerableModel(seed), [1 - step / num_steps for step in range(num_steps + 1)]
    laws = chain(model, [(1 - s / t, always(0)) for t, s in itertools.pairwise(times)])
    counts = sample(model, Binomial(num_steps), RandomOrder())
    assert len(counts) == num_steps
    assert all(fits(observed, law) for observed, law in zip(counts, laws, strict=True))
    others = chain(model, [(1, always(0))]) if num_steps > 1 else [any_order(model)]
    assert not fits(counts[-1], others[-1]), "the sample is large enough to tell"


def remasking(alphas: Sequence[float], sigmas: Sequence[float]) -> list[tuple[float, Returns]]:
    """Of each step, the probabilities that a mask is decided and that a token returns (arXiv 2503.00307)."""
    return [((s - (1 - sigma) * t) / (1 - t), always(sigma))
            for (t, s), sigma in zip(itertools.pairwise(alphas), sigmas, strict=True)]


LINEAR = [step / 5 for step in range(6)]
COSINE = [*(1 - math.cos(step / 5 * math.pi / 2) for step in range(5)), 1]
LARGEST = [[1, *(min(1, (1 - s) / t) for t, s in itertools.pairwise(alphas[1:]))] for alphas in (LINEAR, COSINE)]
# Time 1 to 0 in 10 steps; alpha rises to 0.8 at time 0.6, stays until 0.2, rises to 1.
LOOP_ALPHAS = [0, 0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.8, 0.8, 0.9, 1]
REMASKING: list[tuple[str, Schedule, Policy, list[float], list[float]]] = [
    *((f"cap_{eta}", Free(Linear(5)), Remdm(Capped(eta)), LINEAR, [min(eta, most) for most in LARGEST[0]])
      for eta in (0.0, 0.1, 0.4, 1.0)),
    *((f"rescale_{eta}", Free(Linear(5)), Remdm(Rescaled(eta)), LINEAR, [eta * most for most in LARGEST[0]])
      for eta in (0.3, 1.0)),
    ("rescale_cosine", Free(Cosine(5)), Remdm(Rescaled(0.5)), COSINE, [0.5 * most for most in LARGEST[1]]),
    *((f"loop_{eta}", Free(Linear(10)), RemdmLoop(eta, 0.6, 0.2, 0.8), LOOP_ALPHAS,
       [eta if 4 <= step < 8 else 0 for step in range(10)]) for eta in (0.1, 0.24))]


@pytest.mark.parametrize(("name", "schedule", "policy", "alphas", "sigmas"), REMASKING,
                         ids=[name for name, *_ in REMASKING])
def test_remasking_keeps_the_marginals_and_draws_from_the_law_of_its_chain(
        name: str, schedule: Schedule, policy: Policy, alphas: list[float], sigmas: list[float]) -> None:
    """After each step a position is masked with probability 1 - alpha, each by itself, whatever sigma; and with the
    tokens the canvas has the law of the enumerated chain."""
    model = EnumerableModel(2)
    laws = chain(model, remasking(alphas, sigmas))
    counts = sample(model, schedule, policy)
    for alpha, observed, law in zip(alphas[1:], counts, laws, strict=True):
        masked: Counter[Canvas] = Counter()
        for canvas, count in observed.items():
            masked[tuple(int(token == MASK) for token in canvas)] += count
        assert fits(masked, {pattern: math.prod((alpha, 1 - alpha)[is_masked] for is_masked in pattern)
                             for pattern in itertools.product((0, 1), repeat=LENGTH)})
        assert fits(observed, law)


@pytest.mark.parametrize("rate", [Capped(0.3), Rescaled(0.7)], ids=str)
def test_remasking_keeps_the_tokens_law_where_positions_are_independent(rate: Rate) -> None:
    model = EnumerableModel(3, independent=True)
    final = sample(model, Free(Linear(6)), Remdm(rate))[-1]
    assert fits(final, {tokens: math.prod(model.conditional(ALL_MASKED, i)[token] for i, token in enumerate(tokens))
                        for tokens in itertools.product(range(MASK), repeat=LENGTH)})


def test_by_confidence_returns_one_share_in_all_and_decides_less_than_the_marginals_ask_for() -> None:
    """As published: sigma is softmax(-confidence) over the decided positions times the largest, and 0 at masks, whose
    probability of being decided is then too small. Where positions are independent, a token's confidence at its commit
    is that of the table, so that the chain can be enumerated."""
    model = EnumerableModel(4, scale=3.0, independent=True)

    def returns(largest: float) -> Returns:
        def sigma(canvas: Canvas) -> list[float]:
            weights = [0.0 if token == MASK else math.exp(-model.conditional(canvas, i)[token])
                       for i, token in enumerate(canvas)]
            return [largest * weight / (sum(weights) or 1) for weight in weights]
        return sigma

    counts = sample(model, Free(Linear(3)), Remdm(ByConfidence()))
    laws = chain(model, [(1 / 3, returns(1)), (1 / 2, returns(1)), (1, returns(0))])
    assert all(fits(observed, law) for observed, law in zip(counts, laws, strict=True))
    num_masks = sum(canvas.count(MASK) * count for canvas, count in counts[1].items())
    assert num_masks / NUM_ROWS > 1.5 * LENGTH / 3, "a third of the positions should be masked at time 1/3"
