"""A mixture of experts inside the model: against its definition, on both paths, cast, saved and differentiated."""

import copy
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from quicksilver.kernels import packed_experts, packed_linear
from quicksilver.kernels.case import tensors_of
from quicksilver.kernels.dispatch import Implementation, named, recording, using
from quicksilver.kernels.moe_experts_cpu import Algorithm
from quicksilver.kernels.moe_router import Routing, Scoring
from quicksilver.models import (
    AttentionPattern,
    Bidirectional,
    BlockCausal,
    Causal,
    ExpertShape,
    KVStore,
    MoELayer,
    RouterRecorder,
    Transformer,
    load_checkpoint,
    save_checkpoint,
)
from quicksilver.models.attention import AttentionMask
from quicksilver.models.linear import Linear
from quicksilver.models.routers import expert_counts
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.conftest import VOCAB_SIZE, random_transformer

PLAIN = ExpertShape(6, 20, Routing(2))
RICH = ExpertShape(8, 12, Routing(3, Scoring.SIGMOID, num_groups=4, groups_kept=2, renormalise=True, scale=2.5),
                   shared_width=10, num_dense_layers=1, selection_bias=True)
JOINED = replace(RICH, shared_width=12)  # the experts' width
AFTER = ExpertShape(5, 8, Routing(2, Scoring.SOFTMAX_OF_CHOSEN), selection_bias=True)
SHAPES = [pytest.param(PLAIN, id="softmax"), pytest.param(RICH, id="sigmoid_groups_shared"),
          pytest.param(JOINED, id="shared_as_wide"), pytest.param(AFTER, id="softmax_of_chosen")]


def random_mixture(shape: ExpertShape, width: int = 16) -> MoELayer:
    mixture = MoELayer(width, shape)
    for parameter in mixture.parameters():
        torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    if mixture.router.bias_X is not None:
        mixture.router.bias_X.normal_(std=0.2)
    return mixture


def by_definition(mixture: MoELayer, shape: ExpertShape, row: Tensor) -> Tensor:
    """The layer at one position, expert by expert, in float64, with gradients."""
    routing, u = shape.routing, row.double()
    logits = [weight @ u for weight in mixture.router.weight.double()]
    if routing.scoring is Scoring.SIGMOID:
        scores = [1 / (1 + (-z).exp()) for z in logits]
    else:
        scores = [z.exp() / torch.stack(logits).exp().sum() for z in logits]
    bias = [0.0] * len(logits) if mixture.router.bias_X is None else mixture.router.bias_X.tolist()
    keys = logits if routing.scoring is Scoring.SOFTMAX_OF_CHOSEN else scores
    keys = [float(key.detach()) + b for key, b in zip(keys, bias, strict=True)]
    size = shape.num_experts // routing.num_groups
    groups = [list(range(begin, begin + size)) for begin in range(0, shape.num_experts, size)]
    rank = [sum(sorted(keys[x] for x in group)[-(2 if routing.by_pairs else 1):]) for group in groups]
    best = sorted(range(len(groups)), key=lambda group: -rank[group])[: routing.groups_kept]
    chosen = sorted((x for group in best for x in groups[group]), key=lambda x: -keys[x])[: routing.top_k]
    weights = [scores[x] for x in chosen]
    if routing.renormalise or routing.scoring is Scoring.SOFTMAX_OF_CHOSEN:
        weights = [weight / torch.stack(weights).sum() for weight in weights]

    def network(gate_up: Tensor, down: Tensor) -> Tensor:
        gate, up = (gate_up.double() @ u).chunk(2)
        return down.double() @ (gate * torch.sigmoid(gate) * up)

    total = sum(weight * routing.scale * network(mixture.gate_up_XGE[x], mixture.down_XEM[x])
                for x, weight in zip(chosen, weights, strict=True))
    if mixture.shared is not None:
        total = total + network(mixture.shared.gate_up_proj.weight, mixture.shared.down_proj.weight)
    assert isinstance(total, Tensor)
    return total


@torch.inference_mode()
@pytest.mark.parametrize("implementation", list(Implementation))
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_sum_over_chosen_experts(shape: ExpertShape, implementation: Implementation) -> None:
    mixture, x_BFE = random_mixture(shape), torch.randn(2, 5, 16)
    expected = torch.stack([by_definition(mixture, shape, row) for row in x_BFE.flatten(0, 1)]).view(2, 5, 16)
    with using(implementation), recording() as ran:
        found = mixture(x_BFE)
    router = "route_and_sort" if implementation is Implementation.TRITON else "route"
    assert {(router, implementation), ("experts", implementation)} <= ran
    assert (("experts", Algorithm.GROUPED) in ran) == (implementation is Implementation.CPU)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-6)


VARIANTS = {
    "softmax": Routing(2), "renormalised": Routing(2, renormalise=True), "scaled": Routing(3, scale=1.5),
    "of_chosen": Routing(2, Scoring.SOFTMAX_OF_CHOSEN), "sigmoid": Routing(2, Scoring.SIGMOID),
    "grouped": Routing(2, num_groups=4, groups_kept=2),
    "deepseek_v3": Routing(3, Scoring.SIGMOID, num_groups=4, groups_kept=2, renormalise=True, scale=2.5)}


@pytest.mark.parametrize("num_positions", [1, 3, 40], ids=["one_token", "most_experts_empty", "many"])
@pytest.mark.parametrize("load", ["own", "all_to_one"])
@pytest.mark.parametrize("with_bias", [False, True], ids=["unbiased", "biased"])
@pytest.mark.parametrize("routing", VARIANTS.values(), ids=VARIANTS)
def test_every_router_has_the_gradient_of_the_sum(routing: Routing, with_bias: bool, load: str,
                                                  num_positions: int) -> None:
    """In float64, against the loop over positions and experts."""
    shape = ExpertShape(8, 6, routing, shared_width=4, selection_bias=with_bias)
    mixture = random_mixture(shape).double()
    x_BFE = torch.randn(1, num_positions, 16, dtype=torch.float64)
    if load == "all_to_one":
        x_BFE = x_BFE[:, :1] + 1e-3 * x_BFE
    upstream = torch.randn(1, num_positions, 16, dtype=torch.float64)
    leaves = [x_BFE.requires_grad_(), *mixture.parameters()]
    found = mixture(x_BFE)
    expected = torch.stack([by_definition(mixture, shape, row) for row in x_BFE[0]])[None]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for leaf, ours, theirs in zip(leaves, torch.autograd.grad(found, leaves, upstream),
                                  torch.autograd.grad(expected, leaves, upstream), strict=True):
        # A router's weights stay in float32, and so do their gradients.
        tolerance = 1e-10 if leaf.dtype == torch.float64 else 1e-5
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("routing", VARIANTS.values(), ids=VARIANTS)
def test_many_positions_in_training_have_that_gradient_too(routing: Routing, precision: torch.dtype) -> None:
    """As they are trained: rows enough for batched products, bfloat16 by autocast."""
    mixture = random_mixture(ExpertShape(8, 8, routing, shared_width=4, selection_bias=True))
    x_BFE, upstream = torch.randn(2, 2, 200, 16)
    leaves = [x_BFE.requires_grad_(), *mixture.parameters()]
    exact = copy.deepcopy(mixture).double()
    exact_leaves = [x_BFE.detach().double().requires_grad_(), *exact.parameters()]
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        found = mixture(x_BFE)
    expected = exact(exact_leaves[0])
    tolerance = 1e-5 if precision == torch.float32 else 0.02
    for ours, theirs in zip((found, *torch.autograd.grad(found, leaves, upstream)),
                            (expected, *torch.autograd.grad(expected, exact_leaves, upstream.double())), strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() <= tolerance * theirs.norm()


@torch.inference_mode()
@pytest.mark.parametrize(("attention", "shape"), [
    (Causal(), PLAIN), (Bidirectional(), RICH), (BlockCausal(2), AFTER)],
    ids=["causal", "bidirectional", "block_causal"])
def test_a_model_of_mixtures_is_the_same_on_the_triton_path(attention: AttentionPattern, shape: ExpertShape) -> None:
    model = random_transformer(attention, experts=shape)
    tokens = torch.randint(0, VOCAB_SIZE, (2, 3))
    expected = model.sequence_hidden(tokens)
    with using(Implementation.TRITON), recording() as ran:
        found = model.sequence_hidden(tokens)
    assert {implementation for _, implementation in ran} == {Implementation.TRITON}
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("change", ["removed", "hooked", "wrapped"])
def test_a_shared_expert_that_is_not_what_it_was_made_is_left_apart(change: str) -> None:
    mixture, x_BFE = random_mixture(replace(PLAIN, shared_width=PLAIN.expert_width)), torch.randn(2, 5, 16)
    assert mixture.shared is not None
    if change == "removed":
        mixture.shared = None
    elif change == "hooked":
        mixture.shared.register_forward_hook(lambda *_: torch.ones(10, 16))
    else:
        mixture.shared.add_module("down_proj", torch.nn.utils.parametrizations.weight_norm(mixture.shared.down_proj))
    expected = mixture(x_BFE)
    with using(Implementation.TRITON):
        torch.testing.assert_close(mixture(x_BFE), expected, rtol=0, atol=2e-6)


@torch.inference_mode()
@pytest.mark.parametrize("implementation", list(Implementation))
def test_a_model_of_mixtures_with_a_cache_equals_recomputation(implementation: Implementation) -> None:
    model = random_transformer(BlockCausal(2), experts=RICH)
    tokens = torch.randint(0, VOCAB_SIZE, (2, 4))
    expected = model.sequence_hidden(tokens)
    store = empty_store(model, 2, 4)
    with using(implementation):
        for begin, end in ((0, 2), (2, 4)):
            positions_BF = torch.arange(begin, end).expand(2, -1)
            mask = AttentionMask(BlockCausal(2), positions_BF, torch.arange(end)[None])
            found = model.hidden(tokens[:, begin:end], positions_BF, mask, store.write(positions_BF, end))
            torch.testing.assert_close(found, expected[:, begin:end], rtol=0, atol=1e-5)


def empty_store(model: Transformer, num_rows: int, length: int) -> KVStore:
    shape = model.config.shape
    return KVStore.empty(num_layers=shape.num_layers, num_rows=num_rows, length=length,
                         num_kv_heads=shape.num_kv_heads, head_width=shape.head_width, like=model.head.weight)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_weight_learns(shape: ExpertShape) -> None:
    model = random_transformer(Bidirectional(), experts=shape)
    model.head(model.sequence_hidden(torch.randint(0, VOCAB_SIZE, (4, 20)))).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0, name


def test_a_new_model_adds_nothing_to_the_stream_and_has_no_weight_left_unset() -> None:
    model = Transformer(random_transformer(Bidirectional(), experts=RICH).config)
    mixture = model.blocks[1].ffn
    assert isinstance(mixture, MoELayer)
    assert not mixture(torch.randn(1, 3, 32)).any()
    assert mixture.gate_up_XGE.std().item() == pytest.approx(32**-0.5, rel=0.1)
    assert mixture.router.weight.std().item() == pytest.approx(32**-0.5, rel=0.2)


@pytest.mark.parametrize("change", [torch.bfloat16, torch.float16, "meta"], ids=str)
def test_the_router_moves_with_the_model_but_is_never_cast(change: Any) -> None:
    router = random_mixture(RICH).router
    weight, bias_X = router.weight.detach().clone(), router.bias_X
    assert bias_X is not None
    holder = torch.nn.ModuleList([router, torch.nn.Linear(2, 2)]).to(change)
    for kept, before in ((router.weight, weight), (router.bias_X, bias_X)):
        assert kept is not None
        assert kept.dtype == torch.float32
        assert kept.is_meta or torch.equal(kept, before)
    assert isinstance(router.weight, torch.nn.Parameter)
    assert router.weight.device == holder[1].weight.device  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("implementation", list(Implementation))
def test_routing_is_in_float32_in_a_bfloat16_model_and_under_autocast(implementation: Implementation) -> None:
    router, x_BFE = random_mixture(PLAIN, width=64).router, torch.randn(3, 3, 64).bfloat16()
    with torch.inference_mode(), using(implementation):
        expected = router(x_BFE.float())
        found = router(x_BFE)
        with torch.autocast("cpu", torch.bfloat16):
            under_autocast = router(x_BFE.float())
    for ours in (found, under_autocast):
        for one, other in zip(tensors_of(ours), tensors_of(expected), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_bias_sways_the_choice_and_not_the_weights() -> None:
    shape = ExpertShape(6, 4, Routing(1, Scoring.SIGMOID), selection_bias=True)
    router, x_BFE = random_mixture(shape).router, torch.randn(1, 5, 16)
    assert router.bias_X is not None
    router.bias_X.zero_()
    router.bias_X[4] = 10.0
    expert_BFA, weight_BFA, *_ = router(x_BFE)
    assert (expert_BFA == 4).all()
    torch.testing.assert_close(weight_BFA, (x_BFE @ router.weight[4]).sigmoid()[..., None])
    assert not any("bias" in name for name, _ in router.named_parameters())


def test_a_watch_sees_where_every_router_sends_positions() -> None:
    model = random_transformer(Bidirectional(), experts=RICH)
    tokens = torch.randint(0, VOCAB_SIZE, (2, 7))
    with RouterRecorder(model) as recorder:
        model.sequence_hidden(tokens)
        model.sequence_hidden(tokens[:1])
    model.sequence_hidden(tokens)
    ((first, second),) = recorder.results  # one router, since the first of the two layers is dense; two forwards
    assert first.expert_BFA.shape == (2, 7, RICH.routing.top_k)
    torch.testing.assert_close(second.expert_BFA, first.expert_BFA[:1])
    assert expert_counts(first).tolist() == [int((first.expert_BFA == expert).sum())
                                             for expert in range(RICH.num_experts)]


@torch.inference_mode()
@pytest.mark.parametrize("implementation", list(Implementation))
def test_a_forward_with_a_cache_runs_on_fake_tensors(implementation: Implementation) -> None:
    with FakeTensorMode(), using(implementation):
        model = random_transformer(Causal(), experts=RICH)
        positions_BF = torch.arange(4).expand(2, -1)
        write = empty_store(model, 2, 8).write(positions_BF, 4)
        hidden_BFE = model.hidden(torch.zeros(2, 4, dtype=torch.int64), positions_BF,
                                  AttentionMask(Causal(), positions_BF, torch.arange(4)[None]), write)
    assert hidden_BFE.shape == (2, 4, 32)


@pytest.fixture
def packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor where packing pays, though experts be small; linear layers are too small for it."""
    monkeypatch.setattr(packed_linear, "_IS_INTEL", False)
    monkeypatch.setattr(packed_linear, "_HAS_AVX512", True)
    monkeypatch.setitem(packed_experts.LEAST_BYTES, torch.float32, 1)


def packed_model() -> tuple[Transformer, MoELayer]:
    """A model, its mixture packed, and this."""
    model = random_transformer(Bidirectional(), experts=RICH)
    mixture = model.blocks[1].ffn
    assert isinstance(mixture, MoELayer)
    assert model.pack() == mixture.gate_up_XGE.nbytes + mixture.down_XEM.nbytes
    assert model.is_packed
    return model, mixture


def hidden(model: Transformer, num_positions: int) -> tuple[Tensor, str]:
    """Of a row, and what ran of its experts."""
    with torch.inference_mode(), recording() as ran:
        found = model.sequence_hidden(torch.arange(num_positions)[None] % VOCAB_SIZE)
    return found, named(ran)["experts"]


@pytest.mark.usefixtures("packs")
@pytest.mark.parametrize("num_positions", [1, 5])
def test_a_packed_model_is_the_same_and_says_so(num_positions: int) -> None:
    model, _ = packed_model()
    found, what = hidden(model, num_positions)
    assert what == "cpu (weights packed by oneDNN)"
    model.unpack()
    assert not model.is_packed
    expected, what = hidden(model, num_positions)
    assert "packed" not in what
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("packs")
def test_experts_are_not_held_twice_where_memory_is_short_though_linear_layers_are(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(packed_linear.LEAST_BYTES, torch.float32, 1)
    model = random_transformer(Bidirectional(), experts=RICH)
    linear_bytes = sum(layer.weight.nbytes for layer in model.modules() if isinstance(layer, Linear))
    expert_bytes = sum(layer.num_weight_bytes for layer in model.modules() if isinstance(layer, MoELayer))
    for free, taken in ((2 * linear_bytes - 1, expert_bytes * (linear_bytes > expert_bytes)),
                        (2 * linear_bytes, linear_bytes), (2 * (linear_bytes + expert_bytes) - 1, linear_bytes),
                        (2 * (linear_bytes + expert_bytes), linear_bytes + expert_bytes)):
        monkeypatch.setattr("quicksilver.models.transformer.free_memory_bytes", lambda free=free: free)
        assert model.pack() == taken


@pytest.mark.usefixtures("packs")
def test_training_casts_and_copies_do_not_take_the_packed_experts(tmp_path: Path) -> None:
    model, mixture = packed_model()
    names = set(model.state_dict())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert not other.is_packed
        assert torch.equal(hidden(other, 5)[0], hidden(copy.deepcopy(model), 5)[0])
    save_checkpoint(tmp_path / "weights.safetensors", model)
    assert not load_checkpoint(tmp_path / "weights.safetensors").is_packed
    assert set(model.state_dict()) == names == set(random_transformer(Bidirectional(), experts=RICH).state_dict())
    model.sequence_hidden(torch.arange(5)[None]).square().mean().backward()
    assert mixture.gate_up_XGE.grad is not None
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    trained = hidden(model, 5)
    assert "packed" not in trained[1]
    model.unpack()
    assert torch.equal(hidden(model, 5)[0], trained[0])
    model.pack()
    assert "packed" not in hidden(model.double(), 5)[1]


@pytest.mark.usefixtures("packs")
def test_hooks_on_a_packed_mixture_run_as_before() -> None:
    model, mixture = packed_model()
    mixture.register_forward_hook(lambda *_: torch.zeros(1, 5, 32))
    found, what = hidden(model, 5)
    mixture.gate_up_XGE.data.zero_()
    model.pack()
    assert what == "cpu (weights packed by oneDNN)"
    assert torch.equal(hidden(model, 5)[0], found)
