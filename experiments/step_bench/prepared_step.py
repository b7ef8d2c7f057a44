"""One step of a decode, prepared for timing: the decoder's own step on static tensors, with its commits undone between
repetitions.

With random weights all masks of a block would be routed alike, to the same experts, so the queried positions hold
random tokens instead, while still marked as masked.
"""

import copy
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from ...decoders import BlockState, Canvas, Decoder, DecodeRun
from ...models import Causal, DecodableTransformer, RouterRecorder, Transformer, TransformerConfig
from .point import ModelShape, StepPoint

_WEIGHT_SEED, _STORE_SEED = 0, 1


@dataclass(frozen=True)
class PreparedStep:
    """A repeatable step: its decode, its window, and the canvas before the step."""

    decoder: Decoder
    run: DecodeRun
    block: BlockState
    before: Canvas

    @classmethod
    def of(cls, point: StepPoint, transformer: Transformer) -> "PreparedStep":
        """The point's step, with random keys and values in the KV cache."""
        transformer = copy.copy(transformer)  # shares the weights; only the attention pattern differs
        transformer.config = point.config
        model = DecodableTransformer(transformer, point.mask_id, point.shift, point.head)
        run = point.decoder.begin(model, [point.request()])
        canvas, store = run.active, run.store
        assert store is not None
        torch.manual_seed(_STORE_SEED)
        for stored_NBLKD in (store.keys_NBLKD, store.values_NBLKD):
            stored_NBLKD.normal_()
        canvas.tokens_BS[0, : point.length] = torch.tensor(point.tokens(), device=model.spec.device)
        block = point.decoder.begin_block(run, point.window_index)
        before = Canvas(*(tensor.clone() for tensor in vars(canvas).values()))
        return cls(point.decoder, run, block, before)

    def __call__(self) -> None:
        self.decoder.step(self.run, self.block, 0)

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


@lru_cache(maxsize=1)
def weights(model: ModelShape, max_length: int, dtype_name: str, device_name: str) -> Transformer:
    """Random weights, created on the device: none is zero, so that no product is cheaper than with real weights."""
    standard = torch.get_default_dtype()
    torch.manual_seed(_WEIGHT_SEED)
    try:
        # Not a cast: RoPE tables and routers stay in float32.
        torch.set_default_dtype(getattr(torch, dtype_name))
        with torch.device(device_name):
            transformer = Transformer(TransformerConfig(model.vocab_size, max_length, Causal(), model.shape))
    finally:
        torch.set_default_dtype(standard)
    for parameter in transformer.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return transformer.eval().requires_grad_(False)
