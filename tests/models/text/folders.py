"""Folders with tokenizers as published checkpoints have them."""

import json
from pathlib import Path
from typing import Any

from quicksilver.models.text import CheckpointTokenizer
from tokenizers import AddedToken, Tokenizer, processors

from .recorded_ids import PATH

CHAT = ("{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def byte_level() -> Tokenizer:
    """A small byte-level tokenizer whose last two ids are <mask> and <extra>."""
    metadata = json.loads(PATH.read_text())["byte_level"] | {"tokenizer.ggml.pre": "qwen2"}
    tokenizer = CheckpointTokenizer.from_gguf(metadata).tokenizer
    tokenizer.add_special_tokens([AddedToken("<mask>", special=True)])
    tokenizer.add_tokens([AddedToken("<extra>")])
    return tokenizer


def beginning_with_bos(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", pair="<|im_start|> $A $B", special_tokens=[("<|im_start|>", 0)])
    return tokenizer


def folder_with(path: Path, tokenizer: Tokenizer, *, config: dict[str, Any] | None = None,
                files: dict[str, Any] | None = None) -> Path:
    """A folder with tokenizer.json, tokenizer_config.json and further files, tables or texts by name."""
    path.mkdir(exist_ok=True)
    tokenizer.save(str(path / "tokenizer.json"))
    given = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    for name, content in {"tokenizer_config.json": given | (config or {}), **(files or {})}.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (path / name).write_text(text, encoding="utf-8")
    return path
