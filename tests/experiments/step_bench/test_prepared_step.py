"""The timed step: it is the decoder's own, repeats itself, and could be captured."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from quicksilver.decoders import CapturedSteps, DecodeRun
from quicksilver.decoders.canvas import Canvas
from quicksilver.experiments.step_bench import prepared_step
from quicksilver.experiments.step_bench.point import StepPoint
from quicksilver.experiments.step_bench.prepared_step import PreparedStep, weights
from quicksilver.kernels.dispatch import Implementation, recording, using
from quicksilver.models import (
    DecodableTransformer,
    KVStore,
    Transformer,
)
from quicksilver.models.filling import without_memory
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.experiments.step_bench.small_steps import DENSE, HEADS, MIXED, name, point


def ready(of: StepPoint) -> PreparedStep:
    return PreparedStep.of(of, weights(of, "cpu"))


POINTS = [point(shape, block, head) for shape in (DENSE, MIXED) for block in (None, 4) for head in HEADS]


@torch.inference_mode()
@pytest.mark.parametrize("of", POINTS, ids=name)
def test_a_step_writes_the_same_buffers_each_time_and_is_taken_back(of: StepPoint) -> None:
    """What a CUDA graph holds on to: addresses. A step that put a new tensor in the place of an old one would write to
    memory that nobody reads."""
    step = ready(of)
    store = step.run.store
    assert store is not None
    held = [*vars(step.run.active).values(), *vars(store).values(), step.block.num_masked_at_start_B, step.block.step_B,
            *(value for value in vars(step.block.window).values() if isinstance(value, Tensor))]
    addresses = [tensor.data_ptr() for tensor in held]
    first = [tensor.clone() for tensor in vars(step.run.active).values()]
    step()
    written, stored = step.committed(), [tensor.clone() for tensor in vars(store).values()]
    assert not torch.equal(written[0], first[0])
    assert int(first[1].sum()) > int(written[1].sum())
    step.restore()
    for one, other in zip(vars(step.run.active).values(), first, strict=True):
        assert torch.equal(one, other)
    step()
    for one, other in zip([*step.committed(), *vars(store).values()], [*written, *stored], strict=True):
        assert torch.equal(one, other)
    canvas, store = step.run.active, step.run.store
    assert store is not None
    now = [*vars(canvas).values(), *vars(store).values(), step.block.num_masked_at_start_B, step.block.step_B,
           *(value for value in vars(step.block.window).values() if isinstance(value, Tensor))]
    assert [tensor.data_ptr() for tensor in now] == addresses


@torch.inference_mode()
@pytest.mark.parametrize("of", POINTS, ids=name)
def test_it_is_the_step_that_the_decoder_would_make(of: StepPoint) -> None:
    """On the canvas and the store that a decode of the request leaves before its last window."""
    transformer = weights(of, "cpu")
    step = ready(of)
    assert isinstance(step.run.model, DecodableTransformer)
    model = step.run.model
    run = of.decoder.begin(model, [of.request()])
    steps = of.decoder.stream(run)
    index = 0
    while index < of.window_index:
        index = next(steps).window.index + 1
    earlier = None if of.window_index == 0 else [tensor.clone() for tensor in vars(run.active).values()]
    expected = next(step for step in steps if step.window.index == of.window_index)
    # The same canvas and store before the step, and the same outcome after it.
    canvas, store = step.run.active, step.run.store
    fresh = vars(of.decoder.begin(model, [of.request()]).active).values() if earlier is None else earlier
    for tensor, before in zip(vars(canvas).values(), fresh, strict=True):
        tensor.copy_(before)
    assert store is not None
    assert run.store is not None
    for tensor, before in zip(vars(store).values(), vars(run.store).values(), strict=True):
        tensor.copy_(before)
    step()
    assert torch.equal(canvas.tokens_BS[:, :-1], expected.canvas.tokens_BS[:, :-1])
    assert torch.equal(canvas.masked_BS, expected.canvas.masked_BS)
    assert torch.equal(step.block.window.query_BQ, expected.window.query_BQ)
    assert transformer.config.max_length == of.max_length


class NoHostTensor(TorchDispatchMode):
    """Refuses operators that touch a CPU tensor: on a GPU that is a copy from the host, which a graph would freeze or
    refuse."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, result)):
            assert not isinstance(value, Tensor) or value.device.type != "cpu", f"{func} takes or gives a CPU tensor"
        return result


class NoHostValues(TorchFunctionMode):
    """Refuses to make tensors of Python's numbers, which a meta device takes without a copy and a GPU does not."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy), f"{func} on the host"
        return func(*args, **(kwargs or {}))


@contextmanager
def nothing_from_the_host() -> Iterator[None]:
    with NoHostTensor(), NoHostValues():
        yield


def moved(step: PreparedStep, move: Callable[[Tensor], Tensor]) -> PreparedStep:
    """The step on other tensors: its weights, canvas, store and windows."""
    model, run, store = step.run.model, step.run, step.run.store
    assert isinstance(model, DecodableTransformer)
    assert store is not None
    transformer = Transformer(model.transformer.config).to(next(model.transformer.parameters()).dtype)
    for module in transformer.modules():
        held: dict[str, Any]
        for held in (module._parameters, module._buffers):
            held.update({key: move(value.detach()) for key, value in held.items() if value is not None})
    grid = replace(run.grid, first_BQ=move(run.grid.first_BQ), stop_B=move(run.grid.stop_B))
    canvas = Canvas(*map(move, vars(run.active).values()))
    there = DecodeRun(DecodableTransformer(transformer, model.mask_id, model.shift, model.head), run.requests, canvas,
                      canvas, run.spans, grid, KVStore(*map(move, vars(store).values())), run.rows, run.masked_from)
    tensors = [{name: move(value) for name, value in vars(holder).items() if isinstance(value, Tensor)}
               for holder in (step.block.window, step.block)]
    block = replace(step.block, window=replace(step.block.window, **tensors[0]), **tensors[1])
    return PreparedStep(step.runner, there, block, canvas)


@pytest.mark.parametrize("implementation", list(Implementation))
@pytest.mark.parametrize("of", POINTS, ids=name)
def test_a_step_takes_nothing_from_the_host(of: StepPoint, implementation: Implementation,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """On meta tensors, which stand for a device: they have no values to read, and no kernel is launched on them."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)  # does not know of them
    with torch.inference_mode(), using(implementation), recording() as ran:
        step = moved(ready(of), lambda tensor: torch.empty_like(tensor, device="meta"))
        with nothing_from_the_host():
            step()
    assert (Implementation.TRITON in {what for _, what in ran}) == (implementation is Implementation.TRITON)
    assert (Implementation.REFERENCE in {what for _, what in ran}) == (implementation is not Implementation.TRITON)
    assert Implementation.CPU not in {what for _, what in ran}
    assert ("experts" in {kernel for kernel, _ in ran}) == (of.model.shape.experts is not None)


@pytest.mark.parametrize(("touch", "refused_by"), [
    (lambda: torch.tensor(1.0, device="meta"), "on the host"),
    (lambda: torch.zeros(2).to("meta"), "CPU tensor"),
    (lambda: torch.zeros(2, device="cpu"), "CPU tensor"),
    (lambda: torch.zeros((), device="meta").item(), "cannot be called on meta tensors"),
    (lambda: torch.zeros(3, device="meta").nonzero(), "meta"),
    (lambda: bool(torch.ones((), device="meta")), "meta")])
def test_whatever_waits_for_the_host_would_be_noticed(touch: Callable[[], object], refused_by: str) -> None:
    with pytest.raises((AssertionError, RuntimeError), match=refused_by), nothing_from_the_host():
        touch()


@pytest.mark.parametrize("implementation", list(Implementation))
@pytest.mark.parametrize("of", [point(MIXED, None), point(MIXED, 4, "fused")], ids=name)
def test_a_step_of_mixtures_runs_on_fake_tensors(of: StepPoint, implementation: Implementation) -> None:
    with torch.inference_mode():
        real = ready(of)
    mode = FakeTensorMode()
    with torch.no_grad():
        step = moved(real, lambda tensor: mode.from_tensor(tensor.clone()))
        with mode, using(implementation):
            step()


@torch.inference_mode()
@pytest.mark.parametrize("of", POINTS[4:], ids=name)
def test_the_triton_path_commits_the_same(of: StepPoint) -> None:
    step = ready(of)
    step()
    expected = step.committed()
    step.restore()
    with using(Implementation.TRITON), recording() as ran:
        step()
    assert {implementation for _, implementation in ran} == {Implementation.TRITON}
    for one, other in zip(step.committed(), expected, strict=True):
        assert torch.equal(one, other)


def test_weights_are_random_in_the_type_asked_for_and_tables_and_routers_stay_precise() -> None:
    of = point(MIXED, dtype="bfloat16")
    transformer = weights(of, "cpu")
    for key, parameter in transformer.named_parameters():
        assert parameter.dtype == (torch.float32 if "router" in key else torch.bfloat16)
        assert (parameter != 0).float().mean() > 0.99, key
    assert transformer.cos_LD.dtype == torch.float32
    assert torch.get_default_dtype() == torch.float32
    assert weights(of, "cpu") is transformer


def test_weights_are_laid_out_as_a_loaded_checkpoint_s_are() -> None:
    of = point(MIXED, dtype="bfloat16")
    made, loaded = weights(of, "cpu"), without_memory(of.config, torch.bfloat16)
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in made.state_dict().items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in loaded.state_dict().items()}
    assert of.weight_bytes == sum(tensor.nbytes for tensor in (*made.parameters(), *made.buffers()))
    store = DecodableTransformer(made, of.mask_id).new_store(1, of.length)
    assert of.store_bytes == store.num_bytes


def test_numbers_that_are_repeated_leave_rows_and_experts_different(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared_step, "_NUM_DRAWN", 33)  # rows are 32 and 8 wide
    of = point(MIXED)
    monkeypatch.setattr(prepared_step, "_held", {})
    transformer = weights(of, "cpu")
    for tensor in (transformer.head.weight[:32], transformer.state_dict()["blocks.1.ffn.gate_up_XGE"]):
        assert len(tensor.flatten(1).unique(dim=0)) == len(tensor)


@pytest.mark.parametrize(("free", "fits"), [(10**9, True), (10_000, False), (0, True)])
def test_what_does_not_fit_is_refused_with_its_size_and_lets_go_of_what_was_held(
        free: int, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    held: dict[object, object] = {"other": object()}
    monkeypatch.setattr(prepared_step, "_held", held)
    monkeypatch.setattr(prepared_step, "free_memory_bytes", lambda: free)
    if fits:
        weights(point(), "cpu")
        assert len(held) == 1
    else:
        with pytest.raises(prepared_step.DoesNotFit, match="does not fit: 0 GB of 0 GB that are free"):
            weights(point(), "cpu")
        assert not held


@torch.inference_mode()
@pytest.mark.parametrize("of", [point(block=None), point(block=4)], ids=name)
def test_a_replayed_step_commits_what_a_taken_one_does(of: StepPoint) -> None:
    taken, replayed = ready(of), PreparedStep.of(of, weights(of, "cpu"), "graph")
    taken()
    for _ in range(4):
        replayed.restore()
        replayed()
        for one, other in zip(replayed.committed(), taken.committed(), strict=True):
            assert torch.equal(one, other)
    assert isinstance(replayed.runner, CapturedSteps)
    assert replayed.runner.replays.replayed == 2


def test_distinct_experts_are_counted_in_every_mixture_and_nothing_is_left_behind() -> None:
    with torch.inference_mode():
        step = ready(point(MIXED, 4))
        before = step.committed()
        touched = step.distinct_experts()
        assert len(touched) == 2
        assert all(2 <= count <= 8 for count in touched)
        assert all(torch.equal(one, other) for one, other in zip(step.committed(), before, strict=True))
        assert ready(point(MIXED, None)).distinct_experts() == [2, 2]
        assert ready(point(DENSE, 4)).distinct_experts() == []
