"""Objectives against enumeration on tiny vocabularies."""

import itertools
import math

import pytest
import torch
from quicksilver.kernels.dispatch import Implementation, using
from quicksilver.models import (
    AutoregressiveNLL,
    Bidirectional,
    BlockDiffusion,
    Causal,
    ExactCount,
    Independent,
    MaskedDiffusion,
    Masking,
    Objective,
    Transformer,
    exact_k_nll,
)
from quicksilver.models.attention import AttentionMask, BD3LMMask
from torch import Tensor

from tests.conftest import MASK_ID, random_transformer

LENGTH = 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def log_probs(model: Transformer, tokens: Tensor) -> Tensor:
    return model.head(model.sequence_hidden(tokens)).log_softmax(-1)


def chain_nll(model: Transformer, sequence: tuple[int, ...], order: tuple[int, ...]) -> float:
    """-log p of a sequence revealed in `order`, one position at a time."""
    canvas, nll = torch.full((1, len(sequence)), MASK_ID), 0.0
    for position in order:
        nll -= log_probs(model, canvas)[0, position, sequence[position]].item()
        canvas[0, position] = sequence[position]
    return nll


@pytest.mark.parametrize("seed", range(3))
@torch.no_grad()
def test_exact_k_is_the_mean_over_orders_of_the_chain_rule(seed: int) -> None:
    model = random_transformer(Bidirectional(), seed)
    model.head.weight.data /= 3
    sequence = (1, 4, 2)
    orders = [chain_nll(model, sequence, order) for order in itertools.permutations(range(LENGTH))]
    same = torch.tensor([sequence]).expand(150, -1)
    mean_B, error_B = exact_k_nll(model, same, torch.ones_like(same, dtype=torch.bool), mask_id=MASK_ID, num_draws=20,
                                  generator=generator(seed))
    mean, error = mean_B.mean(), error_B.norm() / len(same)
    assert (error_B > 0).all()
    assert abs(mean.item() - sum(orders) / len(orders)) < 4 * error.item() + 1e-4
    # Jensen: never below -log of the mean over orders of the probability.
    mixture = -math.log(sum(math.exp(-nll) for nll in orders) / len(orders))
    assert mean.item() >= mixture - 4 * error.item()


@torch.no_grad()
def test_exact_k_takes_every_number_of_masks_equally_often() -> None:
    """With as many draws as targets, every number once."""
    model, counts = random_transformer(Bidirectional()), []
    model.embedding.register_forward_pre_hook(lambda _, inputs: counts.append((inputs[0] == MASK_ID).sum(1)))
    tokens, target = torch.randint(0, MASK_ID, (5, 8), generator=generator()), torch.arange(8).expand(5, -1) < 6
    exact_k_nll(model, tokens, target, mask_id=MASK_ID, num_draws=6, generator=generator())
    assert torch.stack(counts).sort(dim=0).values.T.tolist() == [[1, 2, 3, 4, 5, 6]] * 5


def test_averaged_over_the_data_exact_k_is_never_below_their_entropy_and_comes_near_it() -> None:
    """Data: sequences of three tokens out of two symbols with known probabilities, and a model fitted to them."""
    sequences = torch.tensor(list(itertools.product(range(2), repeat=LENGTH)))
    every = torch.ones_like(sequences, dtype=torch.bool)
    share = torch.softmax(torch.randn(len(sequences), generator=generator(1)), 0)
    model = random_transformer(Bidirectional(), 5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    for update in range(60):
        g = generator(update)
        batch = sequences[torch.multinomial(share, 64, replacement=True, generator=g)]
        loss = MaskedDiffusion().loss(model, batch, every[:1].expand_as(batch), mask_id=MASK_ID, generator=g)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        mean, error = exact_k_nll(model, sequences, every, mask_id=MASK_ID, num_draws=100, generator=generator(2))
    entropy, bound = -(share * share.log()).sum(), (share * mean).sum()
    assert entropy - 4 * (share * error).sum() <= bound <= 1.15 * entropy


@pytest.mark.parametrize("masking", [ExactCount(), Independent()], ids=str)
@torch.no_grad()
def test_the_masked_diffusion_loss_is_an_estimate_of_exact_k(masking: Masking) -> None:
    """Both are unbiased for the same bound; the loss is per target token."""
    model = random_transformer(Bidirectional(), 1)
    tokens = torch.tensor([[1, 4, 2]]).expand(4000, -1)
    targets = torch.ones_like(tokens, dtype=torch.bool)
    loss = MaskedDiffusion(masking).loss(model, tokens, targets, mask_id=MASK_ID, generator=generator())
    exact = sum(chain_nll(model, (1, 4, 2), order) for order in itertools.permutations(range(LENGTH))) / 6 / LENGTH
    assert abs(loss.item() - exact) < 0.05 * exact


@torch.no_grad()
def test_the_autoregressive_loss_is_the_chain_rule_left_to_right() -> None:
    model = random_transformer(Causal(), 2)
    tokens = torch.tensor([[3, 1, 4, 2]])
    target = torch.tensor([[True, False, True, True]])  # the first is not predicted, so it does not count
    expected = -(log_probs(model, tokens)[0, 1, 4] + log_probs(model, tokens)[0, 2, 2]) / 2
    loss = AutoregressiveNLL().loss(model, tokens, target, mask_id=MASK_ID, generator=generator())
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("masking", [ExactCount(), Independent()], ids=str)
@torch.no_grad()
def test_block_diffusion_with_one_block_is_masked_diffusion(masking: Masking) -> None:
    """One block sees no clean half, so both are the same function of the same masks."""
    objective = BlockDiffusion(6, masking)
    model = random_transformer(objective.attention, 3)
    tokens = torch.randint(0, MASK_ID, (3, 6), generator=generator())
    target = torch.ones_like(tokens, dtype=torch.bool)
    loss = objective.loss(model, tokens, target, mask_id=MASK_ID, generator=generator(7))
    masked, weight = masking.draw(target, generator(7))
    nll = -log_probs(model, tokens.masked_fill(masked, MASK_ID)).gather(-1, tokens[..., None])[..., 0]
    torch.testing.assert_close(loss, (nll * weight)[masked].sum() / 18)


@torch.no_grad()
def test_block_diffusion_masks_each_block_by_itself() -> None:
    objective, seen = BlockDiffusion(4, ExactCount()), []
    model = random_transformer(objective.attention)
    model.embedding.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0] == MASK_ID))
    tokens = torch.zeros(30, 8, dtype=torch.int64)
    objective.loss(model, tokens, torch.arange(8).expand(30, -1) < 6, mask_id=MASK_ID, generator=generator())
    first, second, clean = seen[0].split((4, 4, 8), dim=1)
    assert sorted(set(first.sum(1).tolist())) == [1, 2, 3, 4]
    assert sorted(set(second.sum(1).tolist())) == [1, 2]
    assert not clean.any()
    assert not (first.sum(1) == 4)[second.sum(1) == 1].all()


@torch.no_grad()
def test_block_diffusion_scores_each_block_given_clean_blocks_before() -> None:
    """The noisy half's states equal those of the block-causal model on a canvas with clean earlier blocks."""
    objective = BlockDiffusion(2)
    model = random_transformer(objective.attention, 4)
    clean = torch.randint(0, MASK_ID, (1, 6), generator=generator())
    noisy = clean.clone()
    noisy[0, [2, 3, 5]] = MASK_ID
    labels = torch.arange(12)[None]
    both = model.hidden(torch.cat((noisy, clean), 1), labels % 6, AttentionMask(BD3LMMask(2, 6), labels, labels))
    for block in range(3):
        canvas = clean.clone()
        canvas[0, 2 * block :] = noisy[0, 2 * block :]
        at = slice(2 * block, 2 * block + 2)
        torch.testing.assert_close(both[:, at], model.sequence_hidden(canvas)[:, at])


def test_a_block_that_does_not_divide_is_refused() -> None:
    objective = BlockDiffusion(4)
    with pytest.raises(ValueError, match="block=4: must divide the sequence length 6"):
        objective.loss(random_transformer(objective.attention), torch.zeros(1, 6, dtype=torch.int64),
                       torch.ones(1, 6, dtype=torch.bool), mask_id=MASK_ID, generator=generator())


@pytest.mark.parametrize("objective", [AutoregressiveNLL(), MaskedDiffusion(), BlockDiffusion(4)], ids=str)
def test_a_last_layer_that_runs_at_the_targets_alone_changes_no_gradient(
        objective: Objective, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_transformer(objective.attention)
    tokens = torch.randint(MASK_ID, (3, 8), generator=generator())
    target = torch.tensor([[0] * 4 + [1] * 4, [0] * 2 + [1] * 6, [1, 0] * 4], dtype=torch.bool)

    def gradients() -> list[Tensor]:
        model.zero_grad()
        objective.loss(model, tokens, target, mask_id=MASK_ID, generator=generator()).backward()
        return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]

    numbers_of_queries: list[int] = []
    hidden = model.hidden

    def everywhere(tokens_BF: Tensor, positions_BF: Tensor, mask: AttentionMask, *, index_BQ: Tensor,
                   window_mask: None = None) -> Tensor:
        numbers_of_queries.append(index_BQ.shape[1])
        return hidden(tokens_BF, positions_BF, mask).gather(1, index_BQ[..., None].expand(-1, -1, 32))

    few = gradients()
    monkeypatch.setattr(model, "hidden", everywhere)
    for one, other in zip(few, gradients(), strict=True):
        torch.testing.assert_close(one, other)
    assert numbers_of_queries[0] <= 6


@pytest.mark.parametrize("implementation", list(Implementation))
@pytest.mark.parametrize("objective", [AutoregressiveNLL(), MaskedDiffusion(), BlockDiffusion(2)], ids=str)
@pytest.mark.parametrize("shape", [(2, 6), (1, 2), (0, 6)], ids=str)
def test_a_batch_without_targets_has_no_loss_and_teaches_nothing(
        objective: Objective, shape: tuple[int, int], implementation: Implementation) -> None:
    model = random_transformer(objective.attention)
    tokens, target = torch.randint(0, MASK_ID, shape), torch.zeros(shape, dtype=torch.bool)
    with using(implementation):
        loss = objective.loss(model, tokens, target, mask_id=MASK_ID, generator=generator())
        loss.backward()
    assert loss.item() == 0
    assert all(weight.grad is None or not weight.grad.any() for weight in model.parameters())


def test_a_first_token_alone_has_nothing_before_it_to_be_predicted_by() -> None:
    tokens, target = torch.tensor([[3, 1, 4]]), torch.tensor([[True, False, False]])
    loss = AutoregressiveNLL().loss(random_transformer(Causal()), tokens, target, mask_id=MASK_ID,
                                    generator=generator())
    assert loss.item() == 0


@torch.no_grad()
def test_a_row_without_targets_has_a_likelihood_of_one() -> None:
    tokens, target = torch.randint(0, MASK_ID, (3, 4)), torch.tensor([[True] * 4, [False] * 4, [True] + [False] * 3])
    model = random_transformer(Bidirectional())
    mean, error = exact_k_nll(model, tokens, target, mask_id=MASK_ID, num_draws=4, generator=generator())
    assert [mean[1], error[1]] == [0, 0]
    assert (mean[[0, 2]] > 0).all()
    nothing, error = exact_k_nll(model, tokens, target & False, mask_id=MASK_ID, num_draws=2, generator=generator())
    assert nothing.tolist() == error.tolist() == [0, 0, 0]


def test_a_model_with_capped_logits_is_not_trained() -> None:
    tokens = torch.zeros(1, LENGTH, dtype=torch.int64)
    with pytest.raises(ValueError, match="logit_cap=30: must be none in training"):
        AutoregressiveNLL().loss(random_transformer(Causal(), logit_cap=30.0), tokens, tokens == 0, mask_id=MASK_ID,
                                 generator=generator())
