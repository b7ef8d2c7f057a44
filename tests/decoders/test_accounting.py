"""The costs of a decode are those that the model states for its forwards."""

import pytest
import torch
from quicksilver.decoders.accounting import Accounting
from quicksilver.models import Bidirectional, Plan

from tests.conftest import random_model


@pytest.mark.parametrize(("context", "store_bytes", "keys_seen", "stored_read"), [(8, 1, 48, 24), (None, 0, 12, 0)],
                         ids=["stored", "nothing_stored"])
def test_flops_and_bytes_are_the_models_own(context: int | None, store_bytes: int, keys_seen: int,
                                            stored_read: int) -> None:
    """Twice a forward of two positions in each of three rows."""
    model, accounting = random_model(Bidirectional()), Accounting(kv_store_bytes=store_bytes)
    for _ in range(2):
        accounting.count_forward("denoise", Plan(torch.tensor([[2, 3]] * 3), context=context))
    flops, num_bytes = model.forward_cost(6, keys_seen, 6, stored_read)
    counts = accounting.to_json(model)
    assert (counts["flops"], counts["bytes_read"]) == (2 * flops, 2 * num_bytes)
