"""The tokenizer of a published checkpoint, from a folder or from a GGUF's metadata, with one interface.

    tokenizer = CheckpointTokenizer.from_folder("path/to/checkpoint")
    generate(model, decoder, ["Once upon"], num_new=32, tokenizer=tokenizer)
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders

from ...kernels.checks import check_integers, shown
from .chat_template import ChatTemplate
from .tokenizer_folder import TokenizerFolder
from .tokenizer_metadata import TokenizerMetadata

# GPT-2's characters for bytes: those that are seen stand for themselves, the others have those from 256 on.
_SEEN = frozenset((*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)))
_UNSEEN = [byte for byte in range(256) if byte not in _SEEN]
_CHARACTERS = {byte: chr(byte if byte in _SEEN else 256 + _UNSEEN.index(byte)) for byte in range(256)}
_ALL_BYTES = bytes(range(256))


@dataclass(frozen=True, eq=False)
class CheckpointTokenizer:
    """Text to ids and back. `prefix` and `suffix` are what a text begins and ends with (BOS, EOS; often nothing);
    `special_tokens` the texts of special tokens by their names ("bos_token"); `ends` the ids that end an answer;
    `template` that of conversations, or None; `origin` the folder or file, which errors name. Special tokens that stand
    in a text count as such, in transformers' way."""

    tokenizer: Tokenizer
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    special_tokens: Mapping[str, str]
    ends: tuple[int, ...]
    template: ChatTemplate | None
    origin: str

    @classmethod
    def from_folder(cls, path: str | Path) -> "CheckpointTokenizer":
        """That of a folder with tokenizer.json. ValueError names what is missing, damaged or of another kind."""
        folder = TokenizerFolder(Path(path))
        tokenizer, named = folder.tokenizer(), folder.special_tokens
        around = dict(zip(("bos", "eos"), _added_around(tokenizer), strict=True))
        for name in around:
            adds = folder.flag(f"add_{name}_token")
            if adds is not None and (adds != bool(around[name])):
                around[name] = (_id(tokenizer, named, f"{name}_token", str(path)),) if adds else ()
        ends, source = folder.ends(), folder.chat_template()
        if ends is None:
            ends = (_id(tokenizer, named, "eos_token", str(path)),) if "eos_token" in named else ()
        template = None if source is None else ChatTemplate(source, named, str(path))
        return cls(tokenizer, around["bos"], around["eos"], named, ends, template, str(path))

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any], origin: str = "GGUF") -> "CheckpointTokenizer":
        """That of a GGUF's keys `tokenizer.*`, with llama.cpp's ids. ValueError names the key and what is allowed."""
        read = TokenizerMetadata(metadata, origin)
        tokens, tokenizer = read.tokens, read.tokenizer()
        ids = {f"{name}_token": read.token_id(key, len(tokens)) for name, key in (
            ("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("sep", "seperator"), ("pad", "padding"),
            ("mask", "mask"))}
        named = {name: tokens[place] for name, place in ids.items() if place is not None}
        prefix = (_id(tokenizer, named, "bos_token", origin),) if read.adds_bos else ()
        suffix = (_id(tokenizer, named, "eos_token", origin),) if read.flag("add_eos_token", False) else ()
        source = metadata.get("tokenizer.chat_template")
        if source is not None and not isinstance(source, str):
            raise ValueError(f"{origin}: tokenizer.chat_template={shown(source)}: must be a template")
        template = None if source is None else ChatTemplate(source, named, origin)
        return cls(tokenizer, prefix, suffix, named, read.ends(tokens), template, origin)

    @cached_property
    def num_tokens(self) -> int:
        """One more than the largest id. A model may have further ones, which mean nothing."""
        return 1 + max(self.tokenizer.get_vocab(with_added_tokens=True).values())

    def id_of(self, name: str) -> int:
        """The id of a special token by its name, as "mask_token". ValueError with those that are named where this is
        not one of them."""
        return _id(self.tokenizer, self.special_tokens, name, self.origin)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The ids that end an answer, for `Decoder.end_id`. ValueError where the checkpoint names none."""
        if not self.ends:
            raise ValueError(f"{self.origin}: names no token that ends an answer; must be eos_token_id of "
                             "generation_config.json or config.json, eos_token of tokenizer_config.json, or "
                             "tokenizer.ggml.eos_token_id; give the decoder's end_id")
        return self.ends

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The ids of a text; with `add_special_tokens` after the prefix, unless the text begins with it, and before the
        suffix. A character of which the tokenizer has no token is left out, with a UserWarning."""
        if not isinstance(text, str):
            raise ValueError(f"text={shown(text)}: must be a string")
        try:
            lost = text.encode().translate(None, self._bytes)
        except UnicodeEncodeError as error:
            raise ValueError(f"text={shown(text)}: holds half a surrogate pair ({error})") from None
        if lost:
            warnings.warn(f"{self.origin}: has no token for the bytes {sorted(set(lost))} of a text; they are left out",
                          stacklevel=2)
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        if not add_special_tokens:
            return ids
        prefix = () if tuple(ids[: len(self.prefix)]) == self.prefix else self.prefix
        return [*prefix, *ids, *self.suffix]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of ids, with U+FFFD for what is no whole character. ValueError for what is no id."""
        return self.tokenizer.decode(check_integers("ids", ids, at_most=self.num_tokens - 1),
                                     skip_special_tokens=skip_special_tokens)

    @property
    def chat_template(self) -> str | None:
        return None if self.template is None else self.template.source

    def apply_chat_template(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True,
                            variables: Mapping[str, Any] | None = None) -> list[int]:
        """The ids of a conversation; its template writes all special tokens, so that none is added. ValueError with the
        reason where the template refuses the messages, or there is none."""
        if self.template is None:
            raise ValueError(f"{self.origin}: has no chat template; give text or token ids")
        text = self.template.rendered(messages, add_generation_prompt=add_generation_prompt, variables=variables)
        return self.encode(text, add_special_tokens=False)

    @cached_property
    def _bytes(self) -> bytes:
        """The bytes that a text may hold: all but those that a byte-level tokenizer has no token for."""
        if not isinstance(self.tokenizer.decoder, decoders.ByteLevel):
            return _ALL_BYTES
        known = self.tokenizer.get_vocab(with_added_tokens=False)
        return bytes(byte for byte, character in _CHARACTERS.items() if character in known)


def _id(tokenizer: Tokenizer, named: Mapping[str, str], name: str, origin: str) -> int:
    if name not in named:
        raise ValueError(f"{origin}: has no {name}; must be one of {', '.join(named) or 'none: it names no token'}")
    found = tokenizer.token_to_id(named[name])
    if found is None:
        raise ValueError(f"{origin}: {name}={named[name]!r}: no token of the tokenizer")
    return found


def _added_around(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the tokenizer of a file puts before and after a text."""
    plain, whole = (tokenizer.encode("a", add_special_tokens=adds).ids for adds in (False, True))
    starts = (place for place in range(len(whole) + 1) if whole[place : place + len(plain)] == plain)
    start = next(starts, len(whole))
    return tuple(whole[:start]), tuple(whole[start + len(plain) :])
