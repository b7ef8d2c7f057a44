"""Models of transformers, tiny and random, against transformers' own generate, naive loops and our Transformer with the
same weights."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from quicksilver.decoders import (
    Append,
    BlockCausalCache,
    Blocks,
    Cache,
    ClassifierFree,
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
    Whole,
    Windows,
    presets,
)
from quicksilver.models import (
    AttentionPattern,
    Bidirectional,
    BlockCausal,
    Causal,
    DecodableTransformer,
    HuggingFaceModel,
    Shape,
    Transformer,
    TransformerConfig,
)

VOCAB_SIZE, MASK_ID, MAX_LENGTH = 23, 22, 24
AUTOREGRESSIVE = presets.autoregressive()
SIZES = {"vocab_size": VOCAB_SIZE, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "max_position_embeddings": MAX_LENGTH, "initializer_range": 0.5}


def llama(seed: int = 0, **settings: Any) -> Any:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(**SIZES, num_key_value_heads=2, bos_token_id=None, eos_token_id=None,
                                      pad_token_id=0, **settings)
    return transformers.LlamaForCausalLM(config).eval()


def bert(seed: int = 0, **settings: Any) -> Any:
    torch.manual_seed(seed)
    return transformers.BertForMaskedLM(transformers.BertConfig(**SIZES, **settings)).eval()


def albert() -> Any:
    """Its code knows no cache."""
    return transformers.AlbertForMaskedLM(transformers.AlbertConfig(**SIZES, embedding_size=16)).eval()


def prompts(seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, VOCAB_SIZE, (length,), generator=generator).tolist() for length in (3, 7, 1, 5)]


@pytest.mark.parametrize("cache", [Append(), Recompute()], ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_autoregression_is_transformers_greedy_generate(seed: int, cache: Cache) -> None:
    """Token for token, a ragged batch against each row alone, with transformers' own cache and without."""
    module = llama(seed)
    model = HuggingFaceModel.of(module)
    decoder = Decoder(Blocks(1), Linear(1), Greedy(), Leftmost(), cache)
    requests = [Request.completing(prompt, 12 - row, mask_id=model.spec.mask_id)
                for row, prompt in enumerate(prompts(seed))]
    for row, completion in enumerate(decoder.decode(model, requests)):
        prompt = torch.tensor([prompts(seed)[row]])
        for use_cache in (False, True):
            expected = module.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
                                       max_new_tokens=12 - row, use_cache=use_cache)
            assert completion.tokens == expected[0].tolist()


def test_a_row_stops_at_the_end_token_where_generate_does() -> None:
    module = llama()
    model, prompt = HuggingFaceModel.of(module), [3, 1, 4]
    request = Request.completing(prompt, 20, mask_id=model.spec.mask_id)
    end_id = AUTOREGRESSIVE.decode(model, [request])[0].completion[4]
    stopping = replace(AUTOREGRESSIVE, end_id=end_id)
    tokens = torch.tensor([prompt])
    expected = module.generate(tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=20,
                               eos_token_id=end_id)
    assert prompt + stopping.decode(model, [request])[0].completion == expected[0].tolist()


@torch.no_grad()
def naive_llada(module: Any, tokens: list[int], start: int, steps: int, block: int) -> list[int]:
    """LLaDA's algorithm 5 (arXiv 2502.09992) on a module's logits, the mask id banned."""
    tokens = list(tokens)
    for begin in range(start, len(tokens), block):
        window = range(begin, begin + block)
        masks = sum(tokens[i] == MASK_ID for i in window)
        for step in range(steps):
            logits = module(input_ids=torch.tensor([tokens])).logits[0]
            logits[:, MASK_ID] = -torch.inf
            p = logits.softmax(-1)
            masked = [i for i in window if tokens[i] == MASK_ID]
            for i in sorted(masked, key=lambda i: (-p[i].max().item(), i))[: masks // steps + (step < masks % steps)]:
                tokens[i] = int(p[i].argmax())
    return tokens


@pytest.mark.parametrize("seed", range(5))
def test_the_llada_setting_on_a_masked_model_is_lladas_algorithm(seed: int) -> None:
    """Infilling included; the ragged batch gives what each row gives alone."""
    module = bert(seed)
    model = HuggingFaceModel.of(module, mask_id=MASK_ID)
    assert (model.spec.pattern, model.spec.shift, model.spec.vocab_size) == (Bidirectional(), 0, VOCAB_SIZE)
    requests = [Request.completing([3, 1, 4], 12, mask_id=MASK_ID),
                Request.completing([1, 5, 9, 2, 6], 4, mask_id=MASK_ID),
                Request([7, MASK_ID, 2, MASK_ID, MASK_ID, 1, 8, MASK_ID])]
    for block, steps in ((4, 3), (4, 1)):
        decoder = Decoder(Blocks(block), Linear(steps), Greedy(), TopProbability(), Recompute())
        for request, completion in zip(requests, decoder.decode(model, requests), strict=True):
            assert completion.tokens == naive_llada(module, list(request.tokens), request.start, steps, block)


def twins(pattern: AttentionPattern, shift: int, seed: int = 0) -> tuple[DecodableTransformer, HuggingFaceModel]:
    """Our Transformer and a Llama with the same weights, which is given the pattern."""
    module = llama(seed)
    shape = Shape(width=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_width=48, position_table=False,
                  norm_eps=module.config.rms_norm_eps)
    ours = Transformer(TransformerConfig(VOCAB_SIZE, MAX_LENGTH, pattern, shape)).eval()
    theirs, names = module.state_dict(), {"embedding.weight": "model.embed_tokens", "norm.weight": "model.norm",
                                          "head.weight": "lm_head"}
    weights = {ours_name: theirs[f"{name}.weight"] for ours_name, name in names.items()}
    for number in range(2):
        layer, block = f"model.layers.{number}", f"blocks.{number}"
        for name, parts in {
            "attention.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "attention.o_proj": ("self_attn.o_proj",), "ffn.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
            "ffn.down_proj": ("mlp.down_proj",), "attention_norm": ("input_layernorm",),
            "ffn_norm": ("post_attention_layernorm",),
        }.items():
            weights[f"{block}.{name}.weight"] = torch.cat([theirs[f"{layer}.{part}.weight"] for part in parts])
    ours.load_state_dict(weights)
    return (DecodableTransformer(ours, MASK_ID, shift),
            HuggingFaceModel.of(module, mask_id=MASK_ID, shift=shift, pattern=pattern))


SERVED = [(Blocks(1), Append(), Causal(), 1), (GridBlocks(4), BlockCausalCache(), BlockCausal(4), 0),
          (GridBlocks(4), Recompute(), BlockCausal(4), 0), (Whole(), Recompute(), Bidirectional(), 1),
          *((Blocks(4), cache, Bidirectional(), shift) for cache in (Prefix(), Dual(), Vicinity(2, 1, 3))
            for shift in (0, 1)), (Blocks(4), Delayed(2), Bidirectional(), 0)]


@pytest.mark.parametrize(("windows", "cache", "pattern", "shift"), SERVED, ids=str)
def test_a_llama_with_our_weights_decodes_as_our_transformer_under_every_cache(
        windows: Windows, cache: Cache, pattern: AttentionPattern, shift: int) -> None:
    """Same tokens and log-probabilities to rounding on a ragged batch, and the same costs."""
    policy = Leftmost() if windows == Blocks(1) else TopProbability()
    decoder = Decoder(windows, Linear(1 if windows == Blocks(1) else 3), Greedy(), policy, cache)
    requests = [Request.completing([5, 1, 2, 7], 12, mask_id=MASK_ID), Request.completing([3] * 8, 8, mask_id=MASK_ID),
                Request.completing([9, 8, 7, 6], 4, mask_id=MASK_ID)]
    found = []
    for model in twins(pattern, shift):
        decoding = decoder.begin(model, requests)
        for _ in decoder.stream(decoding):
            pass
        decoder.completions(decoding)
        found.append((decoding.full, decoding.accounting.to_json(model)))
    (ours, our_costs), (theirs, their_costs) = found
    assert theirs.tokens_BS.tolist() == ours.tokens_BS.tolist()
    torch.testing.assert_close(theirs.log_prob_BS, ours.log_prob_BS, rtol=1e-3, atol=1e-4)
    assert their_costs == our_costs


def test_a_causal_model_needs_no_mask_id_and_never_decides_on_one() -> None:
    model = HuggingFaceModel.of(llama())
    assert model.spec.mask_id == VOCAB_SIZE
    assert model.spec.vocab_size == VOCAB_SIZE + 1
    assert model.logits(torch.randn(1, 2, 32))[..., VOCAB_SIZE].eq(-torch.inf).all()
    named = HuggingFaceModel.of(llama(), mask_id=4)
    assert named.spec.vocab_size == VOCAB_SIZE
    completion = AUTOREGRESSIVE.decode(named, [Request.completing([1, 2], 20, mask_id=4)])[0].completion
    assert 4 not in completion


@pytest.mark.parametrize("module", [
    lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=8)),
    lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=VOCAB_SIZE, n_embd=32, n_layer=2, n_head=4, n_positions=MAX_LENGTH, bos_token_id=1, eos_token_id=1)),
    lambda: transformers.MistralForCausalLM(transformers.MistralConfig(**SIZES, num_key_value_heads=2)),
], ids=["Qwen3", "GPT-2", "Mistral"])
def test_storing_changes_nothing_for_other_causal_models(module: Any) -> None:
    model = HuggingFaceModel.of(module().eval())
    requests = [Request.completing(prompt, 24 - len(prompt), mask_id=model.spec.mask_id) for prompt in prompts(1)]
    everything = Decoder(Blocks(1), Linear(1), Greedy(), Leftmost(), Recompute())
    assert AUTOREGRESSIVE.decode(model, requests) == everything.decode(model, requests)


def test_what_a_model_sees_is_measured() -> None:
    assert HuggingFaceModel.of(bert(is_decoder=True), mask_id=MASK_ID).spec.pattern == Causal()
    assert HuggingFaceModel.of(llama(), pattern=BlockCausal(4), mask_id=MASK_ID).spec.shift == 0


def test_16_bit_weights_are_served() -> None:
    model = HuggingFaceModel.of(llama().to(torch.bfloat16), mask_id=MASK_ID, pattern=Bidirectional())
    decoder = Decoder(Blocks(4), Linear(2), Greedy(), TopProbability(), Dual())
    request = Request.completing([1, 2, 3], 8, mask_id=MASK_ID)
    decoding = decoder.begin(model, [request])
    for _ in decoder.stream(decoding):
        pass
    assert MASK_ID not in decoder.completions(decoding)[0].tokens
    assert decoding.accounting.kv_store_bytes == 2 * 2 * 12 * 2 * 8 * 2


def test_a_mask_token_and_a_length_are_read_from_the_config() -> None:
    module = bert()
    module.config.mask_token_id = 7
    model = HuggingFaceModel.of(module)
    assert (model.spec.mask_id, model.spec.max_length) == (7, MAX_LENGTH)
    assert HuggingFaceModel.of(module, max_length=9, mask_id=3).spec.max_length == 9
    with pytest.raises(ValueError, match="a canvas of 10 tokens: the model's max_length is 9"):
        Decoder(Whole(), Linear(1), Greedy(), TopProbability(), Recompute()).begin(
            HuggingFaceModel.of(module, max_length=9), [Request([7] * 10)])


def t5() -> Any:
    return transformers.T5ForConditionalGeneration(transformers.T5Config(
        vocab_size=VOCAB_SIZE, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)).eval()


def gemma() -> Any:
    return transformers.Gemma2ForCausalLM(transformers.Gemma2Config(
        **SIZES, num_key_value_heads=2, head_dim=8, pad_token_id=0)).eval()


@pytest.mark.parametrize(("module", "arguments", "message"), [
    (lambda: llama().train(), {}, "is in training mode"),
    (t5, {}, "is an encoder-decoder"),
    (gemma, {}, "its logits are not its output embedding of its hidden states"),
    (bert, {}, "its config has no mask_token_id; give mask_id"),
    (bert, {"mask_id": VOCAB_SIZE}, f"mask_id={VOCAB_SIZE}"),
    (llama, {"mask_id": VOCAB_SIZE + 1}, f"mask_id={VOCAB_SIZE + 1}"),
    (llama, {"shift": 2}, "shift=2"),
    (lambda: llama().model, {}, "its logits with LogitsFunction"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_a_model_that_does_not_fit_is_refused(module: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HuggingFaceModel.of(module(), **arguments)


@pytest.mark.parametrize(("windows", "cache", "message"), [
    (Blocks(4), Dual(), "its keys and values cannot be stored: AdditiveMask: it passes no keys to a cache"),
    (GridBlocks(4), BlockCausalCache(), "cache BlockCausalCache.* needs a block-causal model"),
    (Blocks(1), Append(), "cache Append.* needs a causal next-token model"),
], ids=str)
def test_a_cache_that_a_masked_model_cannot_serve_is_refused(windows: Windows, cache: Cache, message: str) -> None:
    model = HuggingFaceModel.of(albert(), mask_id=MASK_ID)
    decoder = Decoder(windows, Linear(1), Greedy(), TopProbability(), cache)
    with pytest.raises(ValueError, match=message):
        decoder.begin(model, [Request.completing([1], 8, mask_id=MASK_ID)])


def rope(**parameters: Any) -> dict[str, Any]:
    """A config's RoPE settings, under the name of both ends of our range."""
    name = "rope_parameters" if int(transformers.__version__.split(".")[0]) >= 5 else "rope_scaling"
    return {name: {"rope_theta": 1e4, **parameters}}


def mistral(**settings: Any) -> Any:
    return transformers.MistralForCausalLM(transformers.MistralConfig(
        **SIZES, num_key_value_heads=2, **settings)).eval()


def gpt_neo(window: int, max_length: int, kinds: list[str]) -> Any:
    return transformers.GPTNeoForCausalLM(transformers.GPTNeoConfig(
        vocab_size=VOCAB_SIZE, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=48,
        attention_types=[[kinds, 1]], window_size=window, max_position_embeddings=max_length,
        initializer_range=0.5)).eval()


def phi3(original: int) -> Any:
    scaled = rope(rope_type="longrope", short_factor=[1.0] * 4, long_factor=[4.0] * 4, factor=2.0,
                  original_max_position_embeddings=original)
    return transformers.Phi3ForCausalLM(transformers.Phi3Config(
        **SIZES, num_key_value_heads=2, pad_token_id=0, original_max_position_embeddings=original, **scaled)).eval()


@pytest.mark.parametrize(("module", "lengths", "message"), [
    (lambda: mistral(sliding_window=8), (1, 9), "its layers do not all have full attention"),
    (lambda: gpt_neo(4, MAX_LENGTH, ["global", "local"]), (3, 14), "its layers do not all have full attention"),
    (lambda: gpt_neo(256, 320, ["global", "local"]), (10, 300), "its layers do not all have full attention"),
    (lambda: phi3(12), (3, 8), "a longer row in the batch changes the outputs of a shorter one"),
], ids=["Mistral", "GPT-Neo", "GPT-Neo, long", "Phi-3"])
def test_what_lengths_change_is_recomputed_only(module: Any, lengths: tuple[int, ...], message: str) -> None:
    """Windows, and positions that are others in a longer sequence: no cache; the tokens are generate's."""
    torch.manual_seed(0)
    module = module()
    model = HuggingFaceModel.of(module)
    requests = [Request.completing([1 + place % 7 for place in range(length)], 10, mask_id=model.spec.mask_id)
                for length in lengths]
    with pytest.raises(ValueError, match=message):
        AUTOREGRESSIVE.begin(model, requests)
    everything = Decoder(Blocks(1), Linear(1), Greedy(), Leftmost(), Recompute())
    for request, completion in zip(requests, everything.decode(model, requests), strict=True):
        prompt = torch.tensor([request.tokens[: request.start]])
        expected = module.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=10,
                                   eos_token_id=None, pad_token_id=0, use_cache=False)
        assert completion.tokens == expected[0].tolist()


@pytest.mark.parametrize("module", [
    lambda: mistral(sliding_window=MAX_LENGTH), lambda: gpt_neo(4, MAX_LENGTH, ["global", "global"]),
    lambda: llama(**rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=6)),
    lambda: llama(**rope(rope_type="dynamic", factor=4.0)),
], ids=["as long a window", "a window of no layer", "YaRN", "dynamic up to its length"])
def test_what_changes_no_answer_is_served(module: Any) -> None:
    assert not isinstance(HuggingFaceModel.of(module()).cache, str)


def roberta(**settings: Any) -> Any:
    return transformers.RobertaForMaskedLM(transformers.RobertaConfig(**SIZES | settings)).eval()


@pytest.mark.parametrize(("module", "length"), [
    (roberta, MAX_LENGTH - 2), (lambda: roberta(pad_token_id=4), MAX_LENGTH - 5), (bert, MAX_LENGTH),
    (lambda: transformers.MPNetForMaskedLM(transformers.MPNetConfig(**SIZES)).eval(), MAX_LENGTH - 2),
    (lambda: transformers.CamembertForMaskedLM(transformers.CamembertConfig(**SIZES)).eval(), MAX_LENGTH - 2),
    (lambda: transformers.LongformerForMaskedLM(transformers.LongformerConfig(
        **SIZES, attention_window=[4, 4])).eval(), MAX_LENGTH - 2),
], ids=["RoBERTa", "RoBERTa, pad 4", "BERT", "MPNet", "CamemBERT", "Longformer"])
def test_the_length_is_what_the_module_takes_whatever_its_config_says(module: Any, length: int) -> None:
    model = HuggingFaceModel.of(module(), mask_id=MASK_ID)
    decoder = Decoder(Whole(), Linear(2), Greedy(), TopProbability(), Recompute())
    assert model.spec.max_length == length
    assert MASK_ID not in decoder.decode(model, [Request([7] * (length - 3) + [MASK_ID] * 3)])[0].tokens
    with pytest.raises(ValueError, match=f"a canvas of {length + 1} tokens"):
        decoder.begin(model, [Request([MASK_ID] * (length + 1))])
    with pytest.raises(ValueError, match=f"max_length={length + 1}"):
        HuggingFaceModel.of(module(), mask_id=MASK_ID, max_length=length + 1)


def test_positions_told_to_a_module_count_from_where_it_counts() -> None:
    """RoBERTa's first position is row 2 of its table, with a mask from outside as without."""
    model = HuggingFaceModel.of(roberta(), mask_id=MASK_ID, pattern=BlockCausal(4))
    assert getattr(model.hf_mask, "first_id", None) == 2
    assert not isinstance(model.cache, str)


@pytest.mark.parametrize("compiled", [
    "of", *(pytest.param(way, marks=pytest.mark.slow) for way in ("in place", "its forward"))])
def test_a_compiled_module_is_decoded_as_the_module(compiled: str) -> None:
    module: Any = llama()
    plain = llama()
    if compiled == "of":
        module = torch.compile(module)
    elif compiled == "in place":
        module.compile()
    else:
        module.forward = torch.compile(module.forward)
    model = HuggingFaceModel.of(module)
    requests = [Request.completing(prompt, 6, mask_id=model.spec.mask_id) for prompt in prompts(0)]
    assert AUTOREGRESSIVE.decode(model, requests) == AUTOREGRESSIVE.decode(HuggingFaceModel.of(plain), requests)


def test_threads_share_one_model() -> None:
    """Each call gives what it gives alone, however often the threads take turns."""
    models = [HuggingFaceModel.of(llama()), HuggingFaceModel.of(bert(), mask_id=MASK_ID)]
    confident = Decoder(Blocks(4), Linear(2), Greedy(), TopProbability(), Recompute())
    work = [(decoder, model, [Request.completing(prompt, 4 + 4 * (number % 2), mask_id=model.spec.mask_id)])
            for number in range(6) for decoder, model in zip((AUTOREGRESSIVE, confident), models, strict=True)
            for prompt in prompts(number)[:1]]
    alone = [decoder.decode(model, requests) for decoder, model, requests in work]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as threads:
            together = list(threads.map(lambda item: item[0].decode(*item[1:]), work * 4))
    finally:
        sys.setswitchinterval(interval)
    assert together == alone * 4


@pytest.mark.parametrize(("change", "message"), [
    (lambda module: module.train(), "is in training mode; call its eval"),
    (lambda module: module.model.layers[1].mlp.train(), "is in training mode; call its eval"),
    (lambda module: module.to(torch.bfloat16), "has changed since it was wrapped .dtype from torch.float32 to"),
    (lambda module: module.resize_token_embeddings(VOCAB_SIZE + 9), f"vocab_size from {VOCAB_SIZE} to "),
    (lambda module: module.set_attn_implementation("eager"), "attention from sdpa to eager"),
], ids=["train", "a part's train", "dtype", "tokens", "attention"])
def test_what_changed_since_it_was_wrapped_is_refused_where_a_decode_begins(change: Any, message: str) -> None:
    module = llama()
    model = HuggingFaceModel.of(module)
    request = Request.completing([1, 2], 3, mask_id=model.spec.mask_id)
    AUTOREGRESSIVE.begin(model, [request])
    change(module)
    with pytest.raises(ValueError, match=message):
        AUTOREGRESSIVE.begin(model, [request])


def test_a_resized_module_is_served() -> None:
    module = llama()
    module.resize_token_embeddings(VOCAB_SIZE + 9)  # whose new head is in training mode
    model = HuggingFaceModel.of(module)
    assert AUTOREGRESSIVE.decode(model, [Request.completing([1, 2], 3, mask_id=model.spec.mask_id)])


def test_guidance_needs_a_mask_token() -> None:
    guided = Decoder(Blocks(1), Linear(1), Greedy(), Leftmost(), Recompute(), guidance=ClassifierFree(1.5))
    model = HuggingFaceModel.of(llama())
    with pytest.raises(ValueError, match="has no mask token, which guidance needs"):
        guided.begin(model, [Request.completing([1, 2], 3, mask_id=model.spec.mask_id)])
    with_mask = HuggingFaceModel.of(llama(), mask_id=4)
    assert guided.decode(with_mask, [Request.completing([1, 2], 3, mask_id=4)])


@pytest.mark.parametrize("pad", [1, 2, VOCAB_SIZE // 2])
def test_a_models_special_tokens_are_no_reason_to_refuse_it(pad: int) -> None:
    """RoBERTa gives padding no position of its own."""
    assert HuggingFaceModel.of(roberta(pad_token_id=pad), mask_id=MASK_ID).spec.pattern == Bidirectional()
    assert not isinstance(HuggingFaceModel.of(mistral(pad_token_id=pad)).cache, str)


def test_the_adapter_does_not_import_transformers() -> None:
    code = "import sys, quicksilver.models; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
