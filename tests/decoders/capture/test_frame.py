"""Memory that stays in place."""

import torch
from quicksilver.decoders import Request, presets
from quicksilver.decoders.capture.frame import Frame
from quicksilver.kernels.case import tensors_of
from quicksilver.models import Bidirectional, Causal

from tests.conftest import MASK_ID, ragged_requests, random_model

DECODER, MODEL = presets.autoregressive(), random_model(Causal())
REQUESTS = [Request.completing([1, 2, row], 4, mask_id=MASK_ID, seed=row) for row in range(2)]


@torch.inference_mode()
def test_a_windows_state_is_copied_to_where_the_last_one_of_its_shapes_was() -> None:
    run = DECODER.begin(MODEL, REQUESTS)
    frame = Frame(run, 0)
    second, third = (frame.block(DECODER.begin_block(run, number)) for number in (1, 2))
    addresses = [[tensor.data_ptr() for tensor in tensors_of(block)] for block in (second, third)]
    assert addresses[0] == addresses[1]
    expected = DECODER.begin_block(run, 2)
    assert all(torch.equal(*pair) for pair in zip(tensors_of(third), tensors_of(expected), strict=True))
    assert third.window.query_BQ.tolist() == [[5], [5]]
    assert (third.window.index, third.window.begin, third.max_masked_after) == (2, 5, 1)
    assert third.bounds == expected.bounds


@torch.inference_mode()
def test_shapes_and_what_is_missing_tell_windows_apart_and_values_do_not() -> None:
    run = DECODER.begin(MODEL, REQUESTS)
    frame, seen = Frame(run, 0), []
    for number in range(3):
        frame.block(DECODER.begin_block(run, number))
        seen.append(frame.window)
    assert seen[1] is seen[2] is not seen[0]  # the prompt is before the first
    ragged = DECODER.begin(MODEL, ragged_requests(2, seed=1))
    frame.block(DECODER.begin_block(ragged, 1))
    assert frame.window not in seen


@torch.inference_mode()
def test_memory_of_the_policy_the_sampler_and_the_last_step_is_copied() -> None:
    model = random_model(Bidirectional())
    for decoder in (presets.klass(block=4), presets.dinfer_credit(block=4)):
        run = decoder.begin(model, [Request.completing([1], 8, mask_id=MASK_ID)])
        frame = Frame(run, 0)
        state = decoder.begin_block(run, 0)
        placed = frame.block(state)
        assert not {t.data_ptr() for t in tensors_of(placed)} & {t.data_ptr() for t in tensors_of(state)}
        assert len(list(tensors_of(placed))) == len(list(tensors_of(state)))


@torch.inference_mode()
def test_a_run_has_the_frame_until_it_is_taken_back_and_keeps_its_canvas() -> None:
    run, other = DECODER.begin(MODEL, REQUESTS), DECODER.begin(MODEL, REQUESTS)
    frame = Frame(run, 0)
    frame.lend(run, 0)
    assert run.active is frame.canvas
    assert run.store is frame.store
    run.active.tokens_BS[0, 4] = 9
    assert run.store is not None
    run.store.keys_NBLKD.fill_(7)
    frame.take_back()
    assert frame.decode is None
    assert run.store is not frame.store
    frame.lend(other, 0)
    assert frame.store is not None
    assert not frame.store.keys_NBLKD.any()
    assert frame.canvas.tokens_BS[0, 4] == MASK_ID
    assert run.active.tokens_BS[0, 4] == 9


@torch.inference_mode()
def test_what_was_captured_with_other_weights_is_dropped_and_old_windows_make_room() -> None:
    run = DECODER.begin(MODEL, REQUESTS)
    frame = Frame(run, "before")
    frame.lend(run, "before")
    frame.block(DECODER.begin_block(run, 1))
    assert frame.window is not None
    first = frame.window
    first.captured["layout"] = None
    frame.lend(run, "before")
    assert first.captured
    frame.lend(run, "after")
    assert not first.captured
    for length in range(1, 18):
        longer = DECODER.begin(MODEL, [Request.completing(length * [1], 4, mask_id=MASK_ID)])
        frame.block(DECODER.begin_block(longer, 0))
    frame.block(DECODER.begin_block(run, 1))
    assert frame.window is not first
