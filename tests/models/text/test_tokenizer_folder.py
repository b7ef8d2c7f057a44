"""What a folder says of its text, and one line for what it does not or says wrongly."""

from pathlib import Path
from typing import Any

import pytest
from quicksilver.models.text.tokenizer_folder import TokenizerFolder

from .folders import byte_level, folder_with


def read(path: Path, config: dict[str, Any] | None = None, **files: Any) -> TokenizerFolder:
    named = {name.replace("_dot_", "."): content for name, content in files.items()}
    return TokenizerFolder(folder_with(path / "folder", byte_level(), config=config, files=named))


def test_special_tokens_are_those_of_either_file_the_configuration_first(tmp_path: Path) -> None:
    folder = read(tmp_path, {"pad_token": {"content": "<extra>", "lstrip": False}, "unk_token": None},
                  special_tokens_map_dot_json={"mask_token": {"content": "<mask>"}, "eos_token": "<mask>"})
    assert folder.special_tokens == {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<extra>",
                                     "mask_token": "<mask>"}


def test_ends_are_those_of_the_generation_configuration_or_else_of_the_models(tmp_path: Path) -> None:
    assert read(tmp_path).ends() is None
    assert read(tmp_path, config_dot_json={"eos_token_id": 7}).ends() == (7,)
    both = {"config_dot_json": {"eos_token_id": 7}, "generation_config_dot_json": {"eos_token_id": [9, 1, 9]}}
    assert read(tmp_path, **both).ends() == (1, 9)


def test_a_template_is_that_of_its_file_or_else_of_the_configuration(tmp_path: Path) -> None:
    assert read(tmp_path).chat_template() is None
    assert read(tmp_path, {"chat_template": "a"}).chat_template() == "a"
    several = {"chat_template": [{"name": "tool_use", "template": "b"}, {"name": "default", "template": "c"}]}
    assert read(tmp_path, several).chat_template() == "c"
    assert read(tmp_path, {"chat_template": "a"}, chat_template_dot_jinja="d \u00e9").chat_template() == "d \u00e9"


def test_what_a_tokenizer_was_saved_with_cuts_no_text(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    folder = TokenizerFolder(folder_with(tmp_path / "folder", tokenizer))
    assert folder.tokenizer().encode("one two three").ids == byte_level().encode("one two three").ids


@pytest.mark.parametrize(("config", "files", "message"), [
    ({}, {"tokenizer.json": "{"}, r"tokenizer\.json: no tokenizer \("),
    ({}, {"tokenizer.json": {"model": {"type": "Pickle"}}}, r"tokenizer\.json: no tokenizer \("),
    ({}, {"tokenizer_config.json": "[]"}, r"tokenizer_config\.json: must hold a table"),
    ({}, {"special_tokens_map.json": "{"}, r"special_tokens_map\.json: not JSON"),
    ({"eos_token": 3}, {}, r"eos_token=3: must be a text"),
    ({"eos_token": {"id": 3}}, {}, r"eos_token=\{'id': 3\}: must be a text"),
    ({"add_bos_token": "yes"}, {}, r"add_bos_token='yes': must be true or false"),
    ({"chat_template": [{"name": "rag", "template": "a"}]}, {}, r'chat_template=.*or several with one named "default"'),
    ({"chat_template": 3}, {}, "chat_template=3: must be a template"),
    ({}, {"generation_config.json": {"eos_token_id": "</s>"}}, r"generation_config\.json: eos_token_id\[0\]='</s>'"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_damaged_is_named(tmp_path: Path, config: dict[str, Any], files: dict[str, Any], message: str) -> None:
    folder = TokenizerFolder(folder_with(tmp_path / "folder", byte_level(), config=config, files=files))
    with pytest.raises(ValueError, match=message):
        assert [folder.tokenizer(), folder.special_tokens, folder.flag("add_bos_token"), folder.chat_template(),
                folder.ends()]


def test_a_folder_without_tokenizer_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.json: no such file; tokenizer\.model or vocab\.json alone"):
        TokenizerFolder(tmp_path).tokenizer()
