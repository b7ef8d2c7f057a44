"""How steps are captured: what a recorder takes, gives back, and does where it cannot."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from quicksilver.decoders import CapturedSteps, Step, generate, presets
from quicksilver.decoders.capture.operators import replay_of
from quicksilver.decoders.capture.recorders import CUDAGraphs, Operators, Recorded, Recorder, recorder_for
from quicksilver.decoders.capture.tape import Tape
from quicksilver.models import Bidirectional
from torch import Tensor

from tests.conftest import ragged_requests, random_model


class Found(Recorder):
    """Captures as `Operators` do, and keeps what the tape found."""

    def __init__(self) -> None:
        self.found: list[Tensor] = []

    def record(self, take: Callable[[], Step]) -> Recorded:
        with Tape() as tape:
            step = take()
        self.found += tape.found
        entries, step = tape.finish(step)
        return Recorded(step, set(), replay_of(entries))


@pytest.mark.parametrize("name", ["threshold", "fast_dllm_dual", "dkv_cache", "klass", "dinfer_credit", "p2"])
def test_a_captured_step_takes_nothing_but_memory_in_place_and_weights(name: str) -> None:
    """Whatever else it took would be that of one decode, freed after it."""
    block = {"block": 4} if "block" in presets.knobs(name) else {}
    model, decoder, recorder = random_model(Bidirectional()), presets.PRESETS[name](**block), Found()
    runner = CapturedSteps(decoder, recorder=recorder)
    for _ in range(3):
        generate(model, decoder, ragged_requests(3, seed=1, block=4), runner=runner)
    weights = *model.transformer.parameters(), *model.transformer.buffers()
    in_place = [*weights, *(tensor for frame in runner._frames for tensor in frame.tensors)]
    known = {tensor.untyped_storage().data_ptr() for tensor in in_place}
    assert recorder.found
    assert not [tensor for tensor in recorder.found
                if tensor.numel() > 1 and tensor.untyped_storage().data_ptr() not in known]


def test_the_device_decides_how() -> None:
    assert isinstance(recorder_for(torch.device("cpu")), Operators)
    assert isinstance(recorder_for(torch.device("cuda")), CUDAGraphs)


def test_a_graph_that_cannot_be_captured_is_a_step_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    recorder, step = CUDAGraphs(torch.device("cpu")), object()
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(recorder, "_captured", refuse)
    recorded = recorder.record(lambda: step)  # pyright: ignore[reportArgumentType]
    assert (recorded.step, recorded.replay) == (step, None)
    assert recorded.reason == "RuntimeError: operation not permitted when stream is capturing"
