"""DiffusionGemma's variants equal transformers' own, as encoder and as denoiser, and its published rule on our forwards
gives the tokens of its generate."""

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from quicksilver.decoders import generate, presets
from quicksilver.models import (
    Causal,
    DecodableTransformer,
    LoadedModel,
    Plan,
    Transformer,
    TransformerConfig,
    load,
    save,
)
from quicksilver.models.families import describe
from quicksilver.models.layers import FloatRMSNorm
from torch import Tensor, nn

if not hasattr(transformers, "DiffusionGemmaConfig"):
    pytest.skip(f"transformers {transformers.__version__} has no DiffusionGemma, 5.13 does", allow_module_level=True)

FORWARD = inspect.signature(transformers.DiffusionGemmaForBlockDiffusion.forward).parameters
# As versions call it.
CACHE = "cache" if "cache" in FORWARD else "past_key_values"
VOCABULARY, CANVAS, WINDOW, PROMPT = 97, 8, 6, 30
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "head_dim": 16,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 640, "sliding_window": WINDOW,
    "num_experts": 6, "top_k_experts": 2, "moe_intermediate_size": 20, "global_head_dim": 24,
    "num_global_key_value_heads": 1, "layer_types": ["sliding_attention", "full_attention", "full_attention"],
}
VISION = {"model_type": "gemma4_vision", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
          "head_dim": 8, "num_attention_heads": 2, "num_key_value_heads": 2, "patch_size": 4,
          "position_embedding_size": 16}
ROPE = {"full_attention": {"rope_type": "proportional", "rope_theta": 50_000.0, "partial_rotary_factor": 0.5,
                           "factor": 2.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 5_000.0}}
PUBLISHED: dict[str, Any] = {
    "architectures": ["DiffusionGemmaForBlockDiffusion"], "model_type": "diffusion_gemma", "canvas_length": 256,
    "eos_token_id": [1, 106, 50], "boi_token_id": 255999, "eoi_token_id": 258882, "image_token_id": 258880,
    "tie_word_embeddings": True, "vision_soft_tokens_per_image": 280, "vision_config": {"num_hidden_layers": 27},
    "text_config": {
        "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 2, "dtype": "bfloat16", "eos_token_id": 1,
        "final_logit_softcapping": 30.0, "global_head_dim": 512, "head_dim": 256, "hidden_size": 2816,
        "hidden_activation": "gelu_pytorch_tanh", "initializer_range": 0.02, "intermediate_size": 2112,
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 5, "max_position_embeddings": 262144,
        "model_type": "diffusion_gemma_text", "moe_intermediate_size": 704, "num_attention_heads": 16,
        "num_experts": 128, "num_global_key_value_heads": 2, "num_hidden_layers": 30, "num_key_value_heads": 8,
        "pad_token_id": 0, "rms_norm_eps": 1e-06, "sliding_window": 1024, "tie_word_embeddings": True,
        "top_k_experts": 8, "use_bidirectional_attention": "vision", "vocab_size": 262144,
        "rope_parameters": {
            "full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0, "rope_type": "proportional"},
            "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"}}}}


@dataclass(frozen=True)
class Variant:
    """Values of the text's configuration that are not TEXT's."""

    values: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.values.items()) or "plain"

    def saved(self, folder: Path) -> Any:
        """The model with random weights, scales and norms, also in `folder`. Those of queries and keys make up for
        attention's scale of 1, without which it would see one key alone."""
        torch.manual_seed(0)
        text = transformers.DiffusionGemmaTextConfig(**TEXT | self.values)
        config = transformers.DiffusionGemmaConfig(text_config=text, vision_config=VISION, canvas_length=CANVAS)
        model = transformers.DiffusionGemmaForBlockDiffusion(config).eval()
        scales = (named for named in model.named_buffers() if named[0].endswith("layer_scalar"))
        with torch.no_grad():
            for name, tensor in (*model.named_parameters(), *scales):
                if tensor.ndim > 1:
                    nn.init.normal_(tensor, std=tensor.shape[-1] ** -0.5)
                else:
                    mean = len(tensor) ** -0.25 if name.endswith(("q_norm.weight", "k_norm.weight")) else 1
                    nn.init.normal_(tensor, mean=mean, std=0.3 * mean)
        model.save_pretrained(folder)
        return model


VARIANTS = [
    Variant(),
    Variant({"num_hidden_layers": 6, "layer_types": None, "sliding_window": 300,
             "num_global_key_value_heads": None, "global_head_dim": 272}),
    Variant({"rope_parameters": ROPE, "global_head_dim": 16, "top_k_experts": 3, "final_logit_softcapping": 2.0,
             "use_bidirectional_attention": "vision"}),
]


def drawn(*size: int, seed: int = 1) -> Tensor:
    return torch.randint(0, VOCABULARY, size, generator=torch.Generator().manual_seed(seed))


def difference(found: Tensor, wanted: Tensor) -> float:
    """The largest, of which the largest logit is 1."""
    return float((found - wanted).abs().max() / wanted.abs().max())


@dataclass
class Ours:
    """Our forwards, with a store that grows by what is encoded."""

    loaded: LoadedModel
    num_rows: int

    def __post_init__(self) -> None:
        self.store, self.length = self.loaded.model.new_store(self.num_rows, 100), 0

    def encode(self, tokens_BF: Tensor) -> Tensor:
        """Logits of the next tokens; the keys and values are stored."""
        end = self.length + tokens_BF.shape[1]
        feed_BF = torch.arange(self.length, end).expand(self.num_rows, -1).contiguous()
        tokens_BS = torch.zeros(self.num_rows, 101, dtype=torch.int64).scatter(1, feed_BF, tokens_BF)
        plan, self.length = Plan(feed_BF, reads_BQ=feed_BF + 1, context=end), end
        return self.loaded.model.logits(self.loaded.model.hidden(tokens_BS, plan, self.store))

    def denoise(self, canvas_BF: Tensor, logits_BFV: Tensor | None = None) -> Tensor:
        hidden_BFE = self.loaded.model.transformer.denoised(canvas_BF, self.length, self.store, logits_BFV)
        return self.loaded.model.logits(hidden_BFE)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@torch.no_grad()
def test_its_logits_are_those_of_transformers_and_it_is_saved_whole(variant: Variant, tmp_path: Path) -> None:
    theirs, said = variant.saved(tmp_path), list[str]()
    loaded = load(tmp_path, say=said.append)
    assert "16 tensors of model.encoder.vision_tower, model.encoder.embed_vision not read" in said[0]
    cap = variant.values.get("final_logit_softcapping", 30.0)
    cache, ours = None, Ours(loaded, 2)
    encoded = drawn(2, PROMPT)
    for part in encoded.split((PROMPT - CANVAS, CANVAS), dim=1):
        canvas = drawn(2, CANVAS, seed=part.shape[1])
        first = theirs(input_ids=part, decoder_input_ids=canvas, **{CACHE: cache})
        cache = getattr(first, CACHE)
        product = theirs.lm_head(first.encoder_last_hidden_state)
        assert difference(ours.encode(part), cap * (product / cap).tanh()) < 1e-5
        assert difference(ours.denoise(canvas), first.logits) < 1e-5
        second = theirs(decoder_input_ids=canvas, self_conditioning_logits=first.logits / 0.4, **{CACHE: cache})
        assert difference(ours.denoise(canvas, first.logits / 0.4), second.logits) < 1e-5
        assert difference(first.logits, second.logits) > 1e-3
    save(loaded, tmp_path / "again")
    before = theirs.state_dict()
    after = transformers.DiffusionGemmaForBlockDiffusion.from_pretrained(tmp_path / "again").state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@torch.no_grad()
def by_published_rule(ours: Ours, prompt_BL: Tensor, num_canvases: int, options: dict[str, Any]) -> Tensor:
    """`generate` of transformers' DiffusionGemma without an end token, with its draws in their order: those of tokens
    whose entropies' sum before each is within the bound stay, the others are drawn anew."""
    steps, (least, most) = options["max_denoising_steps"], (options["t_min"], options["t_max"])
    sequence_BL, unread_BF = prompt_BL, prompt_BL
    for _ in range(num_canvases):
        ours.encode(unread_BF)
        canvas_BF = torch.randint(0, VOCABULARY, (len(prompt_BL), CANVAS))
        best_BF, logits_BFV, ended_B = canvas_BF, None, torch.zeros(len(prompt_BL), 1, dtype=torch.bool)
        for step in range(steps, 0, -1):
            found_BFV = ours.denoise(canvas_BF, logits_BFV) / (least + (most - least) * (step / steps))
            token_BF = found_BFV.softmax(-1).flatten(0, 1).multinomial(1).view_as(canvas_BF)
            entropy_BF = torch.distributions.Categorical(logits=found_BFV).entropy()
            sorted_BF, place_BF = entropy_BF.sort(dim=-1)
            stays_BF = torch.zeros_like(ended_B.expand(-1, CANVAS)).scatter(
                1, place_BF, sorted_BF.cumsum(-1) - sorted_BF <= options["sampler_config"].entropy_bound)
            noise_BF = torch.randint(0, VOCABULARY, canvas_BF.shape)
            canvas_BF = torch.where(ended_B, canvas_BF, torch.where(stays_BF, token_BF, noise_BF))
            before_BF, best_BF = best_BF, torch.where(ended_B, best_BF, found_BFV.argmax(-1))
            logits_BFV = found_BFV if logits_BFV is None else torch.where(ended_B[..., None], logits_BFV, found_BFV)
            is_stable_B1 = (best_BF == before_BF).all(1, keepdim=True) & (step < steps)
            mean_B1 = torch.distributions.Categorical(logits=logits_BFV).entropy().mean(1, keepdim=True)
            ended_B = ended_B | (is_stable_B1 & (mean_B1 < options["confidence_threshold"]))
            if ended_B.all():
                break
        sequence_BL, unread_BF = torch.cat((sequence_BL, best_BF), 1), best_BF
    return sequence_BL


def test_its_published_rule_on_our_forwards_gives_its_tokens(tmp_path: Path) -> None:
    theirs, prompt = Variant().saved(tmp_path), drawn(2, 11)
    options = {"max_denoising_steps": 12, "t_min": 0.05, "t_max": 0.1, "confidence_threshold": 4.0,
               "sampler_config": transformers.models.diffusion_gemma.EntropyBoundSamplerConfig(entropy_bound=2.0)}
    torch.manual_seed(3)
    wanted = theirs.generate(prompt, max_new_tokens=3 * CANVAS, eos_token_id=None, **options)
    assert wanted.tokens_per_forward.max() > CANVAS / 12  # a canvas ended before its last step
    torch.manual_seed(3)
    found = by_published_rule(Ours(load(tmp_path, say=lambda line: None), 2), prompt, 3, options)
    assert found.tolist() == wanted.sequences.tolist()


def test_the_engine_says_why_it_cannot_decode_it(tmp_path: Path) -> None:
    Variant().saved(tmp_path)
    loaded = load(tmp_path, say=lambda line: None)
    with pytest.raises(ValueError, match="no decoder that renoises tokens uniformly"):
        generate(loaded.model, presets.autoregressive(), [[1, 2]], num_new=4)


def test_the_published_configuration_is_read() -> None:
    description = describe(PUBLISHED, "config.json")
    config = description.config
    assert isinstance(config.attention, Causal)
    assert description.special_ids == {"bos": 2, "eos": [1, 106, 50], "pad": 0}
    assert [tuple(config.shape.heads_of(layer)) for layer in (0, 5)] == [(16, 8, 256, False), (16, 2, 512, True)]
    assert config.kv_bytes_per_position(2) == 2 * 2 * (25 * 8 * 256 + 5 * 2 * 512)
    experts = 30 * 128 * 3 * 2816 * 704
    dense = 30 * 2816 * (3 * 2112 + 128) + 2816 * (25 * 256 * (2 * 16 + 2 * 8) + 5 * 512 * (2 * 16 + 2))
    assert config.num_matrix_parameters() == experts + dense
    assert config.num_active_matrix_parameters() == experts // 16 + dense


@pytest.mark.parametrize(("changes", "text", "reason"), [
    ({"tie_word_embeddings": False}, {}, "tie_word_embeddings=False: must be True"),
    ({"text_config": None}, {}, "has no text_config"),
    ({}, {"rope_parameters": None}, "text_config: has no rope_parameters"),
    ({}, {"use_bidirectional_attention": "all"}, "use_bidirectional_attention='all'"),
    ({}, {"attention_bias": True}, "attention_bias=True: must be False"),
    ({}, {"hidden_activation": "silu"}, "hidden_activation='silu'"),
    ({}, {"layer_types": ["sliding_attention"] * 30}, "must end with full_attention"),
    ({}, {"per_layer_config": {"0": {"head_dim": 512}}}, "must be the same for all layers of full_attention"),
    ({}, {"per_layer_config": {"5": {"head_dim": 512}}}, "must be the same for all layers of full_attention"),
    ({}, {"attention_k_eq_v": True}, "attention_k_eq_v: unknown to this family"),
], ids=str)
def test_what_computes_otherwise_is_refused(changes: dict[str, Any], text: dict[str, Any], reason: str) -> None:
    values = PUBLISHED | {"text_config": PUBLISHED["text_config"] | text} | changes
    with pytest.raises(ValueError, match=reason):
        describe(values, "config.json")


def test_a_norm_multiplies_by_its_weight_before_it_rounds() -> None:
    theirs: Any = transformers.models.gemma4.modeling_gemma4.Gemma4RMSNorm(64, eps=1e-6).to(torch.bfloat16)
    nn.init.normal_(theirs.weight)
    ours = FloatRMSNorm(64, 1e-6).to(torch.bfloat16)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(5, 64).to(torch.bfloat16)
    assert torch.equal(ours(x, None)[0], theirs(x))


def test_a_model_without_a_denoiser_does_not_denoise() -> None:
    model = DecodableTransformer(Transformer(TransformerConfig(VOCABULARY, CANVAS, Causal())), VOCABULARY)
    with pytest.raises(ValueError, match="denoiser=False"):
        model.transformer.denoised(drawn(1, CANVAS), 0, model.new_store(1, CANVAS))
