"""What a GPU would refuse is refused here: four planted mixes, and one decode of every preset that has none."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from quicksilver.decoders import CapturedSteps, Decoder, Request, Step, generate, presets
from quicksilver.decoders.capture.recorders import Recorded, Recorder
from quicksilver.experiments.study.setup import family_for
from quicksilver.kernels.dispatch import Implementation, recording
from quicksilver.kernels.moe_router import Routing
from quicksilver.kernels.rms_norm import rms_norm
from quicksilver.models import (
    AttentionPattern,
    Bidirectional,
    BlockCausal,
    Causal,
    DecodableTransformer,
    ExpertShape,
    FusedHead,
)
from torch import Tensor

from .conftest import MASK_ID, random_transformer
from .strict_device import DEVICE, ENABLED, DeviceMixError, DeviceTensor, Rehearsal, captured, rehearsal

# The interpreter takes milliseconds a program.
TINY: dict[str, Any] = {"width": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "ffn_width": 16}


@pytest.fixture
def mode() -> Iterator[Rehearsal]:
    with rehearsal() as mode:
        yield mode


def on(*shape: int) -> Tensor:
    return torch.rand(shape, device=DEVICE)


@pytest.mark.usefixtures("mode")
@pytest.mark.parametrize("index", [
    lambda: torch.rand(4, 3)[torch.tensor([0, 2], device=DEVICE)],
    lambda: torch.rand(4, 3).gather(1, torch.zeros(4, 1, dtype=torch.int64, device=DEVICE)),
    lambda: on(4, 3).index_select(0, torch.tensor([0])),
    lambda: on(4, 3).__setitem__(torch.tensor([0, 2]), torch.rand(2, 3))], ids=["host", "gather", "select", "put"])
def test_an_index_on_the_other_device_is_refused(index: Callable[[], Tensor]) -> None:
    with pytest.raises(DeviceMixError):
        index()


@pytest.mark.usefixtures("mode")
@pytest.mark.parametrize("operation", [
    lambda: on(3) + torch.rand(3), lambda: torch.cat([on(3), torch.rand(3)]),
    lambda: torch.stack([on(1)[0], torch.tensor(1.0)]), lambda: torch.nn.functional.linear(on(2, 3), torch.rand(4, 3)),
    lambda: torch.equal(on(3), torch.rand(3))], ids=["add", "cat", "stack", "linear", "equal"])
def test_an_operand_on_the_host_is_refused(operation: Callable[[], Tensor]) -> None:
    with pytest.raises(DeviceMixError, match="same device"):
        operation()


@pytest.mark.usefixtures("mode")
def test_an_operand_of_a_triton_program_on_the_host_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Pointer argument \(at 2\)"):
        rms_norm(on(2, 8), torch.ones(8), 1e-5)


@pytest.mark.usefixtures("mode")
@pytest.mark.parametrize("write", [
    lambda: torch.mm(on(2, 2), on(2, 2), out=torch.empty(2, 2)), lambda: torch.zeros(3).add_(on(3)),
    lambda: on(3).numpy(), lambda: on(3).__array__()], ids=["out", "in place", "numpy", "array"])
def test_an_output_on_the_host_is_refused(write: Callable[[], Any]) -> None:
    with pytest.raises((DeviceMixError, TypeError), match=r"same device|to numpy"):
        write()


@pytest.mark.parametrize("read", [
    lambda x: bool(x.any()), lambda x: int(x.sum()), lambda x: x.max().item(), lambda x: x[x > 0.5], lambda x: x.cpu(),
    lambda x: torch.arange(10)[x.argmax()], lambda x: torch.equal(x, x),
    lambda x: torch.tensor([1.0, 2.0], device=x.device), lambda x: x.repeat_interleave(x.long())],
    ids=["bool", "int", "item", "mask", "cpu", "index", "equal", "tensor", "repeats"])
def test_a_read_of_the_device_is_noted_and_refused_where_a_graph_is_captured(mode: Rehearsal, read: Any) -> None:
    x = on(3)
    assert not mode.reads
    read(x)
    assert mode.reads
    with captured(mode), pytest.raises(DeviceMixError, match="the host waits"):
        read(x)


def test_what_a_gpu_allows_is_allowed_and_stays_there(mode: Rehearsal) -> None:
    x, number = on(3), torch.tensor(2.0)
    with captured(mode):
        kept = [x * number, number - x, torch.where(x > number, x, number), x.masked_fill(x > 0, number), x[:2],
                x.new_zeros(3), torch.zeros_like(x), x.float(), x.to(torch.float16), x.sum(), x.expand(2, 3)]
    assert all(isinstance(value, DeviceTensor) and value.device == DEVICE and value.is_cuda for value in kept)
    assert not mode.reads
    host = [torch.zeros(3).copy_(x), x.cpu(), x.to("cpu"), torch.rand(3)]
    assert all(type(value) is Tensor for value in host)
    assert isinstance(on(4, 3)[torch.tensor([0, 2])], DeviceTensor)
    assert mode.reads


def test_a_gradient_lies_where_its_tensor_does(mode: Rehearsal) -> None:
    layer = torch.nn.Linear(3, 2).to(DEVICE)
    layer(on(4, 3)).sum().backward()
    assert isinstance(layer.weight.grad, DeviceTensor)
    with pytest.raises(DeviceMixError):
        layer(torch.rand(4, 3))


class NoRecorder(Recorder):
    """Takes every step in the memory that stays in place, as a graph would, and captures none."""

    def record(self, take: Callable[[], Step]) -> Recorded:
        return Recorded(take(), set(), None, "there is no GPU")


def _preset(name: str) -> tuple[Decoder, AttentionPattern]:
    """The decoder in blocks of 2 and, where it has steps, in 2 of them, and the pattern of the model that it drives."""
    knobs = {knob: 2 for knob in ("block", "steps") if knob in presets.knobs(name)}
    decoder = presets.PRESETS[name](**knobs)
    patterns = {"autoregressive": Causal(), "diffusion": Bidirectional(), "block_diffusion": BlockCausal(2)}
    return decoder, patterns[family_for(decoder)]


def _check_decode(decoder: Decoder, model: DecodableTransformer, mode: Rehearsal, monkeypatch: pytest.MonkeyPatch
                  ) -> set[str]:
    """Decoded on the device, every step as if it were captured, by Triton's kernels alone, it gives the tokens that it
    gives on the host; the names of these kernels."""
    requests = [Request([3, 1, *[MASK_ID] * num_new], start=2, seed=num_new) for num_new in (2, 4)]
    expected = decoder.decode(model, requests)
    step = Decoder.step
    there = DecodableTransformer(model.transformer.to(DEVICE), MASK_ID, model.shift, model.head)

    def captured_step(*arguments: Any) -> Any:
        with captured(mode):
            return step(*arguments)

    monkeypatch.setattr(Decoder, "step", captured_step)
    with recording() as ran:
        found = decoder.decode(there, requests)
    assert found == expected
    in_place = generate(there, decoder, requests, runner=CapturedSteps(decoder, recorder=NoRecorder()))
    assert in_place.completions == expected
    assert {implementation for _, implementation in ran} == {Implementation.TRITON}
    return {name for name, _ in ran}


@pytest.mark.skipif(not ENABLED, reason="a minute of Triton's interpreter: make strict")
@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_decodes_on_the_device_without_a_mix_or_a_read(name: str, mode: Rehearsal,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, pattern = _preset(name)
    model = DecodableTransformer(random_transformer(pattern, **TINY), MASK_ID, shift=int(pattern == Causal()))
    ran = _check_decode(decoder, model, mode, monkeypatch)
    assert {"attention", "project_and_store", "add_rms_norm", "gate_up_swiglu", "statistics_of_logits", "commit"} <= ran


def test_a_mixture_with_a_fused_head_decodes_on_the_device_too(mode: Rehearsal, monkeypatch: pytest.MonkeyPatch
                                                               ) -> None:
    decoder, pattern = _preset("fast_dllm_dual")
    transformer = random_transformer(pattern, **TINY, experts=ExpertShape(4, 16, Routing(2), shared_width=8))
    ran = _check_decode(decoder, DecodableTransformer(transformer, MASK_ID, head=FusedHead()), mode, monkeypatch)
    assert {"experts", "router_logits", "route_and_sort", "lm_head_statistics"} <= ran


def test_the_host_is_as_it_was_after_a_rehearsal() -> None:
    with rehearsal():
        pass
    assert type(torch.rand(2) + torch.rand(2)) is Tensor
    with pytest.raises((AssertionError, RuntimeError)):
        torch.zeros(1, device=DEVICE)
