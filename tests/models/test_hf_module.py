"""Families of transformers, tiny and random: the caches that each is offered, and under them the tokens of its own
greedy generate, in whatever version is installed (make test-lowest and test-newest: both ends of those admitted)."""

import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from quicksilver.decoders import (
    Append,
    BlockCausalCache,
    Blocks,
    Cache,
    Decoder,
    Delayed,
    Dual,
    Greedy,
    GridBlocks,
    Leftmost,
    Linear,
    Prefix,
    Recompute,
    Request,
    TopProbability,
    Vicinity,
    Windows,
)
from quicksilver.models import AttentionPattern, Bidirectional, BlockCausal, Causal, HuggingFaceModel

VOCAB_SIZE, MASK_ID, MAX_LENGTH, NUM_NEW = 23, 22, 24, 8
PROMPTS = [[7, 3, 19], [4, 11, 2, 18, 9, 21, 5], [13], [8, 1, 16, 6, 12]]

_TOKENS = {"vocab_size": VOCAB_SIZE, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
_SIZES = _TOKENS | {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
                    "max_position_embeddings": MAX_LENGTH, "initializer_range": 0.5}
_GROUPED = _SIZES | {"num_key_value_heads": 2}
_WIDE = _GROUPED | {"head_dim": 8}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
_LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_ROUTED_EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "n_group": 1,
                   "topk_group": 1, "moe_intermediate_size": 16}
_GPT = _TOKENS | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": MAX_LENGTH, "initializer_range": 0.5}
_OPT = _TOKENS | {"ffn_dim": 48, "max_position_embeddings": MAX_LENGTH, "init_std": 0.5}


@dataclass(frozen=True)
class Family:
    """The class of a causal model and its config; patterns that its code cannot be made to attend by; the version of
    transformers from which on it takes a cache, and why it does not before."""

    module: str
    config: dict[str, Any]
    refused_patterns: tuple[type, ...] = ()

    def __str__(self) -> str:
        return self.module.removesuffix("ForCausalLM").removesuffix("LMHeadModel")

    def built(self) -> Any:
        torch.manual_seed(0)
        config = getattr(transformers, f"{self}Config")(**self.config)
        return getattr(transformers, self.module)(config).eval()


FAMILIES = [
    Family("LlamaForCausalLM", _GROUPED), Family("MistralForCausalLM", _GROUPED | {"sliding_window": None}),
    Family("Qwen2ForCausalLM", _GROUPED), Family("Qwen3ForCausalLM", _WIDE), Family("GemmaForCausalLM", _WIDE),
    Family("PhiForCausalLM", _GROUPED), Family("Phi3ForCausalLM", _GROUPED), Family("Olmo2ForCausalLM", _GROUPED),
    Family("GraniteForCausalLM", _GROUPED), Family("SmolLM3ForCausalLM", _GROUPED),
    Family("StableLmForCausalLM", _GROUPED), Family("NemotronForCausalLM", _GROUPED),
    Family("Starcoder2ForCausalLM", _GROUPED | {"sliding_window": None}), Family("Glm4ForCausalLM", _WIDE),
    Family("OlmoeForCausalLM", _GROUPED | _EXPERTS), Family("MixtralForCausalLM", _GROUPED | _LOCAL_EXPERTS),
    Family("Qwen2MoeForCausalLM", _GROUPED | _EXPERTS | {"moe_intermediate_size": 16,
                                                         "shared_expert_intermediate_size": 16}),
    Family("Qwen3MoeForCausalLM", _WIDE | _EXPERTS | {"moe_intermediate_size": 16}),
    Family("GptOssForCausalLM", _WIDE | _LOCAL_EXPERTS), Family("Glm4MoeForCausalLM", _WIDE | _ROUTED_EXPERTS),
    Family("GPT2LMHeadModel", _GPT), Family("GPTJForCausalLM", _GPT | {"rotary_dim": 4}),
    Family("GPTNeoXForCausalLM", _SIZES), Family("BioGptForCausalLM", _SIZES),
    Family("FalconForCausalLM", _SIZES | {"alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2}),
    Family("MptForCausalLM", _TOKENS | {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": MAX_LENGTH,
                                        "initializer_range": 0.5}),
    Family("OPTForCausalLM", _OPT | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                                     "word_embed_proj_dim": 32}),
    Family("XGLMForCausalLM", _OPT | {"d_model": 32, "num_layers": 2, "attention_heads": 4},
           refused_patterns=(Bidirectional,)),
    Family("GPTNeoForCausalLM", _TOKENS | {
        "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48, "window_size": 4,
        "attention_types": [[["global"], 2]], "max_position_embeddings": MAX_LENGTH, "initializer_range": 0.5},
           refused_patterns=(Bidirectional, BlockCausal)),
    Family("CTRLLMHeadModel", _GPT | {"dff": 48}),
    Family("DogeForCausalLM", _GROUPED),
]
CACHES: dict[AttentionPattern, tuple[Windows, list[Cache]]] = {
    Causal(): (Blocks(1), [Append()]),
    Bidirectional(): (Blocks(4), [Prefix(), Dual(), Vicinity(2, 1, 3), Delayed(2)]),
    BlockCausal(4): (GridBlocks(4), [BlockCausalCache()])}


def begun(model: HuggingFaceModel, cache: Cache) -> tuple[Decoder, list[Request]]:
    """A decoder and requests that could be decoded. ValueError where the model cannot serve the cache."""
    windows, _ = CACHES[model.spec.pattern]
    policy = Leftmost() if windows == Blocks(1) else TopProbability()
    decoder = Decoder(windows, Linear(1), Greedy(), policy, cache)
    requests = [Request.completing(prompt, NUM_NEW, mask_id=model.spec.mask_id) for prompt in PROMPTS]
    if windows == GridBlocks(4):
        requests = [Request.completing(PROMPTS[3][:4], NUM_NEW, mask_id=model.spec.mask_id)]
    decoder.begin(model, requests)
    return decoder, requests


def generated(module: Any, prompt: list[int]) -> list[int]:
    tokens = torch.tensor([prompt])
    return module.generate(tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=NUM_NEW,
                           eos_token_id=None, pad_token_id=0)[0].tolist()


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_a_family_is_offered_every_cache_and_gives_the_tokens_of_its_generate(family: Family) -> None:
    module = family.built()
    for pattern, (_, caches) in CACHES.items():
        if type(pattern) in family.refused_patterns:
            with pytest.raises(ValueError, match="cannot be made to attend as"):
                HuggingFaceModel.of(module, pattern=pattern, mask_id=MASK_ID)
            continue
        model = HuggingFaceModel.of(module, pattern=pattern, mask_id=None if pattern == Causal() else MASK_ID)
        for cache in caches:
            begun(model, cache)
    model = HuggingFaceModel.of(module)
    expected = [generated(module, prompt) for prompt in PROMPTS]
    for cache in (Append(), Recompute()):
        decoder, requests = begun(model, cache)
        assert [completion.tokens for completion in decoder.decode(model, requests)] == expected


@pytest.mark.parametrize(("family", "reason"), [
    (Family("DeepseekV3ForCausalLM", _SIZES | _ROUTED_EXPERTS | {
        "num_key_value_heads": 4, "first_k_dense_replace": 1, "q_lora_rank": 16, "kv_lora_rank": 16,
        "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}), "must have same slice shapes"),
    (Family("MiniMaxForCausalLM", _WIDE | _LOCAL_EXPERTS),
     "its layers do not all have full attention (linear_attention)"),
], ids=str)
def test_what_cannot_be_stored_is_recomputed_to_the_tokens_of_its_generate(family: Family, reason: str) -> None:
    """Keys and values of two widths; a state in their place."""
    module = family.built()
    model = HuggingFaceModel.of(module)
    with pytest.raises(ValueError, match=f"its keys and values cannot be stored: .*{re.escape(reason)}"):
        begun(model, Append())
    decoder, requests = begun(model, Recompute())
    assert [completion.tokens for completion in decoder.decode(model, requests)] == [
        generated(module, prompt) for prompt in PROMPTS]
