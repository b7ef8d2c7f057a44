"""Texts that end a completion wherever they begin and end in its tokens.

A row is read after every step, as far as it is decided without a gap, and ended by its consumer where it holds one: the
loop lets go of it after the window, as of a row with an end token. The completion keeps the token that completes the
text; what was decoded after it is waste. Its text ends before the stop string.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from ..kernels.checks import shown
from .canvas import Request
from .decode_run import DecodeRun
from .texts import BLANK, NEAR, Tokenizer, continuation, with_blanks

# A character has at most as many bytes, and a byte-level token at least one.
_BYTES = 4


@dataclass(frozen=True)
class StopStrings:
    """Without strings nothing is stopped, and no tokenizer is needed."""

    strings: tuple[str, ...]
    tokenizer: Tokenizer | None

    @classmethod
    def of(cls, stop: Iterable[str], tokenizer: Tokenizer | None) -> "StopStrings":
        """ValueError unless they are texts, none of them empty, and there is a tokenizer."""
        if isinstance(stop, str) or not isinstance(stop, Iterable):
            raise ValueError(f"stop={shown(stop)}: must be a list of texts, even of one")
        strings = tuple(stop)
        for string in strings:
            if not isinstance(string, str) or not string:
                raise ValueError(f"stop={shown(strings)}: {shown(string)} must be a text of at least one character")
        if strings and tokenizer is None:
            raise ValueError(f"stop={shown(strings)} with tokenizer=None: texts need a tokenizer")
        return cls(strings, tokenizer)

    def before(self, text: str) -> str:
        """The text before the first of them."""
        return text[: self._place(text)]

    def num_until(self, before: Sequence[int], tokens: Sequence[int]) -> int | None:
        """The number of first tokens, after those `before` them, whose text holds one; None where all do not."""
        if not self.strings or not self._is_in(before, tokens):
            return None
        without, holding = 0, len(tokens)
        while holding - without > 1:  # a longer beginning of the tokens holds what a shorter one does
            middle = (without + holding) // 2
            without, holding = (without, middle) if self._is_in(before, tokens[:middle]) else (middle, holding)
        return holding

    def end_rows(self, run: DecodeRun, canvas: Sequence[Sequence[int]]) -> None:
        """End the rows whose text holds one as far as they are decided, `canvas` being their tokens on the host. Only
        what the current window may have changed is read, with as much before it as a stop string may take."""
        if not self.strings:
            return
        assert run.block is not None
        window = run.block.window
        num_earlier = window.query_BQ.shape[1] - window.size  # positions of windows still open to revision
        earliest = window.earliest - num_earlier - _BYTES * max(map(len, self.strings))
        for number in run.rows:
            request, row = run.requests[number], canvas[number]
            first = max(request.start, earliest)
            tokens = _decided(row[first : request.stop], run.spec.mask_id)
            found = self.num_until(row[max(first - NEAR, 0) : first], tokens)
            if found is None:
                run.ended.pop(number, None)  # what held one was revised
            else:
                run.ended[number] = first + found

    def decided(self, shown: str, request: Request, row: Sequence[int], mask_id: int) -> str:
        """What `shown` gave, as far as nothing before it is masked."""
        assert self.tokenizer is not None
        first = _decided(row[request.start : request.stop], mask_id)
        known = with_blanks(self.tokenizer, row[: request.start], first, mask_id)
        same = takewhile(lambda pair: pair[0] == pair[1], zip(shown, known, strict=False))
        return shown[: len([*same])].rstrip(BLANK)

    def shown(self, request: Request, row: Sequence[int], mask_id: int) -> str:
        """The completion in progress, as `with_blanks` has it: as far as its first stop string, and blanks for what may
        become the beginning of one."""
        assert self.tokenizer is not None
        prompt, tokens = row[: request.start], row[request.start : request.stop]
        first = _decided(tokens, mask_id)
        text, known = (with_blanks(self.tokenizer, prompt, part, mask_id) for part in (tokens, first))
        place = self._place(known)
        if place is not None or len(first) == len(tokens):
            return known[:place]
        held = max((length for string in self.strings for length in range(1, len(string))
                    if known.endswith(string[:length])), default=0)
        return text[: len(known) - held] + BLANK * held + text[len(known) :]

    def _place(self, text: str) -> int | None:
        """Where the first of them begins in a text; None where there is none."""
        return min((place for place in map(text.find, self.strings) if place >= 0), default=None)

    def _is_in(self, before: Sequence[int], tokens: Sequence[int]) -> bool:
        assert self.tokenizer is not None
        return self._place(continuation(self.tokenizer, before, tokens)) is not None


def _decided(tokens: Sequence[int], mask_id: int) -> list[int]:
    """The tokens before the first masked position."""
    return list(takewhile(lambda token: token != mask_id, tokens))
