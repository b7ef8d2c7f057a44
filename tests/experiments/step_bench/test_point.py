"""Published shapes and the floors of their steps, against what was worked out by hand from their papers."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from quicksilver.experiments.harness.records import describe
from quicksilver.experiments.step_bench.point import ModelShape, StepPoint
from quicksilver.models import SeparateHead, Shape
from quicksilver.models.families import FAMILIES
from quicksilver.models.filling import without_memory

from tests.test_conf import CONF, check_types

OPTIONS = {"LLaDA-8B": "llada_8b", "Qwen3-8B": "qwen3_8b", "LLaDA-MoE-7B-A1B": "llada_moe_7b_a1b",
           "LLaDA2-mini": "llada2_mini"}
SMALL = ModelShape(20, Shape(width=16, num_layers=1, num_heads=2, num_kv_heads=1, ffn_width=8))


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    with initialize_config_module("quicksilver.conf", version_base="1.3"):
        yield


def shape_of(option: str) -> dict[str, ModelShape]:
    config = compose("config", overrides=["threads=1", "experiment=step_bench", f"shapes=[{option}]"])
    return instantiate(config.experiment.shapes, _convert_="all")


def point(model: ModelShape, context: int, block: int | None, **changes: Any) -> StepPoint:
    settings: dict[str, Any] = {"head_name": "separate", "head": SeparateHead(), "kernels": "triton",
                                "dtype": "bfloat16", "max_length": 8300}
    return StepPoint("model", model, context, block, **(settings | changes))


@pytest.mark.parametrize("option", [*OPTIONS.values(), "tiny"])
def test_every_shape_composes_with_the_annotated_types(option: str) -> None:
    for model in shape_of(option).values():
        assert check_types(model) > 10
        assert describe(point(model, 64, 8))["kind"] == "StepPoint"


@pytest.mark.parametrize(("name", "total", "active"), [
    ("LLaDA-8B", 8.02e9, 8.02e9), ("Qwen3-8B", 8.19e9, 8.19e9), ("LLaDA-MoE-7B-A1B", 7.36e9, 1.4e9),
    ("LLaDA2-mini", 16.25e9, 1.42e9)])
def test_parameters_are_those_that_were_published(name: str, total: float, active: float) -> None:
    config = point(shape_of(OPTIONS[name])[name], 64, None).config
    head = config.shape.width * config.vocab_size
    assert config.num_matrix_parameters() + 2 * head == pytest.approx(total, rel=0.005)
    # Papers differ in whether the embedding is active too.
    num_active = config.num_active_matrix_parameters() + head
    assert num_active <= 1.01 * active
    assert num_active + head >= 0.99 * active


# As the files of published weights sum up, the routers' biases of LLaDA2 apart; SDAR-1.7B as Qwen3-1.7B.
NUM_PARAMETERS = {
    "SmolLM2-135M": 134_515_008, "Llama-3.1-8B": 8_030_261_248, "Qwen2.5-0.5B": 494_032_768,
    "Qwen2.5-7B": 7_615_616_512, "Qwen3-0.6B": 596_049_920, "Qwen3-8B": 8_190_735_360,
    "Qwen3-30B-A3B": 30_532_122_624, "OLMoE-1B-7B": 6_919_161_856, "Mixtral-8x7B": 46_702_792_704,
    "Mistral-7B": 7_241_732_096, "Gemma-3-1B": 999_885_952, "Gemma-3-4B": 3_880_263_168, "LLaDA-8B": 8_015_581_184,
    "Dream-7B": 7_615_616_512, "LLaDA-MoE-7B-A1B": 7_356_880_896, "LLaDA2-mini": 16_255_638_528,
    "LLaDA2-flash": 102_889_697_280, "SDAR-1.7B": 1_720_574_976, "SDAR-8B": 8_190_735_360,
    "SDAR-30B-A3B": 30_532_122_624, "Fast-dLLM-v2-1.5B": 1_543_714_304, "Fast-dLLM-v2-7B": 7_615_616_512}


def test_the_shapes_of_every_family_have_as_many_parameters_as_their_files() -> None:
    shapes = shape_of("published")
    found = {name: without_memory(point(model, 64, None).config, torch.bfloat16).num_parameters()
             for name, model in shapes.items()}
    assert found == NUM_PARAMETERS


def test_every_family_has_a_published_shape_and_every_shape_its_file() -> None:
    config = compose("config", overrides=["threads=1", "experiment=step_bench", "shapes=published"])
    architectures = {shape.config.architectures[0] for shape in config.shapes.values()}
    # Of LLaDA-MoE's two names the published files have the other, and DiffusionGemma's steps are not taken yet.
    left_out = {"LLaDAMoEModel", "DiffusionGemmaForBlockDiffusion"}
    assert architectures == {name for family in FAMILIES for name in family.architectures} - left_out
    files = {path.stem for path in (CONF / "shapes").glob("*.yaml")} - {"published", "tiny"}
    assert {name for option in files for name in shape_of(option)} == NUM_PARAMETERS.keys()


def test_a_configuration_that_its_family_does_not_know_is_refused() -> None:
    config = compose("config", overrides=["threads=1", "experiment=step_bench", "shapes=qwen3_8b",
                                          "++shapes.Qwen3-8B.config.use_qk_clip=true"])
    with pytest.raises(InstantiationException, match="config: use_qk_clip: unknown to this family"):
        instantiate(config.experiment.shapes, _convert_="all")


@pytest.mark.parametrize(("name", "context", "milliseconds"), [
    ("LLaDA-8B", 1024, (3.61, 3.61, 3.62, 3.62)), ("LLaDA-8B", 8192, (4.49, 4.49, 4.49, 4.49)),
    ("Qwen3-8B", 1024, (3.56, 3.56, 3.56, 3.57)), ("Qwen3-8B", 8192, (3.80, 3.80, 3.80, 3.91)),
    ("LLaDA-MoE-7B-A1B", 1024, (0.68, 2.27, 3.26, 3.30)), ("LLaDA-MoE-7B-A1B", 8192, (0.90, 2.49, 3.48, 3.52)),
    ("LLaDA2-mini", 1024, (0.53, 1.90, 4.84, 6.49)), ("LLaDA2-mini", 8192, (0.59, 1.97, 4.91, 6.59))])
def test_floors_are_those_of_the_roofline(name: str, context: int, milliseconds: tuple[float, ...]) -> None:
    """The roofline was summed over parts, each bound by itself; a floor of the whole lies a little below at most."""
    model = shape_of(OPTIONS[name])[name]
    for block, expected in zip((1, 8, 32, 64), milliseconds, strict=True):
        found = point(model, context, block).floors()
        assert found["bound"] == "memory"
        assert found["floor_ms"] == found["memory_floor_ms"] > found["compute_floor_ms"]
        assert 0.97 * expected - 0.005 <= found["floor_ms"] <= expected + 0.006
    autoregressive = point(model, context, None).floors()
    assert autoregressive == point(model, context, 1).floors()


def test_a_floor_counts_the_experts_that_were_touched() -> None:
    model = shape_of("llada2_mini")["LLaDA2-mini"]
    experts = model.shape.experts
    assert experts is not None
    step = point(model, 1024, 32)
    few, expected = step.floors(8.0), step.floors()
    assert step.expected_experts() == experts.expected_distinct(32)
    one = 3 * 2048 * 512 * 2
    saved = 19 * (experts.expected_distinct(32) - 8) * one
    assert expected["num_bytes"] - few["num_bytes"] == pytest.approx(saved, rel=1e-6)
    assert expected["num_flops"] == few["num_flops"]


@pytest.mark.parametrize("block", [None, 1, 8])
def test_a_step_asks_for_its_block_and_nothing_else_is_masked(block: int | None) -> None:
    step = point(SMALL, 16, block)
    request = step.request()
    masked = [place for place, token in enumerate(request.tokens) if token == step.mask_id]
    assert masked == ([17] if block is None else list(range(16, 16 + block)))
    assert len(request.tokens) == step.length
    assert step.mask_id not in step.tokens()
    assert step.decoder.windows.span(request.start, step.length).first == 16


@pytest.mark.parametrize(("changes", "reason"), [
    ({"context": 0}, "context=0"), ({"block": 5}, "block=5: must divide context=16"), ({"block": 0}, "block=0"),
    ({"max_length": 23}, "max_length=23"), ({"dtype": "int8"}, "dtype='int8'"), ({"kernels": "cuda"}, "kernels='cuda'"),
    ({"model": dataclasses.replace(SMALL, vocab_size=2)}, None)], ids=str)
def test_a_bad_point_is_refused(changes: dict[str, Any], reason: str | None) -> None:
    settings = {"model": SMALL, "context": 16, "block": 8} | changes
    if reason is None:
        assert point(**settings)
        return
    with pytest.raises(ValueError, match=reason):
        point(**settings)
