"""This engine in the forms that are timed apart: weights as they lie or packed, which is the library's gain, and steps
taken, replayed or compiled, which is the engine's."""

import copy
from collections.abc import Callable
from dataclasses import replace

from ...decoders import CapturedSteps, Decoder, Request, generate
from ...models import DecodableTransformer
from ..harness.records import Json
from .agreement import interleaved

# The prompt's step is captured in the second decode.
_DECODES_TO_CAPTURE = 3


def own_engines(decoder: Decoder, model: DecodableTransformer, request: Request) -> dict[str, Callable[[], list[int]]]:
    """What decodes the request with the model, by name."""
    plain = replace(model, transformer=copy.deepcopy(model.transformer))
    plain.transformer.unpack()
    names = {"none": "steps taken", "graph": "steps replayed"}
    if model.spec.device.type == "cpu":
        names["compile"] = "steps compiled"
    packs = model.transformer.is_packed
    engines = {f"products by F.linear, {names[capture]}": _decoding(decoder, plain, request, capture)
               for capture in (("none",) if packs else names)}
    if packs:
        engines |= {f"packed products, {names[capture]}": _decoding(decoder, model, request, capture)
                    for capture in names}
    return engines


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
