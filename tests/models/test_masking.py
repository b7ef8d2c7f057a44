"""What is masked, how often, and with what weight."""

from collections import Counter

import pytest
import torch
from quicksilver.models import ExactCount, Independent, Masking
from quicksilver.models.masking import masked_by_count

MASKINGS = [ExactCount(), Independent()]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("masking", MASKINGS, ids=str)
def test_a_target_weighs_one_on_average_and_nothing_else_is_masked(masking: Masking) -> None:
    target = (torch.arange(6) % 3 > 0).expand(40_000, -1)
    masked, weight = masking.draw(target, generator())
    assert not masked[~target].any()
    share = (masked * weight).mean(0)
    torch.testing.assert_close(share, target[0].float(), atol=0.05, rtol=0)


@pytest.mark.parametrize("masking", MASKINGS, ids=str)
def test_every_number_of_masks_is_as_likely(masking: Masking) -> None:
    """That of a group without any counts as well where each target is masked by itself."""
    masked, _ = masking.draw(torch.ones(40_000, 4, dtype=torch.bool), generator())
    counts = Counter(masked.sum(1).tolist())
    expected = 40_000 / (4 if masking == ExactCount() else 5)
    assert set(counts) == set(range(1 if masking == ExactCount() else 0, 5))
    assert all(abs(count - expected) < 0.03 * expected for count in counts.values())


def test_every_set_of_so_many_is_as_likely() -> None:
    masked, weight = masked_by_count(torch.ones(30_000, 4, dtype=torch.bool), torch.full((30_000,), 0.3), generator())
    sets = Counter(map(tuple, masked.tolist()))
    assert weight.unique().tolist() == [2]
    assert len(sets) == 6
    assert all(abs(count - 5000) < 300 for count in sets.values())


def test_counts_cover_the_groups_evenly() -> None:
    """As many groups with each number of masks as with any other, in no particular order."""
    masked, _ = ExactCount().draw(torch.ones(48, 6, dtype=torch.bool), generator())
    counts = masked.sum(1)
    assert Counter(counts.tolist()) == dict.fromkeys(range(1, 7), 8)
    assert 1 < counts.diff().ne(0).sum() / 6 < 48 / 6


def test_an_exact_count_varies_less() -> None:
    target = torch.ones(20_000, 5, dtype=torch.bool)
    spread = {masking: (masked * weight).sum(1).var().item()
              for masking in MASKINGS for masked, weight in [masking.draw(target, generator())]}
    assert spread[ExactCount()] < 1e-6 < 1 < spread[Independent()]


def test_groups_of_different_sizes_and_empty_ones() -> None:
    target = torch.tensor([[True] * 4, [False] * 4, [True, False, False, False]])
    masked, weight = masked_by_count(target, torch.tensor([0.99, 0.99, 0.0]), generator())
    assert masked.tolist() == target.tolist()
    assert weight.tolist() == [[1], [0], [1]]


def test_the_largest_share_below_one_masks_all_with_weight_one() -> None:
    largest = torch.tensor([1.0]).nextafter(torch.tensor([0.0]))
    for num in range(1, 200):
        masked, weight = masked_by_count(torch.ones(1, num, dtype=torch.bool), largest, generator())
        assert masked.all()
        assert weight.item() == 1
