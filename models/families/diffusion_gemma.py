"""DiffusionGemma for text (transformers' modeling_diffusion_gemma): Gemma 4's layers, as a causal encoder of what is
there and, with scales of their own, as a denoiser of a canvas of random tokens. Its images are not read."""

from collections.abc import Iterator
from dataclasses import replace

from ...kernels.moe_router import Routing
from ..config import ExpertShape, Shape, TransformerConfig
from .base import Attention, Description, Family, described, windowed_layers
from .fields import Fields
from .rotary import rope_of_table
from .tensor_names import Assignment, TensorNames, linear, whole

_GLOBAL_THETA, _LOCAL_THETA, _PATTERN, _FULL_HEAD_DIM, _LOGIT_CAP = 1_000_000.0, 10_000.0, 6, 512, 30.0
_UNREAD = "model.encoder.vision_tower", "model.encoder.embed_vision"
_ENCODER_SCALE = "model.encoder.language_model.layers.{layer}.layer_scalar"


class _Names(TensorNames):
    """The encoder has the denoiser's tensors but for its scales."""

    def assignments(self, config: TransformerConfig) -> Iterator[Assignment]:
        yield from super().assignments(config)
        width, ffn_width = config.shape.width, config.shape.ffn_width
        origin, target = "model.decoder.self_conditioning.", "self_conditioning."
        yield whole(f"{target}norm.weight", f"{origin}pre_norm.weight", (width,))
        gate_up = f"{origin}gate_proj", f"{origin}up_proj"
        yield from linear(f"{target}ffn.gate_up_proj", gate_up, ([ffn_width] * 2, width), has_bias=False)
        yield from linear(f"{target}ffn.down_proj", (f"{origin}down_proj",), ([width], ffn_width), has_bias=False)
        for layer in range(config.shape.num_layers):
            yield whole(f"blocks.{layer}.layer_scale_1", _ENCODER_SCALE.format(layer=layer), (1,))

    def _layer(self, shape: Shape, layer: int) -> Iterator[Assignment]:
        yield from super()._layer(shape, layer)
        experts, width = shape.experts, shape.width
        assert experts is not None
        yield whole("ffn.post_norm.weight", "post_feedforward_layernorm_1.weight", (width,))
        yield whole("ffn.experts_norm.weight", "pre_feedforward_layernorm_2.weight", (width,))
        yield whole("ffn.experts_post_norm.weight", "post_feedforward_layernorm_2.weight", (width,))
        num_experts, inner = experts.num_experts, experts.expert_width
        yield whole("ffn.router.weight", "router.proj.weight", (num_experts, width))
        yield whole("ffn.router.scale_E", "router.scale", (width,))
        yield whole("ffn.router.expert_scale_X", "router.per_expert_scale", (num_experts,))
        yield whole("ffn.gate_up_XGE", "experts.gate_up_proj", (num_experts, 2 * inner, width))
        yield whole("ffn.down_XEM", "experts.down_proj", (num_experts, width, inner))
        yield whole("denoiser_scale_1", "layer_scalar", (1,))


_NAMES = _Names(embedding="model.decoder.embed_tokens", norm="model.decoder.norm",
                layer="model.decoder.layers.{layer}.", ffn_norm="pre_feedforward_layernorm")


def _describe(fields: Fields) -> Description:
    fields.expect("tie_word_embeddings", True)  # of the embeddings, and of the encoder to the denoiser
    fields.inert("canvas_length", "boi_token_id", "eoi_token_id", "image_token_id", "vision_config",
                 "vision_soft_tokens_per_image")
    text = _required(fields, "text_config")
    text.expect("tie_word_embeddings", True)
    text.expect("hidden_activation", "gelu_pytorch_tanh")
    text.expect("use_bidirectional_attention", None, "vision")  # of an image's positions
    layers = windowed_layers(text, lambda layer: bool((layer + 1) % _PATTERN))
    if text.integer("num_hidden_layers") - 1 in layers:
        raise ValueError(f"{text.origin}: layer_types: must end with full_attention, which the model's code has there")
    text.expect("attention_bias", False)  # the encoder's and the denoiser's would be apart
    attention = Attention(qk_norm=True, window=text.integer("sliding_window"), windowed_layers=layers)
    experts = ExpertShape(text.integer("num_experts"), text.integer("moe_intermediate_size"),
                          Routing(text.integer("top_k_experts"), renormalise=True), beside_dense=True)
    rope = _required(text, "rope_parameters")
    full, local = (rope_of_table(rope.table(f"{kind}_attention"), text, theta)
                   for kind, theta in (("full", _GLOBAL_THETA), ("sliding", _LOCAL_THETA)))
    rope.check_all_read()
    if local[1] is not None:
        raise ValueError(f"{rope.origin}: sliding_attention with {local[1]}: must be of type default")
    found = described(text, attention, rope=full, is_tied=True, names=_NAMES)
    full_head_dim, full_kv_heads = _full_heads(text, layers)
    special_ids = {name: text.take(f"{name}_token_id", None) for name in ("bos", "eos", "pad")}
    width, logit_cap = found.config.shape.width, text.real("final_logit_softcapping", _LOGIT_CAP)
    text.check_all_read()
    shape = replace(
        found.config.shape, experts=experts, window_rope_theta=local[0], post_norms=True, float_norms=True, gelu=True,
        embedding_scale=width**0.5, attention_scale=1.0, full_head_dim=full_head_dim, full_kv_heads=full_kv_heads,
        values_from_keys=True, value_norm=True, layer_scales=True, denoiser=True,
        logit_cap=logit_cap)
    return replace(found, config=replace(found.config, shape=shape), special_ids=special_ids, unread=_UNREAD)


def _required(fields: Fields, name: str) -> Fields:
    table = fields.table(name)
    if table is None:
        raise ValueError(f"{fields.origin}: has no {name}, which the model needs")
    return table


def _full_heads(text: Fields, windowed: tuple[int, ...]) -> tuple[int, int | None]:
    """The width of heads, and the number of those of keys and values, in layers without a window."""
    listed = text.table("per_layer_config")
    if listed is None:
        return text.integer("global_head_dim", _FULL_HEAD_DIM), text.integer("num_global_key_value_heads", None)
    base = text.integer("head_dim"), text.integer("num_key_value_heads")
    kinds = dict[int, tuple[int, int]]()
    for layer in range(text.integer("num_hidden_layers")):
        heads, kinds[layer] = listed.table(str(layer)), base
        if heads is not None:
            kinds[layer] = heads.integer("head_dim", base[0]), heads.integer("num_key_value_heads", base[1])
            heads.check_all_read()
    listed.check_all_read()
    full = {kind for layer, kind in kinds.items() if layer not in windowed}
    if len(full) > 1 or any(kinds[layer] != base for layer in windowed):
        raise ValueError(f"{listed.origin}: must be the same for all layers of full_attention, and of no others")
    return full.pop()


DIFFUSION_GEMMA = Family(("DiffusionGemmaForBlockDiffusion",), _describe)
