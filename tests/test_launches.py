"""What a step launches where Triton runs: counted at the shapes of published models, without their weights, and for
what a step does besides its layers, in a small decode. Views launch nothing; every other operator is counted as one."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from quicksilver.decoders import Decoder, Request, Step, presets
from quicksilver.kernels.dispatch import Implementation, launch, using
from quicksilver.models import (
    AttentionPattern,
    BlockCausal,
    Causal,
    DecodableTransformer,
    FusedHead,
    KVStore,
    Transformer,
    TransformerConfig,
)
from quicksilver.models.attention import AttentionMask
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from .conftest import MASK_ID, random_transformer

CONTEXT, BLOCK = 1024, 32


class Launches(TorchDispatchMode):
    """The names of Triton programs and of ATen operators that would launch something."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        is_view = any(argument.alias_info is not None and not argument.alias_info.is_write
                      for argument in function._schema.arguments)
        if not is_view and "empty" not in str(function):
            self.names.append(str(function))
        return function(*arguments, **(keywords or {}))


@contextmanager
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The launches of what runs within, on the Triton path."""
    launches = Launches()

    def counted(program: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
        launches.names.append(program.__name__)
        with _disable_current_modes():  # of what the interpreter does
            launch(program, grid, *arguments, **options)

    with monkeypatch.context() as patch, using(Implementation.TRITON), torch.inference_mode():
        for name, module in list(sys.modules.items()):
            if name.startswith("quicksilver.kernels.") and getattr(module, "launch", None) is launch:
                patch.setattr(module, "launch", counted)
        with launches:
            yield launches.names


def of_a_forward(shape_name: str, num_layers: int, num_fed: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The launches of one forward of a published shape with so many layers, over tensors without data."""
    with initialize_config_module("quicksilver.conf", version_base="1.3"):
        (model,) = instantiate(compose(f"shapes/{shape_name}").shapes, _convert_="all").values()
    attention = BlockCausal(BLOCK) if num_fed > 1 else Causal()
    standard = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            transformer = Transformer(TransformerConfig(model.vocab_size, CONTEXT + BLOCK, attention,
                                                        replace(model.shape, num_layers=num_layers))).eval()
    finally:
        torch.set_default_dtype(standard)
    shape = transformer.config.shape
    store = KVStore.empty(num_layers=num_layers, num_rows=1, length=CONTEXT + BLOCK, num_kv_heads=shape.num_kv_heads,
                          head_width=shape.head_width, like=transformer.head.weight)
    end = CONTEXT + num_fed
    positions_1F = torch.arange(CONTEXT, end, device="meta")[None]
    mask = AttentionMask(attention, positions_1F, torch.arange(end, device="meta")[None])
    with counting(monkeypatch) as names:
        transformer.hidden(positions_1F, positions_1F, mask, store.write(positions_1F, end))
    return names


@pytest.mark.parametrize("num_fed", [1, BLOCK])
@pytest.mark.parametrize(("shape_name", "most"), [("llada_8b", 7), ("qwen3_8b", 7), ("llada2_mini", 10)])
def test_a_layer_of_a_published_shape_launches_at_most(
        shape_name: str, most: int, num_fed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # The first layer has nothing to add, and one of LLaDA2-mini's is dense.
    fewer, more = (of_a_forward(shape_name, num_layers, num_fed, monkeypatch) for num_layers in (3, 4))
    assert len(more) - len(fewer) <= most, more
    assert "_merge_kernel" in more  # 1,024 keys are split, and merged


def of_a_step(decoder: Decoder, pattern: AttentionPattern, num_layers: int, monkeypatch: pytest.MonkeyPatch
              ) -> tuple[list[str], int]:
    """The launches of the second step of a decode, and how many the loop around it has: those of the window that the
    step begins, if it does, and of what is counted."""
    # Of seed 2 because a block of it takes several steps.
    transformer = random_transformer(pattern, seed=2, width=16, num_layers=num_layers, num_heads=2, num_kv_heads=1,
                                     ffn_width=16, position_table=False)
    model = DecodableTransformer(transformer, MASK_ID, int(isinstance(pattern, Causal)), FusedHead())
    run = decoder.begin(model, [Request.completing([1, 2, 3, 4], 4, mask_id=MASK_ID)])
    of_steps: list[list[str]] = []

    def counted(decoder: Decoder, *arguments: Any) -> Step:
        before = len(names)
        step = taken(decoder, *arguments)
        of_steps.append(names[before:])
        return step

    taken = Decoder.step
    monkeypatch.setattr(Decoder, "step", counted)
    with counting(monkeypatch) as names:
        steps = decoder.stream(run)
        next(steps)
        names.clear()
        next(steps)
        return of_steps[1], len(names) - len(of_steps[1])


@pytest.mark.parametrize(("decoder", "pattern", "most_around"), [
    (presets.autoregressive(), Causal(), 10), (presets.sdar_dynamic(tau=0.99), BlockCausal(4), 2)], ids=["ar", "block"])
def test_a_step_launches_at_most_twenty_besides_its_layers(
        decoder: Decoder, pattern: AttentionPattern, most_around: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (one, around), (two, _) = (of_a_step(decoder, pattern, num_layers, monkeypatch) for num_layers in (1, 2))
    assert len(one) - (len(two) - len(one)) <= 20, one
    assert around <= most_around
    assert sum(name.endswith("_kernel") for name in two) - sum(name.endswith("_kernel") for name in one) == 4
