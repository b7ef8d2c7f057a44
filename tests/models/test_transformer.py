"""The transformer: its options against its definition, the Triton path against the reference, position blindness."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from quicksilver.kernels.attention_cpu import Algorithm
from quicksilver.kernels.dispatch import Implementation, named, recording, using
from quicksilver.kernels.rotate_and_store import Rope, rotate_and_store
from quicksilver.models import (
    AttentionPattern,
    Bidirectional,
    BlockCausal,
    Causal,
    Transformer,
    TransformerConfig,
)
from quicksilver.models.attention import AttentionMask
from quicksilver.models.kv_store import KVStore
from torch import Tensor

from tests.conftest import VOCAB_SIZE, random_transformer

OPTIONS = [{}, {"qk_norm": True}, {"qkv_bias": True}, {"tied_embeddings": True}, {"position_table": False},
           {"num_kv_heads": 4}, {"num_kv_heads": 1}, {"rope_fraction": 0.5}, {"rope_fraction": 0.0}]


def naive_logits(model: Transformer, tokens: list[int], attends: Callable[[int, int], bool]) -> Tensor:
    """The transformer written out in float64, one position, head and key at a time."""
    shape, weights = model.config.shape, {name: p.double() for name, p in model.named_parameters()}
    head_width, group = shape.head_width, shape.num_heads // shape.num_kv_heads

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.square().mean() + shape.norm_eps).sqrt() * weight

    def turned(x: Tensor, position: int) -> Tensor:
        half, out = shape.rope_width // 2, x.clone()
        for i in range(half):
            angle = position * shape.rope_theta ** (-i / half)
            a, b = x[i], x[i + half]
            out[i] = a * math.cos(angle) - b * math.sin(angle)
            out[i + half] = b * math.cos(angle) + a * math.sin(angle)
        return out

    states = [weights["embedding.weight"][token] for token in tokens]
    if shape.position_table:
        states = [x + weights["position_table.weight"][position] for position, x in enumerate(states)]
    for layer in range(shape.num_layers):
        prefix = f"blocks.{layer}."
        w = {name.removeprefix(prefix): p for name, p in weights.items() if name.startswith(prefix)}
        projected = [w["attention.qkv_proj.weight"] @ norm(x, w["attention_norm.weight"])
                     + w.get("attention.qkv_proj.bias", torch.zeros((), dtype=torch.float64)) for x in states]
        heads = [x.view(-1, head_width) for x in projected]

        def query_or_key(position: int, head: int, kind: str, heads: list[Tensor] = heads, w: dict = w) -> Tensor:
            x = heads[position][head]
            return turned(norm(x, w[f"attention.{kind}_norm.weight"]) if shape.qk_norm else x, position)

        mixed = []
        for position in range(len(tokens)):
            outputs = []
            for head in range(shape.num_heads):
                seen = [key for key in range(len(tokens)) if attends(position, key)]
                q = query_or_key(position, head, "q")
                key_head = shape.num_heads + head // group
                score = torch.stack([q @ query_or_key(key, key_head, "k") / math.sqrt(head_width) for key in seen])
                values = torch.stack([heads[key][key_head + shape.num_kv_heads] for key in seen])
                outputs.append(score.softmax(0) @ values)
            mixed.append(torch.cat(outputs))
        states = [x + w["attention.o_proj.weight"] @ y for x, y in zip(states, mixed, strict=True)]
        for position, x in enumerate(states):
            gate, up = (w["ffn.gate_up_proj.weight"] @ norm(x, w["ffn_norm.weight"])).chunk(2)
            states[position] = x + w["ffn.down_proj.weight"] @ (gate * torch.sigmoid(gate) * up)
    return torch.stack([model.head.weight.double() @ norm(x, weights["norm.weight"]) for x in states])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("attention", "attends"), [
    (Causal(), lambda q, k: k <= q), (Bidirectional(), lambda q, k: True),
    (BlockCausal(2), lambda q, k: k // 2 <= q // 2)], ids=["causal", "bidirectional", "block_causal"])
def test_it_is_the_transformer_of_its_definition_and_trains(
        attention: AttentionPattern, attends: Callable[[int, int], bool], options: dict[str, Any]) -> None:
    model = random_transformer(attention, **options)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=0.0 if name.endswith("bias") else 1.0, std=0.3)
    tokens = [3, 1, 4, 1, 5]
    logits = model.head(model.sequence_hidden(torch.tensor([tokens])))[0]
    torch.testing.assert_close(logits.double(), naive_logits(model, tokens, attends), rtol=1e-4, atol=1e-4)
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_a_causal_model_does_not_see_ahead() -> None:
    model = random_transformer(Causal())
    tokens = torch.randint(0, VOCAB_SIZE, (1, 9), generator=torch.Generator().manual_seed(1))
    changed = tokens.clone()
    changed[0, 6] = (changed[0, 6] + 1) % VOCAB_SIZE
    a, b = model.sequence_hidden(tokens), model.sequence_hidden(changed)
    torch.testing.assert_close(a[:, :6], b[:, :6], rtol=0, atol=0)
    assert not torch.allclose(a[:, 6:], b[:, 6:])


PATTERNS = [Causal(), Bidirectional(), BlockCausal(4)]
# What a CPU runs of a dense model's kernels, attention apart.
ON_CPU = {"rotate_and_store": Implementation.REFERENCE,
          **dict.fromkeys(("rms_norm", "add_rms_norm", "swiglu"), Implementation.CPU)}


@torch.inference_mode()
@pytest.mark.parametrize(("attention", "options"), [
    *((pattern, {}) for pattern in PATTERNS), (Causal(), {"qk_norm": True, "num_kv_heads": 1, "rope_fraction": 0.5}),
    (Causal(), {"num_kv_heads": 4, "rope_fraction": 0.0, "qkv_bias": True, "position_table": False,
                "tied_embeddings": True})], ids=str)
@pytest.mark.parametrize(("num_rows", "by_itself"), [
    (2, {"project_and_store", "gate_up_swiglu"}), (10, {"rms_norm", "rotate_and_store", "swiglu"})])
def test_the_triton_path_equals_the_reference_path(
        num_rows: int, by_itself: set[str], attention: AttentionPattern, options: dict[str, Any]) -> None:
    model = random_transformer(attention, **options)
    tokens = torch.randint(0, VOCAB_SIZE, (num_rows, 7))  # more than 64 positions are not few
    expected = model.sequence_hidden(tokens)
    with using(Implementation.TRITON), recording() as ran:
        found = model.sequence_hidden(tokens)
    assert ran == {(name, Implementation.TRITON) for name in {"add_rms_norm", "attention"} | by_itself}
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("attention", [Causal(), BlockCausal(4)], ids=str)
def test_the_triton_path_with_a_cache_equals_recomputation(attention: AttentionPattern) -> None:
    model = random_transformer(attention, qk_norm=True)
    shape = model.config.shape
    tokens = torch.randint(0, VOCAB_SIZE, (2, 8))
    expected = model.sequence_hidden(tokens)
    store = KVStore.empty(num_layers=shape.num_layers, num_rows=2, length=8, num_kv_heads=shape.num_kv_heads,
                          head_width=shape.head_width, like=model.head.weight)
    with using(Implementation.TRITON):
        for begin, end in ((0, 4), (4, 8)):
            positions_BF = torch.arange(begin, end).expand(2, -1)
            mask = AttentionMask(attention, positions_BF, torch.arange(end)[None])
            found = model.hidden(tokens[:, begin:end], positions_BF, mask, store.write(positions_BF, end))
            torch.testing.assert_close(found, expected[:, begin:end], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_the_triton_path_computes_the_queried_positions_of_the_last_layer() -> None:
    model = random_transformer(Causal())
    tokens, positions = torch.randint(0, VOCAB_SIZE, (2, 9)), torch.arange(9)[None]
    index_BQ = torch.tensor([[0, 4, 8], [2, 3, 5]])
    expected = model.sequence_hidden(tokens).gather(1, index_BQ[..., None].expand(-1, -1, 32))
    with using(Implementation.TRITON):
        found = model.hidden(tokens, positions, AttentionMask(Causal(), positions, positions), None, index_BQ)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_training_runs_pytorch_whatever_is_chosen() -> None:
    model = random_transformer(Causal())
    with using(Implementation.TRITON), recording() as ran:
        model.sequence_hidden(torch.randint(0, VOCAB_SIZE, (2, 5))).sum().backward()
    assert ran == {*ON_CPU.items(), ("attention", Implementation.CPU), ("attention", Algorithm.FUSED)}


@torch.inference_mode()
def test_the_record_of_a_cpu_names_each_kernel_as_what_it_is() -> None:
    model = random_transformer(Causal())
    shape = model.config.shape
    store = KVStore.empty(num_layers=shape.num_layers, num_rows=2, length=4, num_kv_heads=shape.num_kv_heads,
                          head_width=shape.head_width, like=model.head.weight)
    positions_BF = torch.arange(4).expand(2, -1)
    mask = AttentionMask(Causal(), positions_BF, torch.arange(4)[None])
    with recording() as ran:
        model.hidden(torch.randint(0, VOCAB_SIZE, (2, 4)), positions_BF, mask, store.write(positions_BF, 4))
    assert named(ran) == {"attention": "cpu (torch's scaled_dot_product_attention)",
                          **{name: ran.value for name, ran in ON_CPU.items()}}


@pytest.mark.parametrize(("position_table", "is_blind"), [(False, True), (True, False)])
def test_rope_alone_is_blind_on_an_all_mask_canvas(position_table: bool, is_blind: bool) -> None:
    model = random_transformer(Bidirectional(), position_table=position_table)
    hidden = model.sequence_hidden(torch.full((1, 9), VOCAB_SIZE - 1))
    assert torch.allclose(hidden, hidden[:, :1].expand_as(hidden), atol=1e-5) == is_blind


def test_rotation_turns_pairs_by_their_angle() -> None:
    x = torch.randn(1, 3, 1, 4)
    angle = torch.tensor([0.3, 1.1])
    cos, sin = torch.cat((angle.cos(), angle.cos())), torch.cat((-angle.sin(), angle.sin()))
    turned = torch.view_as_complex(torch.stack((x[..., :2], x[..., 2:]), -1)) * torch.polar(torch.ones(2), angle)
    expected = torch.cat((turned.real, turned.imag), -1)
    rope = Rope(torch.zeros(1, 3, dtype=torch.int64), cos[None], sin[None])
    query, key, value = rotate_and_store(torch.cat((x, x, x), dim=2), 1, rope, None, None)
    torch.testing.assert_close(query, expected)
    torch.testing.assert_close(key, expected[0])
    assert torch.equal(value, x[0])


def test_parameters_are_counted() -> None:
    model = Transformer(TransformerConfig(8, 36, Bidirectional()))
    assert model.num_parameters() == sum(p.numel() for p in model.parameters())
