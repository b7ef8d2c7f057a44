"""What intervals and lists of tiles say of keys, as a mask, and what does not fit its tensors."""

import pytest
import torch
from quicksilver.kernels.key_ranges import KEY_TILE, KeyRanges, mask_of_heads


def test_without_bounds_there_is_no_mask() -> None:
    assert KeyRanges(5).visible_BKFC is None
    assert mask_of_heads(KeyRanges(5), 4) is None


def test_an_interval_is_a_mask_of_the_keys_from_first_to_before_stop() -> None:
    ranges = KeyRanges(5, torch.tensor([[0, 1, 4]]), torch.tensor([[2, 3, 9], [1, 1, 5]]))
    assert ranges.visible_BKFC is not None
    assert ranges.visible_BKFC[:, 0].int().tolist() == [
        [[1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 1]], [[1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]]]


def test_a_list_names_the_tiles_of_each_key_value_head() -> None:
    num_keys = 2 * KEY_TILE + 3
    tiles_BKN = torch.tensor([[[2, 0], [1, 2]]], dtype=torch.int32)
    ranges = KeyRanges(num_keys, None, torch.tensor([[1, num_keys]]), tiles_BKN, torch.tensor([[2, 1]]))
    mask_BHFC = mask_of_heads(ranges, 4)
    assert mask_BHFC is not None
    assert mask_BHFC.shape == (1, 4, 2, num_keys)
    tiles = [{key // KEY_TILE for key in head.nonzero().flatten().tolist()} for head in mask_BHFC[0, :, 1]]
    assert tiles == [{0, 2}, {0, 2}, {1}, {1}]
    assert mask_BHFC[0, :, 0].sum(-1).tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(("ranges", "message"), [
    (KeyRanges(4), "num_keys=4 with 5 keys"), (KeyRanges(5, torch.zeros(3, 3)), "first_BF"),
    (KeyRanges(5, None, torch.zeros(1, 4)), "stop_BF"),
    (KeyRanges(5, tiles_BKN=torch.zeros(2, 2, 1)), "both or not at all"),
    (KeyRanges(5, tiles_BKN=torch.zeros(2, 1, 1), num_tiles_BK=torch.zeros(2, 2)), "tiles_BKN")])
def test_what_does_not_fit_the_tensors_is_refused(ranges: KeyRanges, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ranges.check(2, 3, 5, 2)
