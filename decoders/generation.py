"""The main entry point: from prompts to tokens, text, trace and accounting. A thin driver of `Decoder.stream`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..kernels.checks import check_integer, check_integers, shown
from ..models.adapter import LanguageModel
from .accounting import Accounting
from .canvas import Request, check_length
from .decode_run import Completion, DecodeRun, StepRunner
from .decoder import Decoder
from .step import Step
from .stop_strings import StopStrings
from .texts import Tokenizer, chat_tokens, continuation, num_tokens
from .trace import Trace, TraceStep

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]] | Request
"""Text (with a tokenizer), token ids in a list, an array or a tensor, chat messages (dicts with role and content, with
a tokenizer that has a chat template), or a request, which may hold the mask id anywhere."""


@dataclass(frozen=True)
class Update:
    """What a step changed; with a tokenizer also every row's completion so far, with "_" for each position that is
    masked or holds half a character, and for each character that may begin a stop string; and, in `decided`, how far
    each reads without one of these."""

    step: TraceStep
    texts: list[str] | None
    decided: list[str] | None = None


@dataclass(frozen=True)
class Generation:
    """A finished run: per prompt its whole row and its completion up to and including the first end token, or the token
    that completes a stop string; with a tokenizer the completions as text, without the end token or stop string; the
    trace of all steps; and the accounting."""

    completions: list[Completion]
    texts: list[str] | None
    trace: Trace
    accounting: Accounting


class GenerationStream:
    """A run in progress. Iterating takes its steps and yields an Update for each; `finish` takes the remaining ones. An
    exception within a step ends the run: both then raise RuntimeError from it."""

    def __init__(self, decoder: Decoder, run: DecodeRun, stops: StopStrings, runner: StepRunner | None) -> None:
        self._decoder, self._run, self._stops = decoder, run, stops
        self._given = tuple(tuple(request.tokens) for request in run.requests)
        self._canvas = [list(row) for row in self._given]
        self._taken: list[TraceStep] = []
        self._broken_by: list[BaseException] = []
        # Not a method, which would hold the stream: one that is let go of must end its run at once.
        self._steps = _take(decoder.stream(run, runner), run, stops, self._canvas, self._taken, self._broken_by)

    def __iter__(self) -> Iterator[Update]:
        for step in self._left():
            texts = self._texts_so_far()
            yield Update(step, texts, None if texts is None else self._decided(texts))

    def finish(self) -> Generation:
        """Take the remaining steps and return the result."""
        for _ in self._left():
            pass
        completions = self._decoder.completions(self._run)
        return Generation(completions, self._texts(completions),
                          Trace(self._run.model.spec.mask_id, self._given, tuple(self._taken)),
                          self._run.accounting)

    def _left(self) -> Iterator[TraceStep]:
        if self._broken_by:
            (error,) = self._broken_by
            raise RuntimeError(f"the run was broken off in step {len(self._taken)} by {error!r}; start it again"
                               ) from error
        return self._steps

    def _texts_so_far(self) -> list[str] | None:
        if self._stops.tokenizer is None:
            return None
        return [self._stops.shown(request, row, self._run.model.spec.mask_id)
                for request, row in zip(self._run.requests, self._canvas, strict=True)]

    def _decided(self, texts: list[str]) -> list[str]:
        """The beginnings of these texts before anything masked; a blank of their own at the end waits for what
        follows."""
        mask_id = self._run.model.spec.mask_id
        return [self._stops.decided(text, request, row, mask_id)
                for text, request, row in zip(texts, self._run.requests, self._canvas, strict=True)]

    def _texts(self, completions: Sequence[Completion]) -> list[str] | None:
        tokenizer, end_ids = self._stops.tokenizer, self._decoder.end_ids
        if tokenizer is None:
            return None
        rows = (completion.completion for completion in completions)
        texts = (continuation(tokenizer, request.tokens[: request.start], row[:-1] if row[-1] in end_ids else row)
                 for request, row in zip(self._run.requests, rows, strict=True))
        return [self._stops.before(text) for text in texts]


def _take(steps: Iterator[Step], run: DecodeRun, stops: StopStrings, canvas: list[list[int]], taken: list[TraceStep],
          broken_by: list[BaseException]) -> Iterator[TraceStep]:
    """The steps, each kept in `taken` and written to `canvas`, which ends rows with a stop string; what breaks them off
    is put into `broken_by`."""
    try:
        for step in steps:
            run.check_finite()
            taken.append(TraceStep.of(step))
            taken[-1].apply(canvas, run.model.spec.mask_id)
            stops.end_rows(run, canvas)
            yield taken[-1]
    except GeneratorExit:  # let go of
        raise
    except BaseException as error:
        broken_by.append(error)
        raise


def generate(model: LanguageModel, decoder: Decoder, prompts: Iterable[Prompt], *, num_new: int = 0,
             tokenizer: Tokenizer | None = None, seeds: Iterable[int] | None = None, runner: StepRunner | None = None,
             stop: Iterable[str] = (), min_new: int = 0, banned_ids: Iterable[int] = ()) -> Generation:
    """Decode prompts as one batch.

    num_new tokens are appended to each prompt; 0 fills the mask ids in the prompts themselves. Blocks on a grid are
    decoded whole: completions are cut to num_new, and the rest is counted as waste. The seeds, one per prompt, key all
    random draws (default: 0, 1, 2, ...). `runner` takes the steps in the decoder's place: a `CapturedSteps` of the
    decoder, kept for all calls, replays them.

    A completion ends with the text of a `stop` string, wherever that begins and ends in its tokens; of its first
    min_new tokens none is an end token (as many as num_new: none is at all). `banned_ids` are never decoded, nor are
    those past the tokenizer's last id, unless they end a row. Requests carry their own length, seed and min_new.

    ValueError names what does not fit the model, the decoder or one another. FloatingPointError if the model's logits
    are not finite."""
    return stream_generate(model, decoder, prompts, num_new=num_new, tokenizer=tokenizer, seeds=seeds, runner=runner,
                           stop=stop, min_new=min_new, banned_ids=banned_ids).finish()


def stream_generate(model: LanguageModel, decoder: Decoder, prompts: Iterable[Prompt], *, num_new: int = 0,
                    tokenizer: Tokenizer | None = None, seeds: Iterable[int] | None = None,
                    runner: StepRunner | None = None, stop: Iterable[str] = (), min_new: int = 0,
                    banned_ids: Iterable[int] = ()) -> GenerationStream:
    """The same run as a stream: iterate over it for one Update per step, then call its `finish()`."""
    stops = StopStrings.of(stop, tokenizer)
    num_new = check_integer("num_new", num_new, at_least=0)
    rows = prompts.tolist() if hasattr(prompts, "tolist") else prompts  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(rows, str | bytes | Mapping | Request) or not isinstance(rows, Iterable):
        raise ValueError(f"prompts={shown(prompts)}: must be a list of prompts, even of one")
    prompts = list(rows)
    numbers = range(len(prompts)) if seeds is None else check_integers("seeds", seeds)
    if len(numbers) != len(prompts):
        raise ValueError(f"seeds={shown(numbers)}: must be as many as the {len(prompts)} prompts")
    requests = [prompt if isinstance(prompt, Request) else _request(
                    model, decoder, _tokens(prompt, tokenizer), _Wanted(num_new, min_new, seed))
                for prompt, seed in zip(prompts, numbers, strict=True)]
    banned = [*check_integers("banned_ids", banned_ids), *_without_text(model, decoder, tokenizer)]
    return GenerationStream(decoder, decoder.begin(model, requests, banned), stops, runner)


def _without_text(model: LanguageModel, decoder: Decoder, tokenizer: Tokenizer | None) -> Iterator[int]:
    """The ids past the tokenizer's last one, but for those that end a row."""
    first, stop = num_tokens(tokenizer), model.spec.vocab_size
    return (token for token in range(stop if first is None else first, stop) if token not in decoder.end_ids)


def _tokens(prompt: object, tokenizer: Tokenizer | None) -> list[int]:
    if isinstance(prompt, str):
        if tokenizer is None:
            raise ValueError(f"prompt {prompt!r} with tokenizer=None: text needs a tokenizer")
        tokens = tokenizer.encode(prompt)
        if not isinstance(tokens, list):
            raise ValueError(f"tokenizer={tokenizer!r}: encode must return a list of token ids, not a "
                             f"{type(tokens).__name__}")
        return tokens
    if isinstance(prompt, Sequence) and prompt and all(isinstance(message, Mapping) for message in prompt):
        return chat_tokens(tokenizer, prompt)
    try:
        return check_integers("prompt", prompt)
    except ValueError as error:
        raise ValueError(f"prompt {shown(prompt)}: must be a string, a list of token ids, a list of chat messages or a "
                         f"Request ({error})") from None


@dataclass(frozen=True)
class _Wanted:
    """What is asked for one prompt."""

    num_new: int
    min_new: int
    seed: int


def _request(model: LanguageModel, decoder: Decoder, tokens: list[int], wanted: _Wanted) -> Request:
    if wanted.num_new:
        check_length(len(tokens) + wanted.num_new, model)
        edge = decoder.windows.edge(len(tokens) + wanted.num_new)
        check_length(edge, model)
        return Request.completing(tokens, wanted.num_new, mask_id=model.spec.mask_id, seed=wanted.seed,
                                  min_new=wanted.min_new, edge=edge)
    if model.spec.mask_id not in tokens:
        raise ValueError(f"prompt {shown(tokens)} with num_new=0: must hold the mask id {model.spec.mask_id} where a "
                         "token is wanted")
    return Request(tokens, seed=wanted.seed, min_new=wanted.min_new)
