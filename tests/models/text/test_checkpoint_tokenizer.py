"""One interface for every checkpoint's text: ids of tokenizer.json as it is, no BOS twice, what has no token told."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quicksilver.decoders.texts import Tokenizer, chat_tokens
from quicksilver.models.text import CheckpointTokenizer
from tokenizers import Tokenizer as Raw
from transformers import AutoTokenizer

from .corpus import TEXTS
from .folders import CHAT, beginning_with_bos, byte_level, folder_with
from .recorded_ids import PATH

MESSAGES = [{"role": "user", "content": "a  12 b"}]


def saved(path: Path, tokenizer: Raw | None = None, config: dict[str, Any] | None = None, **files: Any
          ) -> CheckpointTokenizer:
    named = {f"{name}.json": content for name, content in files.items()}
    return CheckpointTokenizer.from_folder(
        folder_with(path / "folder", tokenizer or byte_level(), config=config, files=named))


@pytest.mark.parametrize("begins", [False, True], ids=["plain", "with BOS"])
def test_ids_are_those_of_the_raw_tokenizer_and_of_transformers(tmp_path: Path, begins: bool) -> None:
    raw = beginning_with_bos(byte_level()) if begins else byte_level()
    tokenizer = saved(tmp_path, raw, {"chat_template": CHAT})
    theirs = AutoTokenizer.from_pretrained(tmp_path / "folder")
    for text in TEXTS:
        starts = text.startswith("<|im_start|>")  # where the raw tokenizer, and transformers, put a second BOS
        for adds in (False, True):
            ids = tokenizer.encode(text, add_special_tokens=adds)
            wanted = raw.encode(text, add_special_tokens=adds).ids
            assert ids == (wanted[1:] if adds and begins and starts else wanted)
            assert ids == theirs.encode(text, add_special_tokens=adds)[int(adds and begins and starts) :]
            assert tokenizer.decode(ids, skip_special_tokens=False) == theirs.decode(ids)
            assert tokenizer.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert tokenizer.apply_chat_template(MESSAGES) == theirs.apply_chat_template(MESSAGES, add_generation_prompt=True
                                                                                 )["input_ids"]


@pytest.mark.parametrize("begins", [False, True], ids=["plain", "with BOS"])
@pytest.mark.parametrize("adds", [None, False, True])
def test_the_configuration_says_whether_a_text_begins_with_bos(tmp_path: Path, begins: bool, adds: bool | None) -> None:
    raw = beginning_with_bos(byte_level()) if begins else byte_level()
    tokenizer = saved(tmp_path, raw, {} if adds is None else {"add_bos_token": adds, "add_eos_token": bool(adds)})
    plain, wants = byte_level().encode("hello").ids, begins if adds is None else adds
    assert tokenizer.encode("hello") == [*([0] if wants else []), *plain, *([1] if adds else [])]
    assert tokenizer.encode("<|im_start|>hello") == [0, *plain, *([1] if adds else [])]


def test_a_conversation_has_one_bos_where_its_template_writes_it(tmp_path: Path) -> None:
    """InfiniLM#388: the template writes it, and the tokenizer puts another one before."""
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer = saved(tmp_path, beginning_with_bos(byte_level()), {"chat_template": template, "add_bos_token": True})
    assert tokenizer.apply_chat_template(MESSAGES) == [0, *byte_level().encode("a  12 b").ids]
    assert chat_tokens(tokenizer, MESSAGES) == tokenizer.apply_chat_template(MESSAGES)
    fits: Tokenizer = tokenizer
    assert fits.decode(fits.encode("a")) == "a"


def test_special_ids_are_the_checkpoints_or_an_error(tmp_path: Path) -> None:
    tokenizer = saved(tmp_path, config={"mask_token": "<mask>", "pad_token": "<lost>"})
    assert tokenizer.id_of("mask_token") == tokenizer.num_tokens - 2
    assert tokenizer.end_ids == (1,)
    with pytest.raises(ValueError, match="folder: has no sep_token; must be one of bos_token, eos_token, pad_token"):
        tokenizer.id_of("sep_token")
    with pytest.raises(ValueError, match="folder: pad_token='<lost>': no token of the tokenizer"):
        tokenizer.id_of("pad_token")
    unnamed = saved(tmp_path, config={"eos_token": None})
    with pytest.raises(ValueError, match="folder: names no token that ends an answer; must be eos_token_id of"):
        _ = unnamed.end_ids
    with pytest.raises(ValueError, match="folder: has no eos_token; must be one of bos_token"):
        saved(tmp_path, config={"eos_token": None, "add_eos_token": True})
    assert saved(tmp_path, generation_config={"eos_token_id": [5, 3]}).end_ids == (3, 5)


def test_ids_past_the_last_one_are_refused(tmp_path: Path) -> None:
    tokenizer = saved(tmp_path)
    assert tokenizer.num_tokens == byte_level().get_vocab_size()
    for wrong in (tokenizer.num_tokens, -1):
        with pytest.raises(ValueError, match=rf"ids\[1\]={wrong}: must be an integer of at least 0 and at most"):
            tokenizer.decode([1, wrong])


def test_a_conversation_needs_a_template(tmp_path: Path) -> None:
    tokenizer = saved(tmp_path)
    assert tokenizer.chat_template is None
    with pytest.raises(ValueError, match="folder: has no chat template"):
        tokenizer.apply_chat_template(MESSAGES)


def test_characters_without_tokens_are_left_out_and_named() -> None:
    """As by llama.cpp and the tokenizers library, which say nothing."""
    recorded = json.loads(PATH.read_text())["byte_level"] | {"tokenizer.ggml.pre": "smollm"}
    lost = {"\u0104", "\u0106", "\u00f1"}  # of the bytes 4, 6 and f1
    tokens = [f"<{place}>" if token in lost else token for place, token in enumerate(recorded["tokenizer.ggml.tokens"])]
    merges = [merge for merge in recorded["tokenizer.ggml.merges"] if not lost.intersection(merge)]
    kept = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": merges}
    tokenizer = CheckpointTokenizer.from_gguf(recorded | kept, "file")
    with pytest.warns(UserWarning, match=r"file: has no token for the bytes \[4, 6\] of a text; they are left out"):
        assert tokenizer.encode("x\x06\x04y") == tokenizer.encode("x") + tokenizer.encode("y")
    for text in ("\u00f1 \u00ff", *TEXTS):  # these characters, of other bytes
        assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text
    with pytest.raises(ValueError, match="holds half a surrogate pair"):
        tokenizer.encode("\ud800")
    not_a_text: Any = b"a"
    with pytest.raises(ValueError, match="text=b'a': must be a string"):
        tokenizer.encode(not_a_text)


WHOLE = CheckpointTokenizer.from_gguf(json.loads(PATH.read_text())["byte_level"] | {"tokenizer.ggml.pre": "llama3"})
PIECES = CheckpointTokenizer.from_gguf(json.loads(PATH.read_text())["sentence_piece"])


@settings(deadline=None)
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\u2581")))
def test_any_text_is_read_back(text: str) -> None:
    for tokenizer in (WHOLE, PIECES):
        assert tokenizer.decode(tokenizer.encode(text)) == text
