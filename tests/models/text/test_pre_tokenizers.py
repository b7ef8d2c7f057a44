"""Texts cut as llama.cpp cuts them: ids equal to those that it gave, for every name."""

import json
from typing import Any

import pytest
from quicksilver.models.text import CheckpointTokenizer
from quicksilver.models.text.pre_tokenizers import PRE_TOKENIZERS, PreTokenizerType, pre_tokenizer_type

from .corpus import TEXTS
from .recorded_ids import PATH

RECORDED: dict[str, Any] = json.loads(PATH.read_text())


def named(pre: str) -> CheckpointTokenizer:
    return CheckpointTokenizer.from_gguf(RECORDED["byte_level"] | {"tokenizer.ggml.pre": pre})


def test_the_record_is_of_this_corpus_and_of_every_name() -> None:
    assert RECORDED["texts"] == list(TEXTS)
    assert RECORDED["by_pre"].keys() == PRE_TOKENIZERS.keys()


@pytest.mark.parametrize("pre", sorted(PRE_TOKENIZERS))
def test_ids_are_those_of_llama_cpp(pre: str) -> None:
    tokenizer, wanted = named(pre), RECORDED["ids"][RECORDED["by_pre"][pre]]
    assert [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS] == wanted["plain"]


def test_names_of_different_patterns_give_different_ids() -> None:
    """Or the record would not tell one from another. Of qwen2 and bailingmoe the patterns mean the same."""
    numbers: dict[int, set[PreTokenizerType]] = {}
    for name, number in RECORDED["by_pre"].items():
        numbers.setdefault(number, set()).add(PRE_TOKENIZERS[name])
    alike = {PRE_TOKENIZERS["qwen2"], PRE_TOKENIZERS["bailingmoe"]}
    assert [kinds for kinds in numbers.values() if len(kinds) > 1] == [alike]


@pytest.mark.parametrize("name", ["qwen3", "", None, 3])
def test_a_name_without_patterns_is_refused_with_the_list(name: object) -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.ggml\.pre=.*: must be one of a\.x-4\.0, .*smollm, "):
        pre_tokenizer_type(name)
