"""Norms, RoPE and the write to the cache in one program, against the model's own path and float64."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quicksilver.kernels.dispatch import Implementation, using
from quicksilver.kernels.rotate_and_store import reference, rotate_and_store
from quicksilver.models.attention import Causal
from quicksilver.models.kv_store import KVStore
from quicksilver.models.transformer import Shape, Transformer, TransformerConfig
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from .comparison import DTYPES, POINTWISE, rel_rms, run, strided_variants, widened

EPS = 1e-5


def _case(num_rows: int, num_fed: int, num_heads: int, num_kv_heads: int, width: int, rotated: int, *,
          norm: bool = True, dtype: torch.dtype = torch.float32, num_slots: int = 0) -> list[Any]:
    """Arguments in which some slots are negative and the others distinct, in a store with room to spare."""
    num_tokens, length = num_rows * num_fed, num_fed + 4
    num_slots = num_slots or num_tokens + 3
    qkv_BFHD = torch.randn(num_rows, num_fed, num_heads + 2 * num_kv_heads, width).to(dtype)
    positions_BF = torch.randint(0, length, (num_rows, num_fed))
    cos_LR, sin_LR = torch.randn(2, length, rotated)
    weights = torch.rand(2, width).to(dtype) + 0.5 if norm else (None, None)
    keys_SKD, values_SKD = torch.randn(2, num_slots, num_kv_heads, width).to(dtype)
    slot_T = torch.randperm(num_slots)[:num_tokens]
    slot_T = slot_T.masked_fill(torch.rand(num_tokens) < 0.3, -1)
    return [qkv_BFHD, positions_BF, cos_LR, sin_LR, *weights, EPS, num_heads, keys_SKD, values_SKD, slot_T]


def _check(case: list[Any]) -> tuple[Tensor, Tensor, Tensor]:
    """Triton gives the reference's queries, keys and values in float64, and leaves other slots as they were."""
    dtype, slot_T = case[0].dtype, case[10]
    (found,), left = run(rotate_and_store, *case)
    wide = widened(case)
    wide[8:10] = [store.clone() for store in wide[8:10]]
    expected = reference(*wide)
    kept_S = torch.ones(len(case[8]), dtype=torch.bool)
    kept_S[slot_T[slot_T >= 0]] = False
    for one, other in ((found, expected), (left[8], wide[8]), (left[9], wide[9])):
        assert one.shape == other.shape
        assert not one.isnan().any()
        assert rel_rms(one, other) <= POINTWISE[dtype]
    for index in (8, 9):
        assert torch.equal(left[index].cpu()[kept_S], case[index][kept_S])
    assert torch.equal(left[9].cpu(), wide[9].to(dtype)), "values are only copied"
    return found, left[8], left[9]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("heads", "kv_heads", "width", "rotated", "norm"), [
    (4, 4, 32, 32, False), (4, 2, 32, 16, True), (3, 1, 24, 10, True), (1, 1, 1, 0, True), (5, 5, 7, 0, False),
    (2, 1, 2, 2, True), (17, 3, 64, 32, True), (64, 2, 80, 20, True)])
def test_it_equals_the_reference(heads: int, kv_heads: int, width: int, rotated: int, norm: bool,
                                 dtype: torch.dtype) -> None:
    _check(_case(2, 2, heads, kv_heads, width, rotated, norm=norm, dtype=dtype))


@pytest.mark.parametrize(("num_rows", "num_fed"), [(0, 3), (2, 0), (1, 1)])
def test_it_takes_any_number_of_tokens(num_rows: int, num_fed: int) -> None:
    _check(_case(num_rows, num_fed, 2, 1, 16, 8))


@pytest.mark.parametrize("layout", ["transposed", "sliced", "offset"])
def test_it_reads_and_writes_any_layout(layout: str) -> None:
    case = _case(2, 3, 3, 2, 16, 8)
    for index in (0, 2, 3, 4, 5, 8, 9):
        case[index] = strided_variants(case[index])[layout]
    case[1] = case[1].t().contiguous().t()
    _check(case)


def test_rows_may_share_their_positions() -> None:
    case = _case(3, 4, 2, 1, 8, 8)
    case[1] = case[1][:1]
    shared = _check(case)
    case[1] = case[1].expand(3, -1)
    assert all(torch.equal(one, other) for one, other in zip(shared, _check(case), strict=True))


@pytest.mark.parametrize("slots", [[-1, -1, -1], [-1, 0, -1], [0, -1, -1], [2, -1, 0], [-1, -1, 2], [1, 2, 0]])
def test_what_has_no_slot_is_not_stored(slots: list[int]) -> None:
    case = _case(1, 3, 2, 1, 8, 8, num_slots=3)
    case[10] = torch.tensor(slots)
    _check(case)


@pytest.mark.parametrize(("rope_fraction", "qk_norm"), [(1.0, False), (0.5, True), (0.0, True)])
def test_it_turns_pairs_of_dimensions_by_the_models_angles(rope_fraction: float, qk_norm: bool) -> None:
    shape = Shape(width=64, num_heads=4, num_kv_heads=2, num_layers=1, rope_fraction=rope_fraction, qk_norm=qk_norm)
    model = Transformer(TransformerConfig(5, 20, Causal(), shape))
    q_weight_D, k_weight_D = torch.rand(2, 16) + 0.5
    weights = (q_weight_D, k_weight_D) if qk_norm else (None, None)
    qkv_BFHD, positions_BF = torch.randn(2, 3, 8, 16), torch.randint(0, 20, (2, 3))
    store = KVStore.empty(num_layers=1, num_rows=2, length=5, num_kv_heads=2, head_width=16, like=torch.zeros(()))
    write = store.write(torch.tensor([[4, 0, 2]] * 2), 6)
    keys_SKD, values_SKD = (stored_NBLKD[0].flatten(0, 1) for stored_NBLKD in (store.keys_NBLKD, store.values_NBLKD))
    arguments = (qkv_BFHD, positions_BF, model.cos_LD, model.sin_LD, *weights, shape.norm_eps, 4, keys_SKD, values_SKD,
                 write.flat_slots_T)
    (q_BFHD,), left = run(rotate_and_store, *arguments)

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
    for found, wanted in ((q_BFHD, expected_BFHD[:, :, :4]), (left[8][rows], expected_BFHD[:, :, 4:].flatten(0, 1)),
                          (left[9][rows], qkv_BFHD[:, :, 6:].double().flatten(0, 1))):
        torch.testing.assert_close(found.cpu().double(), wanted, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("implementation", list(Implementation))
def test_no_value_is_read_on_the_host(implementation: Implementation) -> None:
    with FakeTensorMode() as mode, using(implementation):
        case: list[Any] = [mode.from_tensor(value) if isinstance(value, Tensor) else value
                           for value in _case(2, 3, 4, 2, 16, 8)]
        assert rotate_and_store(*case).shape == (2, 3, 4, 16)


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 40),
       st.integers(0, 20), st.booleans(), st.sampled_from(DTYPES), st.integers(0, 2**31))
def test_any_shape(num_rows: int, num_fed: int, kv_heads: int, group: int, width: int, half: int, norm: bool,
                   dtype: torch.dtype, seed: int) -> None:
    torch.manual_seed(seed)
    rotated = 2 * min(half, width // 2)
    _check(_case(num_rows, num_fed, group * kv_heads, kv_heads, width, rotated, norm=norm, dtype=dtype))
