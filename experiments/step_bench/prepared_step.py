"""One step of a decode, prepared for timing: the decoder's own step on static tensors, with its commits undone between
repetitions.

With random weights all masks of a block would be routed alike, to the same experts, so the queried positions hold
random tokens instead, while still marked as masked.
"""

import copy
import gc
from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...decoders import BlockState, Canvas, CapturedSteps, Decoder, DecodeRun
from ...kernels.host_memory import free_memory_bytes, give_back_unused
from ...models import Causal, DecodableTransformer, Router, RouterRecorder, Transformer, TransformerConfig
from ...models.filling import made_room_for, without_memory
from ...models.packing import PackedAlone, Packing
from .point import StepPoint

_WEIGHT_SEED, _STORE_SEED = 0, 1
_PACKING = PackedAlone()  # as a loaded checkpoint's
_NUM_DRAWN = 2**20 + 7  # no multiple of a row, so that rows differ


@dataclass(frozen=True)
class PreparedStep:
    """A repeatable step: its decode, its window, and the canvas before the step; `runner` takes it."""

    runner: CapturedSteps | Decoder
    run: DecodeRun
    block: BlockState
    before: Canvas

    @classmethod
    def of(cls, point: StepPoint, transformer: Transformer, capture: str = "none", packing: Packing = _PACKING
           ) -> "PreparedStep":
        """The point's step, with random keys and values in the KV cache. `capture` is as in decodes: with graph or
        compile the third call and all later ones replay. `packing` is that of the weights."""
        transformer = copy.copy(transformer)  # shares the weights; only the attention pattern differs
        transformer.config = point.config
        model = DecodableTransformer(transformer, point.mask_id, point.shift, point.head, packing)
        run = point.decoder.begin(model, [point.request()])
        canvas, store = run.active, run.store
        assert store is not None
        torch.manual_seed(_STORE_SEED)
        for stored_NBLKD in (store.keys_NBLKD, store.values_NBLKD):
            stored_NBLKD.normal_()
        canvas.tokens_BS[0, : point.length] = torch.tensor(point.tokens(), device=model.spec.device)
        runner = CapturedSteps.named(capture, point.decoder) or point.decoder
        block = runner.begin_block(run, point.window_index)
        before = Canvas(*(tensor.clone() for tensor in vars(run.active).values()))
        return cls(runner, run, block, before)

    def __call__(self) -> None:
        self.runner.step(self.run, self.block, 0)

    def restore(self) -> None:
        """Undo the step's commits."""
        for tensor, earlier in zip(vars(self.run.active).values(), vars(self.before).values(), strict=True):
            tensor.copy_(earlier)

    def committed(self) -> list[Tensor]:
        """Copies of the canvas tensors that the step writes, without the spare column, which may hold anything."""
        canvas = self.run.active
        return [tensor[:, :-1].clone() for tensor in (canvas.tokens_BS, canvas.masked_BS, canvas.step_BS)]

    def distinct_experts(self) -> list[int]:
        """Number of distinct experts that the step touches, in each layer with experts."""
        assert isinstance(self.run.model, DecodableTransformer)
        with RouterRecorder(self.run.model.transformer) as recorder:
            self()
        self.restore()
        return [len(routed.expert_BFA.unique()) for (routed,) in recorder.results]


class DoesNotFit(RuntimeError):
    """The weights and stored keys and values of a point are more than the free memory."""


_held: dict[Hashable, Transformer] = {}


def weights(point: StepPoint, device_name: str) -> Transformer:
    """Random weights on the device, as `models.load` lays them out: those of the last call are held, and let go before
    others are made. None is zero, so that no product is cheaper than with real weights. DoesNotFit with the sizes."""
    key = point.model, point.max_length, point.dtype, device_name
    if key in _held:
        _check_memory(point.store_bytes, device_name)
    else:
        _held.clear()
        _check_memory(point.weight_bytes + point.store_bytes, device_name)
        config = TransformerConfig(point.model.vocab_size, point.max_length, Causal(), point.model.shape)
        transformer = made_room_for(without_memory(config, getattr(torch, point.dtype)), torch.device(device_name))
        _fill(transformer)
        _held[key] = transformer.eval().requires_grad_(False)
    return _held[key]


def _check_memory(num_bytes: int, device_name: str) -> None:
    gc.collect()  # steps of the model before may hold one another
    if device_name == "cuda":
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info()[0]
    else:
        give_back_unused()
        free = free_memory_bytes()
    if free and num_bytes > free:
        raise DoesNotFit(f"does not fit: {num_bytes / 1e9:.0f} GB of {free / 1e9:.0f} GB that are free")


def _fill(transformer: Transformer) -> None:
    """Of each matrix the first numbers are drawn and then repeated: gigabytes take seconds."""
    generator = torch.Generator(transformer.head.weight.device).manual_seed(_WEIGHT_SEED)
    for parameter in transformer.parameters():
        if parameter.ndim == 1:
            parameter.data.fill_(1)
            continue
        flat = parameter.data.view(-1)
        drawn = torch.empty_like(flat[:_NUM_DRAWN]).normal_(std=parameter.shape[-1] ** -0.5, generator=generator)
        for part in flat.split(_NUM_DRAWN):
            part.copy_(drawn[: len(part)])
    for module in transformer.modules():
        if isinstance(module, Router) and module.bias_X is not None:
            module.bias_X.zero_()
