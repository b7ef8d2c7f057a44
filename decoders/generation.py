"""From prompts to tokens, text, trace and accounting: what most users call. It drives `Decoder.stream` and adds nothing
to it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

from ..kernels.checks import check_integer
from ..models.adapter import LanguageModel
from .accounting import Accounting
from .canvas import Request
from .decoder import Decoder
from .decoding import Completion, Decoding
from .trace import Trace, TraceStep

Prompt = str | Sequence[int] | Request
"""Text (with a tokenizer), token ids, or a request, which may hold the mask id anywhere."""

_BLANK = "_"


class Tokenizer(Protocol):
    """What is asked of a tokenizer; one of transformers will do."""

    def encode(self, text: str, /) -> list[int]: ...
    def decode(self, ids: list[int], /) -> str: ...


@dataclass(frozen=True)
class Update:
    """What a step changed; with a tokenizer also every row's completion so far, in which each position that is not
    decided yet is a "_"."""

    step: TraceStep
    texts: list[str] | None


@dataclass(frozen=True)
class Generation:
    """A finished run: for each prompt its whole row and its completion up to and with the first end token; with a
    tokenizer the completions as text, without the end token; what every step did; and what all of it took."""

    completions: list[Completion]
    texts: list[str] | None
    trace: Trace
    accounting: Accounting


class GenerationStream:
    """A run in progress. Iterating takes its steps, each giving an Update; `finish` takes those that are left."""

    def __init__(self, decoder: Decoder, decoding: Decoding, tokenizer: Tokenizer | None) -> None:
        self._decoder, self._decoding, self._tokenizer = decoder, decoding, tokenizer
        self._given = tuple(tuple(request.tokens) for request in decoding.requests)
        self._canvas = [list(row) for row in self._given]
        self._taken: list[TraceStep] = []
        self._steps = self._take()

    def __iter__(self) -> Iterator[Update]:
        for step in self._steps:
            yield Update(step, self._texts_so_far())

    def finish(self) -> Generation:
        """Take the steps that are left, and say what came out."""
        for _ in self._steps:
            pass
        completions = self._decoder.completions(self._decoding)
        return Generation(completions, self._texts(completions),
                          Trace(self._decoding.model.mask_id, self._given, tuple(self._taken)),
                          self._decoding.accounting)

    def _take(self) -> Iterator[TraceStep]:
        for step in self._decoder.stream(self._decoding):
            self._decoding.check_finite()
            self._taken.append(TraceStep.of(step))
            self._taken[-1].apply(self._canvas, self._decoding.model.mask_id)
            yield self._taken[-1]

    def _texts_so_far(self) -> list[str] | None:
        if self._tokenizer is None:
            return None
        texts, mask_id = [], self._decoding.model.mask_id
        for request, row in zip(self._decoding.requests, self._canvas, strict=True):
            runs = groupby(row[request.start :], lambda token: token == mask_id)
            texts.append("".join(_BLANK * len(list(run)) if masked else self._tokenizer.decode(list(run))
                                 for masked, run in runs))
        return texts

    def _texts(self, completions: Sequence[Completion]) -> list[str] | None:
        if self._tokenizer is None:
            return None
        end_ids = self._decoder.end_ids
        rows = (completion.completion for completion in completions)
        return [self._tokenizer.decode(row[:-1] if row[-1] in end_ids else row) for row in rows]


def generate(model: LanguageModel, decoder: Decoder, prompts: Sequence[Prompt], *, num_new: int = 0,
             tokenizer: Tokenizer | None = None, seeds: Sequence[int] | None = None) -> Generation:
    """Decode prompts as one batch.

    num_new is how many tokens each prompt is continued by; 0 fills the mask ids that stand in the prompts themselves.
    The seeds, one a prompt, key all that is drawn (default: 0, 1, 2, ...). Requests bring their own length and seed.

    ValueError names what does not fit the model, the decoder or one another."""
    return stream_generate(model, decoder, prompts, num_new=num_new, tokenizer=tokenizer, seeds=seeds).finish()


def stream_generate(model: LanguageModel, decoder: Decoder, prompts: Sequence[Prompt], *, num_new: int = 0,
                    tokenizer: Tokenizer | None = None, seeds: Sequence[int] | None = None) -> GenerationStream:
    """The same run, to be watched: iterate over it for an Update a step, then call its `finish()`."""
    check_integer("num_new", num_new, at_least=0)
    if isinstance(prompts, str):
        raise ValueError(f"prompts={prompts!r}: must be a list of prompts, even of one")
    if seeds is not None and len(seeds) != len(prompts):
        raise ValueError(f"seeds={list(seeds)}: must be as many as the {len(prompts)} prompts")
    requests = [_request(prompt, num_new, model.mask_id, tokenizer, number if seeds is None else seeds[number])
                for number, prompt in enumerate(prompts)]
    return GenerationStream(decoder, decoder.begin(model, requests), tokenizer)


def _request(prompt: Prompt, num_new: int, mask_id: int, tokenizer: Tokenizer | None, seed: int) -> Request:
    if isinstance(prompt, Request):
        return prompt
    if isinstance(prompt, str):
        if tokenizer is None:
            raise ValueError(f"prompt {prompt!r} with tokenizer=None: text needs a tokenizer")
        tokens = tokenizer.encode(prompt)
        if not isinstance(tokens, list):
            raise ValueError(f"tokenizer={tokenizer!r}: encode must return a list of token ids, not a "
                             f"{type(tokens).__name__}")
    elif isinstance(prompt, Sequence):
        tokens = list(prompt)
    else:
        raise ValueError(f"prompt {prompt!r}: must be a string, a list of token ids or a Request")
    if num_new:
        return Request.completing(tokens, num_new, mask_id=mask_id, seed=seed)
    if mask_id not in tokens:
        raise ValueError(f"prompt {prompt!r} with num_new=0: must hold the mask id {mask_id} where a token is wanted")
    return Request(tokens, seed=seed)
