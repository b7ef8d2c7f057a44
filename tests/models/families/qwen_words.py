"""Tiny checkpoints in the words that Dream, Fast-dLLM, SDAR and LLaDA-MoE share with Qwen, and plain models of them."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from tests.models.families.plain import Network, PlainLayer, PlainMixture, PlainModel, SoftmaxChoice, Swiglu
from tests.models.families.remote_code import MAX_LENGTH, VOCAB_SIZE, within

Shapes = dict[str, tuple[int, ...]]
SIZE: dict[str, Any] = {
    "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": 32, "initializer_range": 0.02,
    "max_position_embeddings": MAX_LENGTH, "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000.0, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "use_cache": False, "vocab_size": VOCAB_SIZE,
}


def head_width(config: dict[str, Any]) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def attention_shapes(config: dict[str, Any], biased: str = "", *, has_norms: bool = False) -> Shapes:
    """Of a layer, without what is fed forward; biases of the products whose letters are in `biased`."""
    width, head = config["hidden_size"], head_width(config)
    heads = dict(zip("qkv", (config["num_attention_heads"], *[config["num_key_value_heads"]] * 2), strict=True))
    shapes: Shapes = {f"self_attn.{name}_proj.weight": (number * head, width) for name, number in heads.items()}
    shapes |= {"self_attn.o_proj.weight": (width, heads["q"] * head)}
    shapes |= {f"self_attn.{name}_proj.bias": shapes[f"self_attn.{name}_proj.weight"][:1] for name in biased}
    shapes |= {f"{name}_layernorm.weight": (width,) for name in ("input", "post_attention")}
    return shapes | ({f"self_attn.{name}_norm.weight": (head,) for name in "qk"} if has_norms else {})


def swiglu_shapes(prefix: str, width: int, inner: int) -> Shapes:
    return {f"{prefix}gate_proj.weight": (inner, width), f"{prefix}up_proj.weight": (inner, width),
            f"{prefix}down_proj.weight": (width, inner)}


def mixture_shapes(config: dict[str, Any], inner: int) -> Shapes:
    shapes: Shapes = {"mlp.gate.weight": (config["num_experts"], config["hidden_size"])}
    for expert in range(config["num_experts"]):
        shapes |= swiglu_shapes(f"mlp.experts.{expert}.", config["hidden_size"], inner)
    return shapes


def model_shapes(config: dict[str, Any], layers: list[Shapes]) -> Shapes:
    table = config["vocab_size"], config["hidden_size"]
    shapes: Shapes = {"model.embed_tokens.weight": table, "model.norm.weight": table[1:]}
    shapes |= {} if config["tie_word_embeddings"] else {"lm_head.weight": table}
    return shapes | {f"model.layers.{number}.{name}": shape for number, layer in enumerate(layers)
                     for name, shape in layer.items()}


def swiglu(held: dict[str, Tensor], prefix: str = "mlp.") -> Swiglu:
    return Swiglu(*(held[f"{prefix}{name}_proj.weight"] for name in ("gate", "up", "down")))


def softmax_mixture(held: dict[str, Tensor], choose: SoftmaxChoice) -> PlainMixture:
    """With the shared expert of LLaDA-MoE, where the layer has one."""
    router = held["mlp.gate.weight"]
    experts: list[Network] = [swiglu(held, f"mlp.experts.{expert}.") for expert in range(len(router))]
    shared = swiglu(held, "shared_expert.") if "shared_expert.up_proj.weight" in held else None
    return PlainMixture(router, experts, choose, shared)


def plain_layer(held: dict[str, Tensor], ffn: Network) -> PlainLayer:
    q, k, v = (within(held, f"self_attn.{name}_proj.") for name in "qkv")
    biases = (q["bias"], k["bias"], v["bias"]) if "bias" in q else None
    norms = within(held, "self_attn.")
    return PlainLayer(
        held["input_layernorm.weight"], (q["weight"], k["weight"], v["weight"]), held["self_attn.o_proj.weight"],
        held["post_attention_layernorm.weight"], ffn, biases, held.get("self_attn.o_proj.bias"),
        (norms["q_norm.weight"], norms["k_norm.weight"]) if "q_norm.weight" in norms else None)


def plain_model(config: dict[str, Any], weights: dict[str, Tensor], ffn: Callable[[dict[str, Tensor]], Network],
                sees: Callable[[int], Tensor]) -> PlainModel:
    held = [within(weights, f"model.layers.{number}.") for number in range(config["num_hidden_layers"])]
    embedding = weights["model.embed_tokens.weight"]
    return PlainModel(embedding, [plain_layer(layer, ffn(layer)) for layer in held], weights["model.norm.weight"],
                      weights.get("lm_head.weight", embedding), num_heads=config["num_attention_heads"],
                      head_width=head_width(config), theta=config["rope_theta"], eps=config["rms_norm_eps"],
                      rotated=head_width(config), sees=sees)
