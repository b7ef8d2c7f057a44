"""A tokenizer as the files of a folder, which transformers and `CheckpointTokenizer.from_folder` read."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, processors

from .checkpoint_tokenizer import CheckpointTokenizer


def write_tokenizer(written: CheckpointTokenizer, folder: Path) -> None:
    """tokenizer.json with what a text begins and ends with, tokenizer_config.json with the special tokens by name, and
    where there are such the template of conversations and generation_config.json with what ends an answer.

    transformers' AutoTokenizer reads of a Qwen2 model's folder no more than tokens and merges: it composes characters
    (NFC) and cuts text as Qwen2's own tokenizer does, whatever tokenizer.json says."""
    _with_ends(written).save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **written.special_tokens})
    if written.chat_template is not None:
        (folder / "chat_template.jinja").write_text(written.chat_template, encoding="utf-8", newline="")
    if written.ends:
        _write_json(folder / "generation_config.json", {"eos_token_id": list(written.ends)})


def _with_ends(written: CheckpointTokenizer) -> Tokenizer:
    tokenizer = Tokenizer.from_str(written.tokenizer.to_str())
    texts = {place: tokenizer.id_to_token(place) for place in (*written.prefix, *written.suffix)}
    before, after = ([texts[place] for place in places] for places in (written.prefix, written.suffix))
    one, two = ([*before, f"${name}", *after] for name in "AB")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=one, pair=[*one, *two], special_tokens=[(text, place) for place, text in texts.items()])
    return tokenizer


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
