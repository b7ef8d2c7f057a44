"""Compare this engine with public ones on the same weights: same tokens, and both times.

    python -m quicksilver.experiments.peers --llada path/to/LLaDA/generate.py
    python -m quicksilver.experiments.peers --transformers

LLaDA's generate and our LLaDA setting drive the same model object; transformers' generate drives a Llama of the same
shape and weights as our autoregressive decoder's. Everything is float32 at temperature 0, the head scaled so that
decisions are separated and the mask id banned on both sides; decisions closer than 1e-5 are counted. Times are taken in
turns in one process; a ratio is the median of the rounds' ratios. Exit code 1 if tokens differ.
"""

import argparse
import importlib.util
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..decoders import (
    Append,
    Blocks,
    Decoder,
    Greedy,
    Leftmost,
    Linear,
    Recompute,
    Request,
    TopProbability,
)
from ..models import (
    Bidirectional,
    Causal,
    DecodableTransformer,
    Plan,
    Shape,
    Transformer,
)
from .agreement import CLOSE, Finding, close_decisions, in_turns, random_transformer
from .progress import console

SHAPES = {
    "0.85M": (Shape(position_table=False), 64),
    "20M": (Shape(width=384, num_layers=8, num_heads=6, num_kv_heads=6, ffn_width=1024, position_table=False), 8192),
}
AUTOREGRESSIVE = Decoder(Blocks(1), Linear(1), Greedy(), Leftmost(), Append())


@dataclass(frozen=True)
class LladaView:
    """A DecodableTransformer as LLaDA's generate calls a model: token rows in, an object with logits out."""

    model: DecodableTransformer

    @property
    def device(self) -> torch.device:
        return self.model.device

    def __call__(self, tokens_BL: Tensor, attention_mask: None = None) -> SimpleNamespace:
        position_BL = torch.arange(tokens_BL.shape[1]).expand_as(tokens_BL).contiguous()
        spare_BS = F.pad(tokens_BL, (0, 1))
        logits_BLV = self.model.logits(self.model.hidden(spare_BS, Plan(position_BL, position_BL), None))
        logits_BLV[..., self.model.mask_id] = -torch.inf
        return SimpleNamespace(logits=logits_BLV)


def load_llada(path: Path) -> ModuleType:
    """LLaDA's generate.py as a module. ValueError if the path does not hold it."""
    spec = importlib.util.spec_from_file_location("llada_generate", path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise ValueError(f"--llada {path}: not a Python file; give the generate.py of github.com/ML-GSAI/LLaDA")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "generate"):
        raise ValueError(f"--llada {path}: has no function generate; give the generate.py of github.com/ML-GSAI/LLaDA")
    return module


def llada_decoder(steps: int, block: int, length: int) -> Decoder:
    """Our LLaDA: blocks from left to right, each in its share of the steps, most probable first, nothing cached."""
    return Decoder(Blocks(block), Linear(steps * block // length), Greedy(), TopProbability(), Recompute())


def llada_agreement(llada: ModuleType, num_models: int = 20) -> Iterator[Finding]:
    prompt_length, length, vocab_size = 8, 24, 32
    settings = [(steps, block) for block in (24, 12, 6) for steps in (24, 12, 8, 4) if steps * block % length == 0]
    num_runs = num_same = num_close = 0
    for seed in range(num_models):
        shape = Shape(width=64, num_layers=2, position_table=seed % 2 == 0)
        transformer = random_transformer(shape, vocab_size, prompt_length + length, Bidirectional(), seed)
        model = DecodableTransformer(transformer, mask_id=vocab_size - 1)
        prompt = torch.randint(0, vocab_size - 1, (prompt_length,)).tolist()
        for steps, block in settings:
            theirs = llada.generate(LladaView(model), torch.tensor([prompt]), steps=steps, gen_length=length,
                                    block_length=block, temperature=0.0, mask_id=model.mask_id)[0].tolist()
            request = Request.completing(prompt, length, mask_id=model.mask_id)
            decoder = llada_decoder(steps, block, length)
            num_close += close_decisions(decoder, model, request)
            num_runs += 1
            num_same += decoder.decode(model, [request])[0].tokens == theirs
    yield Finding(f"LLaDA generate: {num_same} of {num_runs} decodes identical ({num_models} random models x "
                  f"{len(settings)} settings of steps and blocks); {num_close} decisions closer than {CLOSE:g}",
                  num_same == num_runs)


def llada_times(llada: ModuleType) -> Iterator[Finding]:
    prompt_length, length, steps, block = 32, 64, 32, 32
    for name, (shape, vocab_size) in SHAPES.items():
        transformer = random_transformer(shape, vocab_size, prompt_length + length, Bidirectional(), 0)
        model = DecodableTransformer(transformer, mask_id=vocab_size - 1)
        prompt = torch.randint(0, vocab_size - 1, (prompt_length,)).tolist()
        request = Request.completing(prompt, length, mask_id=model.mask_id)
        decoder, view, prompts = llada_decoder(steps, block, length), LladaView(model), torch.tensor([prompt])
        ours, theirs, ratio = in_turns(
            lambda decoder=decoder, model=model, request=request: decoder.decode(model, [request]),
            lambda view=view, prompts=prompts, model=model: llada.generate(
                view, prompts, steps=steps, gen_length=length, block_length=block, mask_id=model.mask_id))
        yield Finding(f"{name}, {length} tokens in {steps} steps, blocks of {block}: ours {1e3 * ours:.1f} ms, LLaDA "
                      f"{1e3 * theirs:.1f} ms, LLaDA / ours {ratio:.2f}")


def llama_with_weights_of(transformer: Transformer) -> Any:
    """A transformers LlamaForCausalLM of the same shape and weights."""
    from transformers import LlamaConfig, LlamaForCausalLM  # pyright: ignore[reportMissingImports]

    config, shape = transformer.config, transformer.config.shape
    llama = LlamaForCausalLM(LlamaConfig(
        vocab_size=config.vocab_size, hidden_size=shape.width, intermediate_size=shape.ffn_width,
        num_hidden_layers=shape.num_layers, num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads, max_position_embeddings=config.max_length, rms_norm_eps=shape.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta}, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=None, pad_token_id=0)).eval()
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
    def random(cls, shape: Shape, vocab_size: int, seed: int, num_prompt: int = 16, num_new: int = 64) -> "LlamaPair":
        transformer = random_transformer(shape, vocab_size, num_prompt + num_new, Causal(), seed)
        prompt = torch.randint(0, vocab_size - 1, (num_prompt,)).tolist()
        return cls(transformer, llama_with_weights_of(transformer), prompt, num_new)

    @property
    def mask_id(self) -> int:
        return self.transformer.config.vocab_size - 1

    @property
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
        """F.linear of one row with each weight matrix in turn, once a new token."""
        linear_floor([p for p in (*self.transformer.blocks.parameters(), self.transformer.head.weight) if p.ndim == 2],
                     self.num_new)


def transformers_comparison(num_models: int = 20) -> Iterator[Finding]:
    for name, (shape, vocab_size) in SHAPES.items():
        pairs = [LlamaPair.random(shape, vocab_size, seed) for seed in range(num_models if name == "0.85M" else 2)]
        num_same = sum(pair.ours() == pair.theirs() for pair in pairs)
        num_close = sum(close_decisions(AUTOREGRESSIVE, pair.model, pair.request) for pair in pairs)
        yield Finding(f"{name}: {num_same} of {len(pairs)} greedy decodes identical to transformers' generate; "
                      f"{num_close} decisions closer than {CLOSE:g}", num_same == len(pairs))
        pair = pairs[0]
        own, peer, ratio = in_turns(pair.ours, pair.theirs)
        yield Finding(f"{name}, {pair.num_new} tokens, batch 1: ours {1e3 * own / pair.num_new:.3f} ms a token, "
                      f"transformers {1e3 * peer / pair.num_new:.3f}, transformers / ours {ratio:.2f}")
        own, floor, ratio = in_turns(pair.ours, pair.linear_floor)
        yield Finding(f"{name}, {pair.num_new} tokens, batch 1: ours {1e3 * own / pair.num_new:.3f} ms a token, "
                      f"F.linear over the same weights at one row {1e3 * floor / pair.num_new:.3f}, ours / F.linear "
                      f"{1 / ratio:.2f}")


@torch.inference_mode()
def linear_floor(weights: Sequence[Tensor], repeats: int) -> None:
    """F.linear of one row with each weight in turn, `repeats` times."""
    rows = {weight.shape[1]: torch.randn(1, weight.shape[1]) for weight in weights}
    for _ in range(repeats):
        for weight in weights:
            F.linear(rows[weight.shape[1]], weight)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m quicksilver.experiments.peers", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llada", type=Path, help="path of LLaDA's generate.py")
    parser.add_argument("--transformers", action="store_true", help="compare with the installed transformers")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.llada is None and not options.transformers:
        parser.error("name a peer: --llada path/to/generate.py, or --transformers")
    torch.set_num_threads(options.threads)
    try:
        findings: list[Finding] = []
        comparisons: list[Iterator[Finding]] = []
        if options.llada is not None:
            llada = load_llada(options.llada)
            comparisons += [llada_agreement(llada), llada_times(llada)]
        if options.transformers:
            comparisons.append(transformers_comparison())
        for finding in itertools.chain.from_iterable(comparisons):
            console.print(finding.text, markup=False)
            findings.append(finding)
    except (ValueError, ImportError) as error:
        console.print(f"error: {error}", markup=False)
        sys.exit(2)
    if not all(finding.holds for finding in findings):
        sys.exit(1)


if __name__ == "__main__":
    main()
