"""What is written of a tokenizer is read again as the same, by us and by the tokenizers library."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from quicksilver.models.text import CheckpointTokenizer
from quicksilver.models.text.tokenizer_writer import write_tokenizer
from tokenizers import Tokenizer

from .corpus import TEXTS
from .folders import CHAT
from .recorded_ids import PATH

RECORDED = json.loads(PATH.read_text())
AROUND = {f"tokenizer.ggml.add_{name}_token": True for name in ("bos", "eos")}
WITHOUT = {f"tokenizer.ggml.add_{name}_token": False for name in ("bos", "eos")}


@pytest.mark.parametrize("keys", [AROUND, WITHOUT], ids=["around", "plain"])
@pytest.mark.parametrize("name", ["byte_level", "sentence_piece"])
def test_it_is_read_again_as_the_same(name: str, keys: dict[str, Any], tmp_path: Path) -> None:
    written = CheckpointTokenizer.from_gguf(
        RECORDED[name] | {"tokenizer.ggml.pre": "llama3", "tokenizer.chat_template": CHAT + "\r\n\u00e4"} | keys)
    write_tokenizer(written, tmp_path)
    again, raw = CheckpointTokenizer.from_folder(tmp_path), Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in TEXTS:
        plain = written.encode(text, add_special_tokens=False)
        assert again.encode(text) == written.encode(text)
        assert raw.encode(text).ids == [*written.prefix, *plain, *written.suffix]
        assert raw.encode(text, "b").ids == [*raw.encode(text).ids, *raw.encode("b").ids]
    for field in ("prefix", "suffix", "special_tokens", "ends", "num_tokens"):
        assert getattr(again, field) == getattr(written, field)
    assert (tmp_path / "chat_template.jinja").read_bytes() == (CHAT + "\r\n\u00e4").encode()


def test_what_it_has_not_is_not_written(tmp_path: Path) -> None:
    read = CheckpointTokenizer.from_gguf(RECORDED["byte_level"] | {"tokenizer.ggml.pre": "qwen2"})
    write_tokenizer(replace(read, ends=()), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
