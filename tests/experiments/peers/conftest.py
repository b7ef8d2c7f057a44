"""Less for a comparison to decode, where a test needs no more of it."""

from dataclasses import replace
from typing import Any

import pytest
from quicksilver.experiments.peers import base, fast_dllm, llada2
from quicksilver.models import Transformer


@pytest.fixture
def one_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models without a second layer: enough where nothing is cached, and to catch a deviation."""
    build = base.random_transformer

    def shallow(shape: Any, *rest: Any) -> Transformer:
        return build(replace(shape, num_layers=1), *rest)

    monkeypatch.setattr(base, "random_transformer", shallow)


@pytest.fixture
def few_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fast-dLLM's loops with the smallest blocks, some of which the factor rule's fault breaks; two values a rule."""
    monkeypatch.setattr(fast_dllm, "_BLOCKS", fast_dllm._BLOCKS[-1:])
    monkeypatch.setattr(fast_dllm, "_TAUS", fast_dllm._TAUS[::2])
    monkeypatch.setattr(fast_dllm, "_FACTORS", fast_dllm._FACTORS[::2])


@pytest.fixture
def few_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of LLaDA2's settings for each size of block."""
    for settings in (llada2.QUOTAS, llada2.EDITINGS):
        for block, of_block in list(settings.items()):
            monkeypatch.setitem(settings, block, of_block[-2:])
