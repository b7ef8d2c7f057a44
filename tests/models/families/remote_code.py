"""Tiny random checkpoints of families that transformers has no class for, in their own words, beside a plain model of
the same weights."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from quicksilver.decoders import Decoder, Recompute, Request, presets
from quicksilver.models import AttentionPattern, LoadedModel, LogitsFunction, Plan, load
from quicksilver.models.filling import parts_of
from safetensors.torch import save_file
from torch import Tensor

from tests.models.families.plain import PlainLayer, PlainModel, causal

VOCAB_SIZE, MASK_ID, MAX_LENGTH = 61, 60, 96
Fault = Callable[[PlainModel], PlainModel]


def random_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Norms are about one, biases about a third, products keep the size of what they multiply."""
    generator = torch.Generator().manual_seed(0)

    def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
        values = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            return values * shape[-1] ** -0.5
        return 0.3 * values if name.endswith("bias") else 1 + 0.3 * values

    return {name: drawn(name, shape) for name, shape in shapes.items()}


def within(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin so, under the rest of their names."""
    return {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}


def in_layers(change: Callable[[PlainLayer], PlainLayer]) -> Fault:
    return lambda plain: replace(plain, layers=[change(layer) for layer in plain.layers])


def gate_and_up_swapped(layer: PlainLayer) -> PlainLayer:
    ffn: Any = layer.ffn
    return replace(layer, ffn=replace(ffn, gate=ffn.up, up=ffn.gate))


def layers_swapped(plain: PlainModel) -> PlainModel:
    return replace(plain, layers=plain.layers[::-1])


FAULTS: dict[str, Fault] = {
    "causal": lambda plain: replace(plain, sees=causal),
    "theta": lambda plain: replace(plain, theta=100.0),
    "more or less of a head rotated": lambda plain: replace(plain, rotated=plain.head_width + 4 - plain.rotated),
    "layers swapped": layers_swapped,
    "keys and values swapped": in_layers(lambda layer: replace(layer, qkv=(layer.qkv[0], layer.qkv[2], layer.qkv[1]))),
    "norms swapped": in_layers(lambda layer: replace(layer, attention_norm=layer.ffn_norm,
                                                     ffn_norm=layer.attention_norm)),
    "the embedding for a head": lambda plain: replace(plain, head=plain.embedding),
}


@dataclass(frozen=True)
class Published:
    """A checkpoint, the plain model of its weights, and what is published of how it is read."""

    config: dict[str, Any]
    weights: dict[str, Tensor]
    plain: PlainModel
    pattern: AttentionPattern
    shift: int

    def saved(self, folder: Path) -> Path:
        (folder / "config.json").write_text(json.dumps(self.config))
        save_file(self.weights, folder / "model.safetensors")
        return folder

    def loaded(self, folder: Path, dtype: torch.dtype = torch.float32) -> LoadedModel:
        return load(self.saved(folder), dtype=dtype, device="cpu", mask_id=MASK_ID, say=lambda line: None)

    def function(self, shift: int, mask_id: int = MASK_ID) -> LogitsFunction:
        return LogitsFunction(self.plain, mask_id, VOCAB_SIZE, max_length=MAX_LENGTH, pattern=self.pattern, shift=shift)


def distance(loaded: LoadedModel, plain: PlainModel, length: int = 80) -> float:
    """The largest difference between the logits of whole sequences, of which the largest logit is 1."""
    tokens_BL = some_tokens(length)
    with torch.no_grad():
        found = loaded.model.logits(loaded.model.transformer.sequence_hidden(tokens_BL))
        wanted = plain(tokens_BL)
    return float((found - wanted).abs().max() / wanted.abs().max())


def some_tokens(length: int) -> Tensor:
    return torch.randint(0, VOCAB_SIZE, (2, length), generator=torch.Generator().manual_seed(1))


def check_same(published: Published, folder: Path) -> None:
    """Every tensor lies where it is used, the model is read as published, and it gives the plain model's logits."""
    loaded = published.loaded(folder)
    description = loaded.description
    assignments = description.names.assignments(description.config)
    held = {part.name: weight for part, weight in parts_of(loaded.model.transformer, assignments)}
    assert held.keys() == published.weights.keys()
    assert all(torch.equal(held[name], weight) for name, weight in published.weights.items())
    assert (loaded.model.spec.pattern, loaded.model.spec.shift) == (published.pattern, published.shift)
    assert distance(loaded, published.plain) < 1e-5
    _check_place(published, loaded)


def _check_place(published: Published, loaded: LoadedModel) -> None:
    """A single mask becomes what the plain model's row at its place says, or the row before."""
    tokens_BL, place = some_tokens(80)[:1].clamp(max=MASK_ID - 1), 42
    tokens_BL[0, place] = MASK_ID
    logits_BLV = published.plain(tokens_BL).index_fill(-1, torch.tensor(MASK_ID), -torch.inf)
    (found,) = presets.threshold().decode(loaded.model, [Request(tokens_BL[0].tolist())])
    assert found.tokens[place] == int(logits_BLV[0, place - published.shift].argmax())


def check_fault(published: Published, fault: Fault, folder: Path) -> None:
    """A model read so would not have passed."""
    assert distance(published.loaded(folder), fault(published.plain)) > 1e-2


def check_cached(published: Published, block: int, folder: Path) -> None:
    """Fed block after block, with a store, the model gives the logits of whole sequences."""
    model, tokens_BL = published.loaded(folder).model, some_tokens(MAX_LENGTH // block * block)
    store = model.new_store(*tokens_BL.shape)
    tokens_BS = torch.nn.functional.pad(tokens_BL, (0, 1))
    found = []
    with torch.no_grad():
        for begin in range(0, tokens_BL.shape[1], block):
            feed_BF = torch.arange(begin, begin + block).repeat(len(tokens_BL), 1)
            plan = Plan(feed_BF, feed_BF + model.spec.shift, context=begin + block)
            found.append(model.logits(model.hidden(tokens_BS, plan, store)))
        wanted = published.plain(tokens_BL)
    assert float((torch.cat(found, dim=1) - wanted).abs().max() / wanted.abs().max()) < 1e-5


def requests_of(mask_id: int, grid: int) -> list[Request]:
    """Prompts that end on the grid and between, and completions that end on it."""
    drawn = some_tokens(MAX_LENGTH)[0].clamp(max=MASK_ID - 2).tolist()
    sizes = (grid, 2 * grid), (grid // 2, grid), (3 * grid // 2, 3 * grid)
    return [Request.completing(drawn[-length:], stop - length, mask_id=mask_id) for length, stop in sizes]


def check_decodes(published: Published, decoder: Decoder, folder: Path, grid: int = 8) -> None:
    """Prompts of different lengths are completed as by the plain model, alone and together; another shift or mask id
    would show."""
    model, bare = published.loaded(folder).model, replace(decoder, cache=Recompute())
    together = decoder.decode(model, requests_of(MASK_ID, grid))
    assert together == [decoder.decode(model, [request])[0] for request in requests_of(MASK_ID, grid)]

    def plainly(shift: int, mask_id: int) -> list[list[int]]:
        found = bare.decode(published.function(shift, mask_id), requests_of(mask_id, grid))
        return [list(completion.tokens) for completion in found]

    tokens = [list(completion.tokens) for completion in together]
    assert tokens == plainly(published.shift, MASK_ID)
    assert tokens != plainly(1 - published.shift, MASK_ID)
    assert tokens != plainly(published.shift, MASK_ID - 1)
