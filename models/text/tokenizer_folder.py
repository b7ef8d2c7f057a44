"""What a checkpoint's folder says of its text: tokenizer.json, the names of special tokens, end ids, chat template."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ...kernels.checks import check_integers, shown
from ..checkpoints.json_file import read_json
from ..checkpoints.published_folder import file_of, has_file

_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

_MOST_BYTES = 1 << 28


@dataclass(frozen=True)
class TokenizerFolder:
    """A folder with tokenizer.json; tokenizer_config.json, special_tokens_map.json, chat_template.jinja,
    generation_config.json and config.json are read where they are there. Errors are ValueErrors that name the file and
    what is allowed."""

    path: Path

    def tokenizer(self) -> Tokenizer:
        """That of tokenizer.json as it is: nothing of it is replaced by a class's conventions."""
        path = self.path / "tokenizer.json"
        if not has_file(self.path, path.name):
            raise ValueError(f"{path}: no such file; tokenizer.model or vocab.json alone are not read")
        text = _text(file_of(self.path, path.name))
        try:
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the library raises no narrower one
            raise ValueError(f"{path}: no tokenizer ({error})") from None
        tokenizer.no_truncation()  # what a tokenizer was saved with would cut texts, and fill them up
        tokenizer.no_padding()
        return tokenizer

    @cached_property
    def special_tokens(self) -> dict[str, str]:
        """The texts of the special tokens that are named, as "eos_token"."""
        values = self._optional("special_tokens_map.json") | {
            name: value for name, value in self._config.items() if name in _NAMES and value is not None}
        return {name: self._text_of(name, values[name]) for name in _NAMES if values.get(name) is not None}

    def flag(self, name: str) -> bool | None:
        """What tokenizer_config.json says of "add_bos_token", say; None where it says nothing."""
        value = self._config.get(name)
        if value is not None and not isinstance(value, bool):
            raise ValueError(f"{self.path / 'tokenizer_config.json'}: {name}={shown(value)}: must be true or false")
        return value

    def ends(self) -> tuple[int, ...] | None:
        """The ids at which generation_config.json, or else config.json, ends an answer, ascending; None where neither
        says."""
        for name in ("generation_config.json", "config.json"):
            value = self._optional(name).get("eos_token_id")
            if value is not None:
                values = value if isinstance(value, list) else [value]
                return tuple(sorted(set(check_integers(f"{self.path / name}: eos_token_id", values))))
        return None

    def chat_template(self) -> str | None:
        """Of chat_template.jinja, or else of tokenizer_config.json; of several that named "default"."""
        if has_file(self.path, "chat_template.jinja"):
            return _text(file_of(self.path, "chat_template.jinja"))
        template = self._config.get("chat_template")
        if isinstance(template, list):
            named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, Mapping)}
            template = named.get("default", template)
        if template is not None and not isinstance(template, str):
            raise ValueError(f"{self.path / 'tokenizer_config.json'}: chat_template={shown(template)}: must be a "
                             'template, or several with one named "default"')
        return template

    @cached_property
    def _config(self) -> dict[str, Any]:
        return self._optional("tokenizer_config.json")

    def _optional(self, name: str) -> dict[str, Any]:
        return read_json(file_of(self.path, name)) if has_file(self.path, name) else {}

    def _text_of(self, name: str, value: Any) -> str:
        text = value.get("content") if isinstance(value, Mapping) else value
        if not isinstance(text, str):
            raise ValueError(f"{self.path}: {name}={shown(value)}: must be a text")
        return text


def _text(path: Path) -> str:
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path}: {path.stat().st_size} bytes: must be at most {_MOST_BYTES}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error})") from None
