"""Our engine in its forms: the same tokens of each, and what each is timed against."""

from functools import partial

import pytest
import torch
from quicksilver.decoders import Request, presets
from quicksilver.experiments.peers import own_engines as module
from quicksilver.experiments.peers.agreement import Turns, random_transformer
from quicksilver.kernels import packed_linear
from quicksilver.kernels.dispatch import named, recording
from quicksilver.models import Causal, DecodableTransformer, Shape


@pytest.mark.parametrize("packs", [False, True])
def test_each_form_is_what_its_name_says(packs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quicksilver.decoders.capture.program._by_inductor", lambda graph, arguments: graph)
    if packs:
        monkeypatch.setattr(packed_linear, "_IS_INTEL", False)
        monkeypatch.setattr(packed_linear, "_HAS_AVX512", True)
        monkeypatch.setitem(packed_linear.LEAST_BYTES, torch.float32, 1)
    shape = Shape(width=32, num_layers=2, num_heads=2, num_kv_heads=2, ffn_width=32, position_table=False)
    model = DecodableTransformer(random_transformer(shape, 13, 12, Causal(), seed=0), mask_id=12, shift=1)
    request = Request.completing([1, 2, 3], 9, mask_id=12)
    engines = module.own_engines(presets.autoregressive(), model, request)
    products = "packed products" if packs else "products by F.linear"
    assert list(engines) == [f"{products}, steps {how}" for how in ("taken", "replayed", "compiled")]
    if packs:
        engines |= module.own_engines(presets.autoregressive(), module.unpacked(model), request, ("none",))
        assert list(engines)[3:] == ["products by F.linear, steps taken"]
    expected = presets.autoregressive().decode(model, [request])[0].tokens
    for name, decode in engines.items():
        with recording() as ran:
            assert all(decode() == expected for _ in range(3))
        assert ("linear" in named(ran)) == name.startswith("packed")


def test_figures_are_by_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    decodes: list[str] = []

    def decoding(name: str) -> list[int]:
        decodes.append(name)
        return []

    monkeypatch.setattr(module, "interleaved", lambda ours, theirs, rounds: Turns([0.5], [1.0]))
    text, figures = module.timed_engines({name: partial(decoding, name) for name in "ab"}, list, 9)
    assert text == "    a: 500.0 ms, ratio 2.00\n    b: 500.0 ms, ratio 2.00"
    assert figures["b"]["ratio"] == 2
    assert decodes == list("aaabbb")
