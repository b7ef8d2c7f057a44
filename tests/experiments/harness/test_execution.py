"""What a record says of a measurement's types, threads and kernels is what was there."""

import pytest
import torch
from quicksilver.experiments.harness.execution import ProductTypes, execution, seen
from quicksilver.kernels.dispatch import Implementation, recording
from quicksilver.kernels.moe_router import Routing
from quicksilver.kernels.packed_linear import Algorithm
from quicksilver.models import Bidirectional, DecodableTransformer, ExpertShape

from tests.conftest import VOCAB_SIZE, random_transformer


def model(dtype: torch.dtype, experts: ExpertShape | None = None) -> DecodableTransformer:
    return DecodableTransformer(random_transformer(Bidirectional(), experts=experts).to(dtype), VOCAB_SIZE - 1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_types_are_those_of_the_weights_and_of_the_products(dtype: str) -> None:
    assert execution(model(getattr(torch, dtype)), set())["dtypes"] == {"weights": [dtype], "products": [dtype]}


def test_a_router_that_stays_precise_is_not_hidden() -> None:
    found = execution(model(torch.bfloat16, ExpertShape(4, 16, Routing(2))), set())["dtypes"]
    assert found == {"weights": ["bfloat16", "float32"], "products": ["bfloat16", "float32"]}


def test_products_are_seen_as_autocast_runs_them_backwards_too() -> None:
    transformer = random_transformer(Bidirectional())
    with torch.autocast("cpu", torch.bfloat16):
        loss = transformer.sequence_hidden(torch.zeros(1, 3, dtype=torch.int64)).float().sum()
    with ProductTypes() as products:
        loss.backward()
    assert seen(transformer, products, set())["dtypes"] == {"weights": ["float32"], "products": ["bfloat16"]}


def test_the_one_more_forward_is_no_part_of_what_ran() -> None:
    with recording() as ran:
        assert execution(model(torch.float32), ran)["kernels"] == {}
    assert not ran


@pytest.mark.parametrize("num_threads", [1, 2])
def test_threads_are_those_in_use(num_threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        found = execution(model(torch.float32), set())
    finally:
        torch.set_num_threads(before)
    assert (found["device"], found["threads"]) == ("cpu", num_threads)


def test_a_record_says_how_linear_layers_multiplied() -> None:
    assert execution(model(torch.float32), set())["linear"] == "F.linear"
    ran = {("linear", Implementation.CPU), ("linear", Algorithm.PACKED)}
    found = execution(model(torch.float32), ran)
    assert (found["linear"], found["kernels"]) == ("cpu (weights packed by oneDNN)", {})
