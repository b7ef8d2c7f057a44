"""Fast-dLLM's loops on its own model file (llada/model/modeling_llada.py) with our weights copied in: tokens and times.
The file needs transformers 4.46.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ...decoders import Blocks, Decoder, Greedy, Linear, TopProbability
from ...models import DecodableTransformer
from .base import Comparison, Finding, RandomModels, Source, Timing
from .fast_dllm import HOME, LOOPS, KeysValues, Loop, findings, loaded
from .speed import OtherEngine, Setting, compare_speed, in_bfloat16
from .views import BANNED

TRANSFORMERS = "4.46"
FILE = "llada/model/modeling_llada.py"
_AIMS = {"dual": 1.25, "prefix": None, "no cache": None}


@dataclass
class Banned:
    """Their model with the mask id banned; counts the positions fed, for all of which it computes logits."""

    base: Any
    mask_id: int
    num_fed: int = 0

    @property
    def device(self) -> torch.device:
        return self.base.device

    def __call__(self, tokens_BF: Tensor, past_key_values: KeysValues | None = None, use_cache: bool = False,
                 replace_position: Tensor | None = None) -> SimpleNamespace:
        self.num_fed += tokens_BF.numel()
        output = self.base(tokens_BF, past_key_values=past_key_values, use_cache=use_cache,
                           replace_position=replace_position)
        output.logits[..., self.mask_id] = BANNED
        return output


def check_transformers() -> None:
    """ValueError unless transformers has the version that their model file needs."""
    try:
        found = version("transformers")
    except PackageNotFoundError:
        found = "none"
    if not found.startswith(f"{TRANSFORMERS}."):
        raise ValueError(f"--fast-dllm: its model file wants transformers {TRANSFORMERS}, found {found}; install that, "
                         "or leave that file and all times out with --tokens-only")


def model_file(checkout: Path) -> ModuleType:
    """Their model file as a module. ValueError if it or the transformers version it needs is missing."""
    check_transformers()
    return Source("--fast-dllm", checkout, HOME).load(FILE, "LLaDAModelLM", "LLaDAConfig")


def with_weights_of(model: DecodableTransformer, file: ModuleType) -> Any:
    """Their model with our shape and weights, in our dtype."""
    config, shape = model.config, model.config.shape
    assert not shape.position_table
    assert not shape.tied_embeddings
    theirs = file.LLaDAModelLM(file.LLaDAConfig(
        d_model=shape.width, n_heads=shape.num_heads, n_kv_heads=shape.num_kv_heads, n_layers=shape.num_layers,
        mlp_hidden_size=shape.ffn_width, vocab_size=config.vocab_size, embedding_size=config.vocab_size,
        max_sequence_length=config.max_length, rope=True, rope_theta=shape.rope_theta, rms_norm_eps=shape.norm_eps,
        block_type="llama", layer_norm_type="rms", activation_type="silu", weight_tying=False, include_bias=False,
        include_qkv_bias=False, attention_dropout=0.0, residual_dropout=0.0, embedding_dropout=0.0,
        init_device="cpu")).eval()
    theirs.to(model.transformer.head.weight.dtype)
    theirs.model.transformer.load_state_dict(_renamed(model))
    return theirs


def _renamed(model: DecodableTransformer) -> dict[str, Tensor]:
    """Our weights under their names."""
    shape, transformer = model.config.shape, model.transformer
    ours = dict(transformer.named_parameters())
    weights = {"wte.weight": transformer.embedding.weight, "ln_f.weight": transformer.norm.weight,
               "ff_out.weight": transformer.head.weight}
    widths = [shape.head_width * heads for heads in (shape.num_heads, shape.num_kv_heads, shape.num_kv_heads)]
    for layer in range(shape.num_layers):
        mine, name = f"blocks.{layer}.", f"blocks.{layer}."
        qkv = ours[f"{mine}attention.qkv_proj.weight"].split(widths)
        gate, up = ours[f"{mine}ffn.gate_up_proj.weight"].chunk(2)
        weights |= {f"{name}{part}_proj.weight": weight for part, weight in zip("qkv", qkv, strict=True)}
        weights |= {f"{name}attn_out.weight": ours[f"{mine}attention.o_proj.weight"],
                    f"{name}ff_proj.weight": gate, f"{name}up_proj.weight": up,
                    f"{name}ff_out.weight": ours[f"{mine}ffn.down_proj.weight"],
                    f"{name}attn_norm.weight": ours[f"{mine}attention_norm.weight"],
                    f"{name}ff_norm.weight": ours[f"{mine}ffn_norm.weight"]}
    return weights


def agreement(checkout: Path, num_models: int = 20) -> Iterator[Comparison[Finding]]:
    file = model_file(checkout)
    copied = lru_cache(maxsize=1)(lambda model: with_weights_of(model, file))
    yield from findings("Fast-dLLM, its model", loaded(checkout),
                        lambda model: Banned(copied(model), model.mask_id),
                        RandomModels(num_models, position_tables=False))


def speed(checkout: Path, setting: Setting | None = None) -> Iterator[Comparison[Timing]]:
    """Each loop against ours with float32 weights, then the dual one with bfloat16."""
    loops, file, setting = loaded(checkout), model_file(checkout), setting or Setting()
    model, prompt = setting.model(), setting.prompt()
    contests = [(model, name) for name in ("dual", "prefix", "no cache")] + [(in_bfloat16(model), "dual")]

    def other(name: str, model: DecodableTransformer) -> OtherEngine:
        theirs = Banned(with_weights_of(model, file), model.mask_id)
        engine = Loop(loops, name, lambda _: theirs).engine(setting.block, setting.steps, setting.num_new, {})
        engine(model, prompt)
        num_fed = theirs.num_fed
        return OtherEngine(f"Fast-dLLM, {name}", lambda: engine(model, prompt), num_fed, num_fed)

    for model, name in contests:
        decoder = Decoder(Blocks(setting.block), Linear(setting.steps_per_block), Greedy(), TopProbability(),
                          LOOPS[name][1])
        yield compare_speed(f"Fast-dLLM, {name}", setting, decoder, model, partial(other, name), _AIMS[name])
