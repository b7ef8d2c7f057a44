"""The tokenizer keys of a GGUF's metadata as a tokenizer of the tokenizers library, with llama.cpp's ids.

    gpt2    byte-level byte-pair encoding: merges in their order, pieces by `tokenizer.ggml.pre`
    llama   SentencePiece by scores: the pair whose token scores highest is merged first; bytes where there is no token
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from ...kernels.checks import check_integer, check_integers, shown
from .pre_tokenizers import PreTokenizerType, pre_tokenizer_type

_PREFIX = "tokenizer.ggml."
MODEL = f"{_PREFIX}model"
"""The key that a file with a tokenizer has."""
_SPACE = "\u2581"
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6
_LARGEST_TYPE = 6
_MODELS = "gpt2", "llama"
# As llama.cpp, which finds a turn's end by its text where no key names it.
_ENDS = frozenset(("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<|endoftext|>",
                   "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>",
                   "<eos>", "<\uff5cend\u2581of\u2581sentence\uff5c>"))


@dataclass(frozen=True)
class TokenizerMetadata:
    """The keys `tokenizer.*` of a GGUF, with lists, strings and integers of Python. Errors are ValueErrors that name
    the key and what is allowed, after `origin`."""

    values: Mapping[str, Any]
    origin: str

    @property
    def model(self) -> str:
        name = self.values.get(MODEL)
        if name not in _MODELS:
            raise ValueError(f"{self.origin}: {MODEL}={shown(name)}: must be one of {', '.join(_MODELS)}")
        return name

    @property
    def tokens(self) -> list[str]:
        """The text of every id; one without text has a name, as in llama.cpp."""
        tokens = [token or f"[EMPTY_{place}]" for place, token in enumerate(self._strings("tokens"))]
        (twice, count), = Counter(tokens).most_common(1)
        if count > 1:
            raise ValueError(f"{self.origin}: {_PREFIX}tokens: {shown(twice)} stands there {count} times")
        return tokens

    def token_types(self, tokens: Sequence[str]) -> list[int]:
        """The kind of every id, as GGUF numbers them: normal where the key is absent, control where the text is that
        of a turn's end, whatever the key says."""
        key = f"{_PREFIX}token_type"
        types = [_NORMAL] * len(tokens)
        if key in self.values:
            types = check_integers(f"{self.origin}: {key}", self.values[key], 0, _LARGEST_TYPE)
            self._check_length("token_type", types, tokens)
        return [_CONTROL if token in _ENDS else kind for token, kind in zip(tokens, types, strict=True)]

    def flag(self, name: str, default: bool) -> bool:
        value = self.values.get(f"{_PREFIX}{name}", default)
        if not isinstance(value, bool):
            raise ValueError(f"{self.origin}: {_PREFIX}{name}={shown(value)}: must be true or false")
        return value

    def token_id(self, name: str, num_tokens: int) -> int | None:
        """The id that `name` has, as "eos"; None where the key is absent."""
        value = self.values.get(key := f"{_PREFIX}{name}_token_id")
        return None if value is None else check_integer(f"{self.origin}: {key}", value, 0, num_tokens - 1)

    def ends(self, tokens: Sequence[str]) -> tuple[int, ...]:
        """The ids that end an answer, ascending: those that keys name, and those whose text does."""
        named = {self.token_id(name, len(tokens)) for name in ("eos", "eot", "eom")}
        by_text = {place for place, token in enumerate(tokens) if token in _ENDS}
        if {"<|return|>", "<|call|>"} <= set(tokens):  # there "<|end|>" ends a message, after which the turn goes on
            by_text -= {place for place, token in enumerate(tokens) if token == "<|end|>"}
        return tuple(sorted(place for place in named | by_text if place is not None))

    @property
    def adds_bos(self) -> bool:
        """Whether a text begins with the BOS token."""
        by_default = self.model == "llama" or self._pre.adds_bos
        return self.flag("add_bos_token", by_default)

    @property
    def _pre(self) -> PreTokenizerType:
        try:
            return pre_tokenizer_type(self.values.get(f"{_PREFIX}pre"))
        except ValueError as error:
            raise ValueError(f"{self.origin}: {error}") from None

    def tokenizer(self) -> Tokenizer:
        """The tokenizer; what adds BOS and EOS tokens is not part of it."""
        tokens = self.tokens
        types = self.token_types(tokens)
        found = self._byte_level(tokens) if self.model == "gpt2" else self._sentence_piece(tokens, types)
        for token, kind in zip(tokens, types, strict=True):
            if kind in (_UNKNOWN, _CONTROL):
                found.add_special_tokens([AddedToken(token, normalized=False, special=True)])
            elif kind == _USER_DEFINED:
                found.add_tokens([AddedToken(token, normalized=False)])
        return found

    def _byte_level(self, tokens: list[str]) -> Tokenizer:
        merges = []
        for place, merge in enumerate(self._strings("merges")):
            first, space, second = merge[1:].partition(" ")
            if not space or not second:
                raise ValueError(f"{self.origin}: {_PREFIX}merges[{place}]={merge!r}: must be two tokens with a space "
                                 "between them")
            merges.append((merge[0] + first, second))
        tokenizer = Tokenizer(self._built(tokens, merges, ignore_merges=self._pre.ignores_merges))
        tokenizer.pre_tokenizer = self._pre.built()
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer

    def _built(self, tokens: list[str], merges: list[tuple[str, str]], *, ignore_merges: bool) -> models.BPE:
        try:
            return models.BPE(_ids(tokens), merges, ignore_merges=ignore_merges)
        except Exception as error:  # the library raises no narrower one
            raise ValueError(f"{self.origin}: {_PREFIX}merges: {error}") from None

    def _sentence_piece(self, tokens: list[str], types: list[int]) -> Tokenizer:
        scores = self.values.get(f"{_PREFIX}scores")
        if not isinstance(scores, Sequence) or not all(isinstance(score, int | float) for score in scores):
            raise ValueError(f"{self.origin}: {_PREFIX}scores={shown(scores)}: must be a list of numbers")
        self._check_length("scores", scores, tokens)
        unknown = self.token_id("unknown", len(tokens))
        tokenizer = Tokenizer(models.BPE(
            _ids(tokens), [*_merges_by_score(tokens, types, scores)], byte_fallback=True, fuse_unk=False,
            unk_token=tokens[0 if unknown is None else unknown]))
        prefixed = self.flag("add_space_prefix", True)
        tokenizer.normalizer = normalizers.Sequence(
            [*([normalizers.Prepend(_SPACE)] if prefixed else []), normalizers.Replace(" ", _SPACE)])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(),
             *([decoders.Strip(" ", 1, 0)] if prefixed else [])])
        return tokenizer

    def _strings(self, name: str) -> list[str]:
        values = self.values.get(f"{_PREFIX}{name}")
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise ValueError(f"{self.origin}: {_PREFIX}{name}={shown(values)}: must be a list of strings")
        for place, value in enumerate(values):
            if not isinstance(value, str):
                raise ValueError(f"{self.origin}: {_PREFIX}{name}[{place}]={shown(value)}: must be a string")
        return list(values)

    def _check_length(self, name: str, values: Sequence[object], tokens: Sequence[str]) -> None:
        if len(values) != len(tokens):
            raise ValueError(f"{self.origin}: {_PREFIX}{name}: has {len(values)} entries for {len(tokens)} tokens")


def _ids(tokens: Sequence[str]) -> dict[str, int]:
    return {token: place for place, token in enumerate(tokens)}


def _merges_by_score(tokens: Sequence[str], types: Sequence[int], scores: Sequence[float]) -> Iterator[tuple[str, str]]:
    """Every way to make a token of two, the highest score first. SentencePiece merges characters that are no token of
    their own too; a byte-pair merge cannot, nor does a trained vocabulary have such."""
    known = {token for token, kind in zip(tokens, types, strict=True) if kind != _BYTE}
    for place in sorted(range(len(tokens)), key=lambda place: -scores[place]):
        token = tokens[place]
        if token in known:
            yield from ((token[:cut], token[cut:]) for cut in range(1, len(token))
                        if token[:cut] in known and token[cut:] in known)
