"""The joint-error meter against naive loops, and on a model whose joint distribution is a table."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from quicksilver.decoders import (
    Blocks,
    Canvas,
    Decoder,
    Dual,
    Greedy,
    Linear,
    Recompute,
    Request,
    TopProbability,
    Unbounded,
    Whole,
)
from quicksilver.decoders.policies import TokenEditing
from quicksilver.decoders.windows import WindowGrid
from quicksilver.experiments.joint_error.measure import commit_error, joint_errors
from quicksilver.kernels.token_statistics import StatisticsRequest, TokenStatistics, token_statistics
from quicksilver.models import Bidirectional, KVStore, ModelSpec, Plan
from torch import Tensor

from tests.conftest import MASK_ID, TableModel, ragged_requests, random_model


@dataclass(frozen=True)
class JointTable:
    """A LanguageModel that knows the joint distribution of its positions, `table` [v, ..., v]: a position's
    distribution is the table's conditional given what is not masked. The mask id follows the v tokens."""

    table: np.ndarray

    @property
    def mask_id(self) -> int:
        return self.table.shape[0]

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec(self.mask_id, 0, self.mask_id + 1, self.table.ndim, Bidirectional(), torch.device("cpu"),
                         materializes_logits=True)

    def new_store(self, num_rows: int, length: int) -> KVStore:
        raise AssertionError("nothing is stored")

    def conditional(self, tokens: Sequence[int], position: int) -> np.ndarray:
        known = tuple(slice(None) if token == self.mask_id or place == position else slice(token, token + 1)
                      for place, token in enumerate(tokens))
        rest = tuple(axis for axis in range(self.table.ndim) if axis != position)
        weight_V = self.table[known].sum(axis=rest)
        return weight_V / weight_V.sum()

    def hidden(self, tokens_BS: Tensor, plan: Plan, store: KVStore | None) -> Tensor:
        rows = [[np.append(np.log(self.conditional(tokens[:-1], position)), 0.0) for position in positions]
                for tokens, positions in zip(tokens_BS.tolist(), plan.query_BQ.tolist(), strict=True)]
        return torch.tensor(np.array(rows)).float()

    def statistics(self, hidden_BQE: Tensor, request: StatisticsRequest) -> TokenStatistics:
        logits_BQV = hidden_BQE.clone()
        logits_BQV[..., self.mask_id] = -torch.inf
        return token_statistics(logits_BQV, request)

    def forward_cost(self, num_fed: int, num_keys_seen: int, num_queried: int, num_stored_read: int) -> tuple[int, int]:
        return 0, 0


def random_table(num_positions: int, num_tokens: int, seed: int, sharpness: float = 2.0) -> JointTable:
    weights = np.exp(sharpness * np.random.default_rng(seed).normal(size=(num_tokens,) * num_positions))
    return JointTable(weights / weights.sum())


def every_outcome(model: JointTable, rows_per_forward: int = 4096) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bound, product and joint of each outcome of the table, if all its positions were committed at once."""
    outcomes = list(itertools.product(*(range(size) for size in model.table.shape)))
    canvas = Canvas.of([Request([model.mask_id] * model.table.ndim)] * len(outcomes), model)
    grid = WindowGrid.of([Whole().span(0, model.table.ndim)] * len(outcomes), canvas.stop_B, canvas.length, 0)
    window = grid.window(0)
    found = commit_error(model, canvas, window, torch.ones_like(window.query_BQ, dtype=torch.bool),
                         torch.tensor(outcomes), rows_per_forward)
    bound, product, joint = found.double().numpy()
    return bound, product, joint


def entropy(p: np.ndarray) -> float:
    return float(-(p * np.log(p)).sum())


def marginals(model: JointTable) -> list[np.ndarray]:
    return [model.conditional([model.mask_id] * model.table.ndim, position) for position in range(model.table.ndim)]


@pytest.mark.parametrize("seed", range(3))
def test_on_a_table_the_joint_is_the_table_whatever_the_order(seed: int) -> None:
    model = random_table(3, 4, seed)
    bound, product, joint = every_outcome(model)
    np.testing.assert_allclose(joint, np.log(model.table).ravel(), atol=1e-5)
    p, q, r = marginals(model)
    np.testing.assert_allclose(product, np.log(np.einsum("a,b,c->abc", p, q, r)).ravel(), atol=1e-5)
    entropies = [entropy(p) for p in marginals(model)]
    np.testing.assert_allclose(bound, sum(entropies) - max(entropies), rtol=1e-5)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sharpness", [0.3, 2.0, 5.0])
def test_the_bound_bounds_the_divergence_of_the_joint_from_the_product(seed: int, sharpness: float) -> None:
    """That is the mean of -gap over the joint. Over the product the mean gap is the other divergence, which may be far
    above the bound; and minus one outcome's gap is at most the sum of its surprisals minus the largest."""
    model = random_table(3, 3, seed, sharpness)
    bound, product, joint = every_outcome(model)
    gap = product - joint
    total_correlation = sum(entropy(p) for p in marginals(model)) - entropy(model.table)
    assert (np.exp(joint) * -gap).sum() == pytest.approx(total_correlation, abs=1e-5)
    assert total_correlation <= bound[0] + 1e-5
    assert (np.exp(product) * gap).sum() >= -1e-5
    surprisal = np.stack([-np.log(p) for p in marginals(model)])
    for number, outcome in enumerate(np.ndindex(*model.table.shape)):
        own = [surprisal[position, token] for position, token in enumerate(outcome)]
        assert -gap[number] <= sum(own) - max(own) + 1e-5


def test_the_gap_of_one_outcome_may_be_far_above_the_bound() -> None:
    """Two tokens that are nearly certain to be 0 and nearly never both 1: the bound is small, the gap of (1, 1) not."""
    table = np.array([[0.98, 0.01], [0.01, 1e-9]])
    bound, product, joint = every_outcome(JointTable(table / table.sum()))
    assert bound[0] < 0.06
    assert (product - joint)[-1] == pytest.approx(math.log(0.01**2 / 1e-9), abs=0.01)
    np.testing.assert_allclose((product - joint)[:-1], 0, atol=0.02)


def test_the_bound_is_reached_by_tokens_that_determine_one_another() -> None:
    bound, product, joint = every_outcome(JointTable(np.array([[0.5, 1e-12], [1e-12, 0.5]])))
    assert bound[0] == pytest.approx(math.log(2), abs=1e-5)
    assert (joint - product)[[0, 3]] == pytest.approx(math.log(2), abs=1e-5)


def test_independent_tokens_have_no_gap() -> None:
    rng = np.random.default_rng(0)
    p = [rng.dirichlet(np.ones(3)) for _ in range(4)]
    bound, product, joint = every_outcome(JointTable(np.einsum("a,b,c,d->abcd", *p)))
    np.testing.assert_allclose(product, joint, atol=1e-5)
    assert bound[0] > 0.5


def test_rows_may_share_forwards_as_they_like() -> None:
    model = random_table(4, 2, 0)
    for together, apart in zip(every_outcome(model), every_outcome(model, rows_per_forward=3), strict=True):
        np.testing.assert_array_equal(together, apart)


@pytest.mark.parametrize("num_requests", [1, 3])
def test_a_decode_is_measured_as_a_naive_loop_measures_it(num_requests: int) -> None:
    """Requests of different lengths, two steps a window of four: canvases before and after a step in plain lists."""
    model, requests = TableModel(Bidirectional()), ragged_requests(num_requests, seed=5, block=4)
    decoder = Decoder(Blocks(4), Linear(2), Greedy(), TopProbability(), Recompute())
    measured = joint_errors(decoder, model, requests)
    assert measured.completions == decoder.decode(model, requests)

    def log_probs(tokens: list[int], position: int) -> np.ndarray:
        length = max(len(request.tokens) for request in requests)
        logits_V = model._logits(tuple(tokens + [0] * (length - len(tokens))), position, length)[:MASK_ID]
        return logits_V - np.log(np.exp(logits_V).sum())

    for request, tokens in enumerate(list(item.tokens) for item in requests):
        final = measured.completions[request].tokens
        for commit in (commit for commit in measured.commits if commit.request == request):
            begin = requests[request].start + 4 * commit.window
            masked = [place for place in range(begin, begin + 4) if tokens[place] == MASK_ID]
            alone = {place: log_probs(tokens, place) for place in masked}
            order = sorted(masked, key=lambda place: -alone[place].max())[: commit.num_tokens]
            assert commit.num_tokens == -(-len(masked) // (2 - commit.step))
            entropies = [entropy(np.exp(alone[place])) for place in order]
            assert commit.bound == pytest.approx(sum(entropies) - max(entropies), abs=1e-4)
            assert commit.product == pytest.approx(sum(alone[place].max() for place in order), abs=1e-4)
            joint = 0.0
            for place in order:
                joint += log_probs(tokens, place)[final[place]]
                tokens[place] = final[place]
            assert commit.joint == pytest.approx(joint, abs=1e-4)
            assert commit.gap == commit.product - commit.joint
        assert tokens == final


def test_tokens_one_at_a_time_lose_nothing() -> None:
    requests = ragged_requests(2, block=4)
    decoder = Decoder(Blocks(4), Linear(4), Greedy(), TopProbability(), Dual())
    measured = joint_errors(decoder, random_model(Bidirectional()), requests)
    assert {commit.num_tokens for commit in measured.commits} == {1}
    assert {(commit.bound, commit.gap) for commit in measured.commits} == {(0.0, 0.0)}


def test_only_commits_to_masked_positions_are_measured() -> None:
    """Editing overwrites decided tokens, which is no commit of a masked one."""
    requests = ragged_requests(3, seed=2, block=4)
    decoder = Decoder(Blocks(4), Unbounded(), Greedy(), TokenEditing(0.2, 0.2), Recompute())
    model = random_model(Bidirectional(), seed=1)
    num_commits = sum(int(step.edit.commit_BQ.sum()) for step in decoder.stream(decoder.begin(model, requests)))
    num_masked = sum(list(request.tokens).count(MASK_ID) for request in requests)
    assert num_commits > num_masked  # something was edited
    assert sum(commit.num_tokens for commit in joint_errors(decoder, model, requests).commits) == num_masked


def test_rows_per_forward_must_be_a_positive_integer() -> None:
    decoder = Decoder(Whole(), Linear(2), Greedy(), TopProbability(), Recompute())
    with pytest.raises(ValueError, match="rows_per_forward=0: must be an integer of at least 1"):
        joint_errors(decoder, random_model(Bidirectional()), [Request([MASK_ID] * 4)], rows_per_forward=0)
