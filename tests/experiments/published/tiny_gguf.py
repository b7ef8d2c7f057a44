"""A tiny random Llama as a GGUF file with a vocabulary, in the place of published weights."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.models.checkpoints.gguf_models import Written
from tests.models.text.recorded_ids import PATH

VOCABULARY: dict[str, Any] = json.loads(PATH.read_text())["byte_level"] | {"tokenizer.ggml.pre": "smollm"}


@dataclass(frozen=True)
class TinyGguf:
    name: str = "tiny"

    def check(self) -> None:
        pass

    def fetched(self, folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        size = {"vocab_size": len(VOCABULARY["tokenizer.ggml.tokens"])}
        return Written("llama", "LlamaForCausalLM", size, VOCABULARY).write(folder)
