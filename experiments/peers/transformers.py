"""transformers' greedy `generate` of a Llama (github.com/huggingface/transformers) with our weights copied in, against
our autoregressive decoder: tokens and times.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...decoders import Request, presets
from ...models import Causal, DecodableTransformer, Shape, Transformer
from ..harness.records import describe
from .agreement import close_decisions, interleaved, random_transformer
from .base import Comparison, Finding, Timing
from .own_engines import own_engines, timed_engines, unpacked
from .speed import dtype_of

SHAPES = {
    "0.85M": (Shape(position_table=False), 64),
    "20M": (Shape(width=384, num_layers=8, num_heads=6, num_kv_heads=6, ffn_width=1024, position_table=False), 8192),
}
NUM_NEW = 64
AUTOREGRESSIVE = presets.autoregressive()


def llama_with_weights_of(transformer: Transformer) -> Any:
    """A transformers LlamaForCausalLM of the same shape and weights."""
    from transformers import LlamaConfig, LlamaForCausalLM  # pyright: ignore[reportMissingImports]

    config, shape = transformer.config, transformer.config.shape
    llama = LlamaForCausalLM(LlamaConfig(
        vocab_size=config.vocab_size, hidden_size=shape.width, intermediate_size=shape.ffn_width,
        num_hidden_layers=shape.num_layers, num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads, max_position_embeddings=config.max_length, rms_norm_eps=shape.norm_eps,
        rope_theta=shape.rope_theta,  # pyright: ignore[reportCallIssue]
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
        pad_token_id=0)).eval()
    weights = {"model.embed_tokens.weight": transformer.embedding.weight, "model.norm.weight": transformer.norm.weight,
               "lm_head.weight": transformer.head.weight}
    ours = dict(transformer.named_parameters())
    widths = [shape.head_width * heads for heads in (shape.num_heads, shape.num_kv_heads, shape.num_kv_heads)]
    for layer in range(shape.num_layers):
        mine, theirs = f"blocks.{layer}.", f"model.layers.{layer}."
        qkv = ours[f"{mine}attention.qkv_proj.weight"].split(widths)
        gate_up = ours[f"{mine}ffn.gate_up_proj.weight"].chunk(2)
        weights |= {f"{theirs}self_attn.{name}_proj.weight": part for name, part in zip("qkv", qkv, strict=True)}
        weights |= {f"{theirs}mlp.{name}_proj.weight": part for name, part in zip(("gate", "up"), gate_up, strict=True)}
        weights |= {f"{theirs}self_attn.o_proj.weight": ours[f"{mine}attention.o_proj.weight"],
                    f"{theirs}mlp.down_proj.weight": ours[f"{mine}ffn.down_proj.weight"],
                    f"{theirs}input_layernorm.weight": ours[f"{mine}attention_norm.weight"],
                    f"{theirs}post_attention_layernorm.weight": ours[f"{mine}ffn_norm.weight"]}
    llama.load_state_dict(weights)
    return llama


@dataclass(frozen=True)
class LlamaPair:
    """A random transformer as our autoregressive decoder runs it, and as transformers' generate does."""

    transformer: Transformer
    llama: Any
    prompt: list[int]
    num_new: int

    @classmethod
    def random(cls, shape: Shape, vocab_size: int, seed: int, num_prompt: int = 16, num_new: int = NUM_NEW
               ) -> "LlamaPair":
        transformer = random_transformer(shape, vocab_size, num_prompt + num_new, Causal(), seed)
        prompt = torch.randint(0, vocab_size - 1, (num_prompt,)).tolist()
        return cls(transformer, llama_with_weights_of(transformer), prompt, num_new)

    @property
    def mask_id(self) -> int:
        return self.transformer.config.vocab_size - 1

    @cached_property
    def model(self) -> DecodableTransformer:
        return DecodableTransformer(self.transformer, mask_id=self.mask_id, shift=1)

    @property
    def request(self) -> Request:
        return Request.completing(self.prompt, self.num_new, mask_id=self.mask_id)

    def ours(self) -> list[int]:
        return AUTOREGRESSIVE.decode(self.model, [self.request])[0].tokens

    def theirs(self) -> list[int]:
        prompt = torch.tensor([self.prompt])
        return self.llama.generate(prompt, max_new_tokens=self.num_new, do_sample=False, use_cache=True,
                                   attention_mask=torch.ones_like(prompt), suppress_tokens=[self.mask_id])[0].tolist()

    def linear_floor(self) -> None:
        """F.linear of one row with every weight matrix, once per new token."""
        linear_floor([p for p in (*self.transformer.blocks.parameters(), self.transformer.head.weight) if p.ndim == 2],
                     self.num_new)


def agreement(num_models: int = 20) -> Iterator[Comparison[Finding]]:
    for name, (shape, vocab_size) in SHAPES.items():
        num_pairs = num_models if name == "0.85M" else 2
        of = {"shape": describe(shape), "vocab_size": vocab_size, "num_models": num_pairs,
              "decoder": describe(AUTOREGRESSIVE)}
        setting = f"greedy, {name}, {NUM_NEW} tokens"
        yield Comparison("transformers", setting, of, partial(_counted, setting, shape, vocab_size, num_pairs))


def _counted(setting: str, shape: Shape, vocab_size: int, num_pairs: int) -> Finding:
    pairs = [LlamaPair.random(shape, vocab_size, seed) for seed in range(num_pairs)]
    return Finding("transformers", setting, num_decodes=num_pairs,
                   num_same=sum(pair.ours() == pair.theirs() for pair in pairs),
                   num_close=sum(close_decisions(AUTOREGRESSIVE, pair.model, pair.request) for pair in pairs))


def speed(rounds: int = 9) -> Iterator[Comparison[Timing]]:
    for name, (shape, vocab_size) in SHAPES.items():
        of = {"shape": describe(shape), "vocab_size": vocab_size, "rounds": rounds,
              "decoder": describe(AUTOREGRESSIVE)}
        yield Comparison("transformers", f"times, greedy, {name}, {NUM_NEW} tokens, batch 1", of,
                         partial(_timed, name, shape, vocab_size, rounds))


def _timed(name: str, shape: Shape, vocab_size: int, rounds: int) -> Timing:
    pair = LlamaPair.random(shape, vocab_size, seed=0)
    turns = interleaved(pair.ours, pair.theirs, rounds)
    own, peer = (1e3 * seconds / pair.num_new for seconds in (turns.own, turns.peer))
    engines = own_engines(AUTOREGRESSIVE, pair.model, pair.request)
    if pair.transformer.is_packed:
        engines |= own_engines(AUTOREGRESSIVE, unpacked(pair.model), pair.request, ("none",))
    text, of_engines = timed_engines(engines, pair.theirs, rounds)
    beside_floor, of_engines_beside_floor = timed_engines(engines, pair.linear_floor, rounds)
    figures = turns.to_json() | {
        "dtype": dtype_of(pair.model), "num_new": pair.num_new, "ours_tokens_per_second": 1e3 / own,
        "theirs_tokens_per_second": 1e3 / peer, "engines": of_engines, "engines_beside_linear": of_engines_beside_floor}
    return Timing(f"transformers, greedy, {name}, {pair.num_new} tokens, batch 1: ours {own:.3f} ms a token, theirs "
                  f"{peer:.3f}, ratio {turns.ratio:.2f}\n{text}\n"
                  f"    beside F.linear over the same weights, one row a token:\n{beside_floor}", figures)


@torch.inference_mode()
def linear_floor(weights: Sequence[Tensor], repeats: int) -> None:
    """F.linear of one row with every weight, `repeats` times."""
    rows = {weight.shape[1]: torch.randn(1, weight.shape[1]) for weight in weights}
    for _ in range(repeats):
        for weight in weights:
            F.linear(rows[weight.shape[1]], weight)
