"""Norms, RoPE and the write to the cache in one program, against the model's own path and float64."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quicksilver.kernels.case import with_tensors
from quicksilver.kernels.dispatch import Implementation, using
from quicksilver.kernels.rotate_and_store import KVSlots, QKNorm, Rope, reference, rotate_and_store
from quicksilver.models.attention import Causal
from quicksilver.models.kv_store import KVStore, store_of_heads
from quicksilver.models.transformer import Shape, Transformer, TransformerConfig
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from .comparison import DTYPES, POINTWISE, put, rel_rms, run, widened

EPS = 1e-5


def _case(num_rows: int, num_fed: int, num_heads: int, num_kv_heads: int, width: int, rotated: int, *,
          norm: bool = True, stored: bool = True, dtype: torch.dtype = torch.float32) -> list[Any]:
    """Arguments with distinct slots in a store that has room to spare, or without slots."""
    num_tokens, length = num_rows * num_fed, num_fed + 4
    qkv_BFHD = torch.randn(num_rows, num_fed, num_heads + 2 * num_kv_heads, width).to(dtype)
    cos_LR, sin_LR = torch.randn(2, length, rotated)
    rope = Rope(torch.randint(0, length, (num_rows, num_fed)), cos_LR, sin_LR)
    q_weight_D, k_weight_D = torch.rand(2, width).to(dtype) + 0.5
    keys_SKD, values_SKD = torch.randn(2, num_tokens + 3, num_kv_heads, width).to(dtype)
    return [qkv_BFHD, num_heads, rope, QKNorm(q_weight_D, k_weight_D, EPS) if norm else None,
            KVSlots(keys_SKD, values_SKD, torch.randperm(num_tokens + 3)[:num_tokens]) if stored else None]


def _check(case: list[Any]) -> list[Tensor]:
    """Triton gives the reference's queries, keys and values in float64, and leaves other slots as they were."""
    (dtype, slots), wide = (case[0].dtype, case[4]), widened(case)
    found, left = run(rotate_and_store, *case)
    expected = reference(*with_tensors(wide, Tensor.clone))
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert not one.isnan().any()
        assert rel_rms(one, other) <= POINTWISE[dtype]
    assert torch.equal(found[2], expected[2].to(dtype)), "values are only copied"
    if slots is not None:
        kept_S = torch.ones(len(slots.keys_SKD), dtype=torch.bool)
        kept_S[slots.slot_T] = False
        for one, before, returned in ((left[4].keys_SKD, slots.keys_SKD, found[1]),
                                      (left[4].values_SKD, slots.values_SKD, found[2])):
            assert torch.equal(one, returned), "written in place"
            assert torch.equal(one[kept_S], before[kept_S])
    return found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("heads", "kv_heads", "width", "rotated", "norm"), [
    (4, 4, 32, 32, False), (4, 2, 32, 16, True), (3, 1, 24, 10, True), (1, 1, 1, 0, True), (5, 5, 7, 0, False),
    (2, 1, 2, 2, True), (17, 3, 64, 32, True), (64, 2, 80, 20, True)])
def test_it_equals_the_reference(heads: int, kv_heads: int, width: int, rotated: int, norm: bool,
                                 dtype: torch.dtype) -> None:
    for num_rows, stored in ((2, True), (1, False)):
        _check(_case(num_rows, 2, heads, kv_heads, width, rotated, norm=norm, stored=stored, dtype=dtype))


@pytest.mark.parametrize(("num_rows", "num_fed"), [(0, 3), (2, 0), (1, 1)])
def test_it_takes_any_number_of_tokens(num_rows: int, num_fed: int) -> None:
    _check(_case(num_rows, num_fed, 2, 1, 16, 8))


def test_rows_may_share_their_positions() -> None:
    case = _case(3, 2, 2, 1, 8, 8)
    case[2] = replace(case[2], positions_BF=case[2].positions_BF[:1])
    shared = _check(case)
    case[2] = replace(case[2], positions_BF=case[2].positions_BF.expand(3, -1))
    assert all(torch.equal(one, other) for one, other in zip(shared, _check(case), strict=True))


@pytest.mark.parametrize("implementation", list(Implementation))
def test_what_must_not_be_kept_may_go_to_one_spare_slot(implementation: Implementation) -> None:
    case = _case(1, 4, 2, 1, 8, 8)
    spare = len(case[4].keys_SKD) - 1
    case[4] = replace(case[4], slot_T=torch.tensor([2, spare, 0, spare]))
    with using(implementation):
        found = rotate_and_store(*put(implementation, *with_tensors(case, Tensor.clone)))
    expected = reference(*with_tensors(case, Tensor.clone))
    for one, other in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(one[:spare].cpu(), other[:spare], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("rope_fraction", "qk_norm"), [(1.0, False), (0.5, True), (0.0, True)])
def test_it_turns_pairs_of_dimensions_by_the_models_angles(rope_fraction: float, qk_norm: bool) -> None:
    shape = Shape(width=64, num_heads=4, num_kv_heads=2, num_layers=1, rope_fraction=rope_fraction, qk_norm=qk_norm)
    model = Transformer(TransformerConfig(5, 20, Causal(), shape))
    q_weight_D, k_weight_D = torch.rand(2, 16) + 0.5
    norm = QKNorm(q_weight_D, k_weight_D, shape.norm_eps) if qk_norm else None
    qkv_BFHD, positions_BF = torch.randn(2, 3, 8, 16), torch.randint(0, 20, (2, 3))
    store = KVStore.empty(num_layers=1, num_rows=2, length=5, num_kv_heads=2, head_width=16, like=torch.zeros(()))
    write = store.write(torch.tensor([[4, 0, 2]] * 2), 6)
    rope = Rope(positions_BF, model.cos_LD, model.sin_LD)
    (q_BFHD, keys_SKD, values_SKD), _ = run(rotate_and_store, qkv_BFHD, 4, rope, norm, write.slots(0))

    expected_BFHD = qkv_BFHD[:, :, :6].double()
    if qk_norm:
        expected_BFHD /= (expected_BFHD.square().mean(-1, keepdim=True) + shape.norm_eps).sqrt()
        expected_BFHD *= torch.stack([q_weight_D] * 4 + [k_weight_D] * 2)
    half = shape.rope_width // 2
    for pair in range(half):
        angle_BF = positions_BF.double() * shape.rope_theta ** (-pair / half)
        turn_BF1 = torch.polar(torch.ones_like(angle_BF), angle_BF)[..., None]
        turned_BFH = torch.complex(expected_BFHD[..., pair], expected_BFHD[..., pair + half]) * turn_BF1
        expected_BFHD[..., pair], expected_BFHD[..., pair + half] = turned_BFH.real, turned_BFH.imag
    rows = write.flat_slots_T.tolist()
    for found, wanted in ((q_BFHD, expected_BFHD[:, :, :4]), (keys_SKD[rows], expected_BFHD[:, :, 4:].flatten(0, 1)),
                          (values_SKD[rows], qkv_BFHD[:, :, 6:].double().flatten(0, 1))):
        torch.testing.assert_close(found.cpu().double(), wanted, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("implementation", list(Implementation))
def test_no_value_is_read_on_the_host(implementation: Implementation) -> None:
    with FakeTensorMode() as mode, using(implementation):
        q_BFHD, *_ = rotate_and_store(*with_tensors(_case(2, 3, 4, 2, 16, 8), mode.from_tensor))
        assert q_BFHD.shape == (2, 3, 4, 16)


@settings(max_examples=5, deadline=None)
@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 40),
       st.integers(0, 20), st.booleans(), st.sampled_from(DTYPES), st.integers(0, 2**31))
def test_any_shape(num_rows: int, num_fed: int, kv_heads: int, group: int, width: int, half: int, norm: bool,
                   dtype: torch.dtype, seed: int) -> None:
    torch.manual_seed(seed)
    rotated = 2 * min(half, width // 2)
    _check(_case(num_rows, num_fed, group * kv_heads, kv_heads, width, rotated, norm=norm, dtype=dtype))


def test_a_store_of_layers_with_two_kinds_of_heads_keeps_each_by_itself() -> None:
    store = store_of_heads([(4, 2), (1, 6), (4, 2), (1, 6)], num_rows=2, length=5, like=torch.zeros(()))
    assert store.num_bytes == 2 * 4 * 2 * 2 * 6 * (4 * 2 + 1 * 6)
    write = store.write(torch.tensor([[3, 0]] * 2), 4)
    put = [torch.randn(2, 2, 2, *heads) for heads in ((4, 2), (1, 6), (4, 2), (1, 6))]
    for layer, (k_BFKD, v_BFKD) in enumerate(put):
        write.put(layer, k_BFKD, v_BFKD)
    kept = store.rows(torch.tensor([1])).write(torch.tensor([[4]]), 4)
    for layer, stored in enumerate(put):
        for found, wanted in zip(kept.context_of(layer), stored, strict=True):
            assert torch.equal(found[:, [3, 0]], wanted[1:])
    one_kind = store_of_heads([(4, 2)] * 3, num_rows=2, length=5, like=torch.zeros(()))
    assert type(one_kind) is KVStore
    assert one_kind.keys_NBLKD.shape == (3, 2, 6, 4, 2)
