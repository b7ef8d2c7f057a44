"""A conversation: what was said before is seen, an empty line begins anew, and what cannot be said is left out."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from quicksilver.decoders import generate, presets
from quicksilver.experiments.published import chat
from quicksilver.experiments.published.chat import Chat
from quicksilver.models import LoadedModel
from rich.console import Console

from tests.experiments.published.test_answer import Bytes, Tiny


class Conversation(Bytes):
    """A template of all turns."""

    def apply_chat_template(self, turns: list[dict[str, str]]) -> list[int]:
        return self.encode("".join(f"<1>{turn['content']}" for turn in turns) + "<0>")


class Talking(Tiny):
    def load(self, folder: Path, dtype: torch.dtype | str, device: str) -> LoadedModel:
        loaded = super().load(folder, dtype, device)
        vars(loaded)["tokenizer"] = Conversation()
        return loaded


OPTIONS: dict[str, Any] = {"weights": Talking(), "decoder": presets.autoregressive(), "seed": 0, "num_new": 6,
                           "dtype": "float32", "threads": 1, "device": "cpu", "kernels": "auto"}


def talk(said: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capture: str = "none") -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(said))
    assert Chat(**OPTIONS, capture=capture).run(folder) == 0


def answer_to(text: str, folder: Path) -> str:
    loaded = Tiny().load(folder / "weights", torch.float32, "cpu")
    decoder = replace(presets.autoregressive(), end_id=Bytes.end_ids)
    generation = generate(loaded.model, decoder, [Bytes().encode(text)], num_new=6, tokenizer=Bytes())
    assert generation.texts is not None
    return generation.texts[0]


@pytest.mark.parametrize("capture", ["none", "graph"])
def test_an_answer_sees_what_was_said_before_until_an_empty_line(
        capture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    talk("Why?\nAnd?\n\nAnd?\n", tmp_path, monkeypatch, capture)
    first = answer_to("<1>Why?<0>", tmp_path)
    wanted = [first, answer_to(f"<1>Why?<1>{first}<1>And?<0>", tmp_path), answer_to("<1>And?<0>", tmp_path)]
    assert capsys.readouterr().out == "".join(f"{text}\n" for text in wanted)


def test_what_is_too_long_is_said_to_be_and_the_conversation_goes_on(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = io.StringIO()
    monkeypatch.setattr(chat, "console", Console(file=lines))
    talk("x" * 200 + "\nWhy?\n", tmp_path, monkeypatch)
    assert capsys.readouterr().out == answer_to("<1>Why?<0>", tmp_path) + "\n"
    assert "not said" in lines.getvalue()


@pytest.mark.parametrize(("changes", "message"), [
    ({"num_new": 0}, "num_new=0"), ({"seed": -1}, "seed=-1"), ({"dtype": "int3"}, "dtype='int3'"),
    ({"device": "tpu"}, "device='tpu'"), ({"capture": "often"}, "capture='often'")])
def test_bad_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Chat(**{**OPTIONS, **changes})
