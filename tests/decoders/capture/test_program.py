"""A tape as one program: what it does, what models share of it, and why there may be none."""

import gc
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from quicksilver.decoders import CapturedSteps, generate, presets
from quicksilver.decoders.capture import program
from quicksilver.decoders.capture.program import CannotCompile, compiled
from quicksilver.decoders.capture.tape import Entry, Tape
from quicksilver.kernels import packed_experts, packed_linear
from quicksilver.kernels.batch_invariance import batch_invariant
from quicksilver.kernels.moe_router import Routing
from quicksilver.models import Causal, ExpertShape
from torch import Tensor
from torch.fx import Graph, GraphModule

from tests.conftest import random_model
from tests.decoders.capture import test_tape
from tests.decoders.recorded_decodes import Recorded, read

PRESETS = {name: recorded for name, recorded in read().items() if name.startswith("preset") and "ragged" in name}
COMPILED = ("autoregressive", "fast_dllm_dual", "klass")


@pytest.fixture(autouse=True)
def no_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "_programs", {})
    program._disk_is_full.cache_clear()


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[GraphModule]:
    """In the place of inductor, which takes seconds: PyTorch runs the graph that inductor would be given."""
    made: list[GraphModule] = []

    def as_it_is(module: GraphModule, arguments: Sequence[Tensor]) -> Callable[..., Any]:
        made.append(module)
        return module

    monkeypatch.setattr(program, "_by_inductor", as_it_is)
    return made


def taped(function: Callable[..., Tensor], *arguments: Tensor) -> list[Entry]:
    with torch.inference_mode(), Tape() as tape:
        result = function(*arguments)
    return tape.finish(result)[0]


@pytest.mark.parametrize("function", test_tape.FUNCTIONS)
def test_its_graph_reads_and_writes_as_the_function_does(function: Callable[..., Tensor], graphs: list[GraphModule]
                                                         ) -> None:
    test_tape.check(function, torch.zeros(4), torch.ones(4), make=compiled)
    assert graphs


def overlapping(store_NM: Tensor, x_M: Tensor) -> Tensor:
    """Rows that are written, and read through another view of the same memory, beside a row of its own."""
    store_NM[0].index_copy_(0, torch.arange(1, 2), x_M[:1])
    store_NM[2].mul_(2)
    return store_NM[0, :2].sum() + store_NM[2] + x_M


def test_views_of_memory_that_is_written_are_one_argument_each_row(graphs: list[GraphModule]) -> None:
    test_tape.check(overlapping, torch.zeros(3, 4), torch.ones(4), make=compiled)
    (graph,) = graphs
    written = [node for node in graph.graph.nodes if node.op == "placeholder"
               and any(user.target is torch.ops.aten.index_copy_.default and user.args[0] is node
                       for user in node.users)]
    assert len(written) == 1  # itself, not a view of the whole
    assert "as_strided" in graph.code


@pytest.mark.parametrize("recorded", [
    pytest.param(recorded, id=name, marks=[] if name.split(",")[0].split()[1] in COMPILED else [pytest.mark.slow])
    for name, recorded in PRESETS.items()])
def test_steps_by_programs_are_those_recorded_before_there_were_any(recorded: Recorded, graphs: list[GraphModule]
                                                                    ) -> None:
    found, runner = recorded.captured(compiles=True)
    recorded.check(found)
    assert runner.replays.by_program == runner.replays.replayed > 0
    assert graphs


@pytest.mark.slow
def test_inductors_program_decodes_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One program: the prompt's step is taken."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model, runner = random_model(Causal()), CapturedSteps(presets.autoregressive(), compiles=True)
    found, expected = (generate(model, runner.decoder, [[1, 2, 3]], num_new=8, runner=each) for each in (runner, None))
    assert found.completions == expected.completions
    assert found.accounting == expected.accounting
    assert runner.replays.by_program == runner.replays.replayed == 5
    assert not runner.replays.reasons
    assert any(tmp_path.iterdir())


def test_programs_on_disk_are_those_of_this_processors_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import compile_fx

    config: Any = torch.compiler.config
    tags: list[str] = []
    monkeypatch.setattr(compile_fx, "compile_fx", lambda *_, **__: tags.append(config.cache_key_tag) or len)
    for isa in ("avx2", "avx512"):
        monkeypatch.setattr("torch._inductor.cpu_vec_isa.pick_vec_isa", lambda isa=isa: isa)
        with config.patch(cache_key_tag="own"):
            program._by_inductor(GraphModule({}, Graph()), [])
    assert tags == ["own avx2", "own avx512"]


def decoded(model_seed: int, runner: CapturedSteps, **shape: Any) -> list[int]:
    model = random_model(Causal(), seed=model_seed, **shape)
    expected = generate(model, runner.decoder, [[1, 2, 3]], num_new=8).completions
    for _ in range(3):
        assert generate(model, runner.decoder, [[1, 2, 3]], num_new=8, runner=runner).completions == expected
    return expected[0].tokens


def test_models_of_one_shape_share_programs_and_each_takes_its_own_weights(graphs: list[GraphModule]) -> None:
    first = decoded(0, CapturedSteps(presets.autoregressive(), compiles=True))
    num_programs = len(graphs)
    assert decoded(1, CapturedSteps(presets.autoregressive(), compiles=True)) != first
    assert len(graphs) == num_programs


def test_models_with_packed_experts_share_programs(graphs: list[GraphModule], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "_IS_INTEL", False)
    monkeypatch.setattr(packed_linear, "_HAS_AVX512", True)
    monkeypatch.setitem(packed_experts.LEAST_BYTES, torch.float32, 1)
    experts = ExpertShape(8, 16, Routing(2))
    first = decoded(0, CapturedSteps(presets.autoregressive(), compiles=True), experts=experts)
    assert all("packed_experts" in graph.code for graph in graphs)
    num_programs = len(graphs)
    assert decoded(1, CapturedSteps(presets.autoregressive(), compiles=True), experts=experts) != first
    assert len(graphs) == num_programs


def test_packed_weights_are_told_apart_by_number(graphs: list[GraphModule], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear, "_IS_INTEL", False)
    monkeypatch.setattr(packed_linear, "_HAS_AVX512", True)
    monkeypatch.setitem(packed_linear.LEAST_BYTES, torch.float32, 1)
    first = decoded(0, CapturedSteps(presets.autoregressive(), compiles=True))
    assert all("product_with_packed" in graph.code for graph in graphs)
    num_programs = len(graphs)
    assert decoded(1, CapturedSteps(presets.autoregressive(), compiles=True)) != first
    assert len(graphs) == num_programs


def refused() -> str:
    with pytest.raises(CannotCompile) as error:
        compiled(taped(lambda x_N: x_N + 1, torch.ones(2)))
    return str(error.value)


def test_what_inductor_says_is_the_reason_and_operators_are_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(module: GraphModule, arguments: Sequence[Tensor]) -> None:
        raise RuntimeError("No working C++ compiler found\nmore")

    monkeypatch.setattr(program, "_by_inductor", fail)
    assert refused() == "RuntimeError: No working C++ compiler found"
    runner = CapturedSteps(presets.autoregressive(), compiles=True)
    decoded(0, runner)
    assert runner.replays.reasons == {"RuntimeError: No working C++ compiler found"}
    assert runner.replays.replayed > runner.replays.by_program == 0


def test_a_reason_is_remembered_and_no_more_programs_are_held_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[GraphModule] = []

    def fail(module: GraphModule, arguments: Sequence[Tensor]) -> None:
        asked.append(module)
        raise RuntimeError("no")

    monkeypatch.setattr(program, "_by_inductor", fail)
    assert {refused() for _ in range(3)} == {"RuntimeError: no"}
    assert len(asked) == 1
    monkeypatch.setattr(program, "_MOST_PROGRAMS", 0)
    refused()
    assert not program._programs


def test_a_decoder_compiles_no_more_than_it_may(graphs: list[GraphModule], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "MOST_OF_A_DECODER", 1)
    runner = CapturedSteps(presets.autoregressive(), compiles=True)
    decoded(0, runner)
    assert len(graphs) == 1
    assert runner.replays.reasons == {"1 programs are compiled, the most there may be"}


def test_programs_that_are_there_already_do_not_count(graphs: list[GraphModule], monkeypatch: pytest.MonkeyPatch
                                                      ) -> None:
    decoded(0, CapturedSteps(presets.autoregressive(), compiles=True))
    monkeypatch.setattr(program, "MOST_OF_A_DECODER", len(graphs))
    runner = CapturedSteps(presets.autoregressive(), compiles=True)
    for seed in range(3):
        decoded(seed, runner)
    assert not runner.replays.reasons


def test_what_failed_keeps_nothing_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "_by_inductor", lambda *_: 1 / 0)
    model, runner = random_model(Causal()), CapturedSteps(presets.autoregressive(), compiles=True)
    for _ in range(3):
        generate(model, runner.decoder, [[1, 2, 3]], num_new=8, runner=runner)
    assert program._programs
    gone = weakref.ref(model.transformer)
    del model, runner
    gc.collect()
    assert gone() is None


def test_a_folder_that_is_full_or_cannot_be_made_is_a_reason(
        graphs: list[GraphModule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "program").write_text("x")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(program, "MOST_BYTES_ON_DISK", 0)
    assert refused() == "inductor's folder holds more than 0 GiB of programs"
    program._disk_is_full.cache_clear()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "program" / "folder"))
    assert refused().startswith("NotADirectoryError")


def test_a_product_with_more_in_it_is_refused(graphs: list[GraphModule]) -> None:
    packed = torch.ops.mkldnn._reorder_linear_weight(torch.randn(64, 32), 16)
    entries = taped(lambda x_MK: torch.ops.mkldnn._linear_pointwise(x_MK, packed, None, "relu", [], ""),
                    torch.randn(16, 32))
    with pytest.raises(CannotCompile, match="more than a product"):
        compiled(entries)


def test_bits_that_may_not_depend_on_the_batch_are_not_compiled() -> None:
    with batch_invariant(True), pytest.raises(ValueError, match="batch_invariant=true with compiled steps"):
        decoded(0, CapturedSteps(presets.autoregressive(), compiles=True))


def test_what_is_only_read_of_memory_that_is_written_is_no_argument_of_its_own(graphs: list[GraphModule]) -> None:
    """Two tensors that PyTorch knows to share memory, though neither is an operator's view of the other."""
    x_N = torch.zeros(4)
    other_N = x_N[:]

    def written(y_N: Tensor) -> Tensor:
        before_N = x_N * 2
        other_N.add_(y_N)
        return before_N + 10 * x_N

    with torch.inference_mode(), Tape() as tape:
        result = written(torch.ones(4))
    entries, result = tape.finish(result)
    replay = compiled(entries)
    x_N.fill_(5)
    replay()
    assert result.tolist() == 4 * [2 * 5 + 10 * 6]
    assert sum(node.op == "placeholder" for node in graphs[0].graph.nodes) == 3  # x, y, and the result's memory


def test_memory_of_several_dtypes_is_refused() -> None:
    def written(x_N: Tensor) -> Tensor:
        x_N[:2].view(torch.int32).fill_(1)
        return x_N[1:].mul_(2)

    def covered(x_N: Tensor) -> Tensor:
        x_N.add_(1).view(torch.int32).add_(1)
        return x_N.add_(1)

    for function in (written, covered):
        with pytest.raises(CannotCompile, match="as several dtypes"):
            compiled(taped(function, torch.ones(4)))
