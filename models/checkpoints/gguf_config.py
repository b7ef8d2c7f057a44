"""What the config.json of a model would hold, from the values of its GGUF file."""

import math
from typing import Any

from .gguf_architectures import Architecture
from .gguf_header import StoredTensor, blocks_of
from .gguf_keys import Keys
from .gguf_types import values_of

_ROPE_DIVISORS = "rope_freqs.weight"
_SOFTMAX = 1  # ggml's number of the function that scores experts


def config_of(keys: Keys, architecture: Architecture) -> dict[str, Any]:
    """The fields of its family, and under their own keys the values that are unknown here, for the family to refuse.
    ValueError names the key that is missing, of another type, out of range or unlike the tensors."""
    own = keys.own
    keys.expect("general.type", "model")
    if keys.short("split.count", 0) > 1:
        raise ValueError(f"{keys.path}: split.count: a part of a split file, which is not read; join its parts first")
    keys.short("split.no", 0)
    keys.signed("split.tensors.count", 0)
    keys.expect(own("attention.causal"), architecture.is_causal)
    keys.expect("diffusion.shift_logits", architecture.shifts)
    config = {"architectures": [architecture.published], "model_type": architecture.model_type}
    config |= _shape(keys) | _experts(keys, architecture)
    config |= {field: f"blk.0.{layer}.bias" in keys.header.tensors for field, layer in architecture.biases}
    names = {"bos": "bos", "eos": "eos", "padding": "pad"} | ({} if architecture.is_causal else {"mask": "mask"})
    ids = {to: keys.integer(f"tokenizer.ggml.{name}_token_id", None, at_least=0) for name, to in names.items()}
    config |= {f"{name}_token_id": found for name, found in ids.items() if found is not None}
    keys.flag(own("rope.scaling.finetuned"), False)  # says how the model came to be
    config = {architecture.words.get(name, name): value for name, value in config.items()}
    return config | dict(architecture.constants) | keys.unread()


def _shape(keys: Keys) -> dict[str, Any]:
    own, tensors = keys.own, keys.header.tensors
    width, (heads, kv_heads) = keys.integer(own("embedding_length")), keys.heads()
    head_dim = keys.integer(own("attention.key_length"), None)
    if head_dim is None and width % heads:
        raise ValueError(f"{keys.path}: {own('attention.head_count')}={heads}: must divide the {width} dimensions")
    found = {"hidden_size": width, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
             "num_hidden_layers": _num_blocks(keys), "intermediate_size": keys.integer(own("feed_forward_length")),
             "rms_norm_eps": keys.real(own("attention.layer_norm_rms_epsilon")),
             "vocab_size": keys.integer(own("vocab_size"), None) or _rows(keys, "token_embd.weight"),
             "tie_word_embeddings": "output.weight" not in tensors}
    found |= {} if head_dim in (None, width // heads) else {"head_dim": head_dim}
    clip = keys.real(own("attention.clamp_kqv"), None)
    found |= {} if clip is None else {"clip_qkv": clip}
    return found | _positions(keys, width // heads if head_dim is None else head_dim)


def _rows(keys: Keys, name: str) -> int:
    if name not in keys.header.tensors:
        raise ValueError(f"{keys.path}: tensor {name} missing")
    return keys.header.tensors[name].shape[0]


def _num_blocks(keys: Keys) -> int:
    number, found = keys.integer(keys.own("block_count")), len({
        name.split(".")[1] for name in keys.header.tensors if name.startswith("blk.")})
    if number != found:
        raise ValueError(f"{keys.path}: {keys.own('block_count')}={number}: the tensors are of {found} blocks")
    return number


def _positions(keys: Keys, head_dim: int) -> dict[str, Any]:
    own = keys.own
    keys.expect(own("attention.value_length"), head_dim)
    keys.expect(own("rope.dimension_count"), head_dim)
    length = keys.integer(own("context_length"))
    # The rotary angles' sines and cosines: a small part of a model, and of a wrong length more than there is memory.
    num_weights = sum(math.prod(tensor.shape) for tensor in keys.header.tensors.values())
    if 2 * length * head_dim > num_weights // 2:
        raise ValueError(f"{keys.path}: {own('context_length')}={length}: the angles of so many positions would be "
                         f"more than half as many numbers as its {num_weights} weights")
    found = {"max_position_embeddings": length, "rope_theta": keys.real(own("rope.freq_base"), 10_000.0)}
    scaling = _scaling(keys, length)
    divisors = keys.header.tensors.get(_ROPE_DIVISORS)
    if scaling and divisors:
        raise ValueError(f"{keys.path}: {own('rope.scaling.type')}: must not be there beside tensor {_ROPE_DIVISORS}")
    scaling = _divided(keys, divisors, head_dim) | {"original_max_position_embeddings": length} if divisors else scaling
    return found | ({"rope_scaling": scaling} if scaling else {})


def _scaling(keys: Keys, length: int) -> dict[str, Any]:
    """As llama.cpp takes it: a factor without a type is linear."""
    own = keys.own
    factor = keys.real(own("rope.scaling.factor"), None)
    kind = keys.text(own("rope.scaling.type"), "none" if factor is None else "linear")
    original = keys.integer(own("rope.scaling.original_context_length"), length)
    if kind == "none":
        return {}
    factor = keys.real(own("rope.scaling.factor"))
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        betas = {name: keys.real(own(f"rope.scaling.yarn_{name}"), None) for name in ("beta_fast", "beta_slow")}
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original,
                **{name: beta for name, beta in betas.items() if beta is not None}}
    raise ValueError(f"{keys.path}: {own('rope.scaling.type')}={kind!r}: must be one of none, linear, yarn")


def _divided(keys: Keys, tensor: StoredTensor, head_dim: int) -> dict[str, Any]:
    """Each frequency divided by a number of its own: how llama.cpp keeps the scaling of Llama 3, whose four parameters
    are not told; in config.json's words, LongRoPE with equal factors for short and long texts."""
    divisors = values_of(blocks_of(keys.header.values.data, tensor), tensor.type).float()
    if tensor.shape != (head_dim // 2,) or not ((divisors > 0) & divisors.isfinite()).all():
        raise ValueError(f"{keys.path}: tensor {tensor.name} of shape {[*tensor.shape]}: must be {head_dim // 2} "
                         "positive numbers")
    factors = divisors.tolist()
    return {"rope_type": "longrope", "short_factor": factors, "long_factor": factors, "attention_factor": 1.0}


def _experts(keys: Keys, architecture: Architecture) -> dict[str, Any]:
    own = keys.own
    number = keys.num_experts()
    found = {tensor.shape[0] for name, tensor in keys.header.tensors.items() if "_exps." in name}
    if found != ({number} if number else set()):
        raise ValueError(f"{keys.path}: {own('expert_count')}={number}: the tensors are of {sorted(found) or 'no'} "
                         "experts")
    if not number:
        return {}
    keys.expect(own("expert_gating_func"), _SOFTMAX)
    fields = {"num_experts": number, "num_experts_per_tok": keys.integer(own("expert_used_count"))}
    if "expert_width" in architecture.words:
        fields["expert_width"] = keys.integer(own("expert_feed_forward_length"))
    if "expert_layers" in architecture.words:  # llama.cpp has experts in all or none
        fields["expert_layers"] = [1] * _num_blocks(keys)
    if architecture.says_so:
        return fields | {"norm_topk_prob": keys.flag(own("expert_weights_norm"), architecture.renormalises)}
    keys.expect(own("expert_weights_norm"), architecture.renormalises)
    return fields
