"""This engine in the forms that are timed apart: weights as they lie or packed, which is the library's gain, and steps
taken, replayed or compiled, which is the engine's."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

from ...decoders import CapturedSteps, Decoder, Request, generate
from ...models import DecodableTransformer
from ..harness.records import Json
from .agreement import interleaved

# The prompt's step is captured in the second decode.
_DECODES_TO_CAPTURE = 3
_STEPS = {"none": "steps taken", "graph": "steps replayed", "compile": "steps compiled"}


def unpacked(model: DecodableTransformer) -> DecodableTransformer:
    """A copy that multiplies by F.linear."""
    plain = replace(model, transformer=copy.deepcopy(model.transformer))
    plain.transformer.unpack()
    return plain


def own_engines(decoder: Decoder, model: DecodableTransformer, request: Request,
                captures: Sequence[str] = ("none", "graph", "compile")) -> dict[str, Callable[[], list[int]]]:
    """What decodes the request with the model, by name: its steps taken, replayed and, on a CPU, compiled."""
    products = "packed products" if model.transformer.is_packed else "products by F.linear"
    return {f"{products}, {_STEPS[capture]}": _decoding(decoder, model, request, capture) for capture in captures
            if capture != "compile" or model.spec.device.type == "cpu"}


def _decoding(decoder: Decoder, model: DecodableTransformer, request: Request, capture: str) -> Callable[[], list[int]]:
    runner = CapturedSteps.named(capture, decoder)
    return lambda: generate(model, decoder, [request], runner=runner).completions[0].tokens


def timed_engines(engines: dict[str, Callable[[], list[int]]], theirs: Callable[[], object], rounds: int
                  ) -> tuple[str, Json]:
    """Each engine in turns with a peer: lines of text, and the figures by engine."""
    lines, figures = [], {}
    for name, ours in engines.items():
        for _ in range(_DECODES_TO_CAPTURE):
            ours()
        turns = interleaved(ours, theirs, rounds)
        figures[name] = turns.to_json()
        lines.append(f"    {name}: {1e3 * turns.own:.1f} ms, ratio {turns.ratio:.2f}")
    return "\n".join(lines), figures
