import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from quicksilver.decoders import Categorical, Update, presets
from quicksilver.decoders.trace import TraceStep
from quicksilver.experiments.published import answer
from quicksilver.experiments.published.answer import Answer, written
from quicksilver.models import LoadedModel, load
from transformers import LlamaConfig, LlamaForCausalLM

END = 2


class Bytes:
    """A tokenizer of bytes, after three special tokens; its template puts a mark before and after what is said."""

    end_ids = (END,)
    num_tokens = 259
    chat_template = "<1>{}<0>"

    def encode(self, text: str) -> list[int]:
        marks = {"<1>": 1, "<0>": 0}
        ids = []
        for part in text.replace("<1>", "|<1>|").replace("<0>", "|<0>|").split("|"):
            ids += [marks[part]] if part in marks else [3 + byte for byte in part.encode()]
        return ids

    def decode(self, ids: list[int]) -> str:
        return bytes(token - 3 for token in ids if token > END).decode(errors="replace")

    def apply_chat_template(self, turns: list[dict[str, str]]) -> list[int]:
        return self.encode(self.chat_template.format(turns[0]["content"]))


@dataclass(frozen=True)
class Tiny:
    """A random model."""

    def check(self) -> None:
        pass

    def load(self, folder: Path, dtype: torch.dtype | str, device: str) -> LoadedModel:
        torch.manual_seed(1)
        config = LlamaConfig(vocab_size=259, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                             num_attention_heads=2, max_position_embeddings=128, initializer_range=0.5)
        LlamaForCausalLM(config).save_pretrained(folder)
        loaded = load(folder, dtype=dtype, device=device, say=lambda line: None)
        vars(loaded)["tokenizer"] = Bytes()  # in place of the one it would read
        return loaded


def experiment(**changes: Any) -> Answer:
    settings: dict[str, Any] = {
        "weights": Tiny(), "weights_folder": None, "prompt": "Why?", "seeds": [0], "num_new": 24, "dtype": "float32",
        "threads": 1, "device": "cpu", "kernels": "auto",
        "decoder": presets.autoregressive()}
    return Answer(**(settings | changes))


def answers(folder: Path) -> list[Any]:
    return [json.loads(path.read_text()) for path in (folder / "records").glob("*.json")]


def test_greedy_tokens_are_those_of_generate(tmp_path: Path) -> None:
    assert experiment().run(tmp_path) == 0
    (record,) = answers(tmp_path)
    prompt = Bytes().encode("<1>Why?<0>")
    tokens = torch.tensor([prompt])
    module: Any = LlamaForCausalLM.from_pretrained(tmp_path / "weights").eval()
    told = module.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=24, do_sample=False,
                           eos_token_id=END, pad_token_id=END)[0, len(prompt) :]
    assert record["result"]["tokens"] == told.tolist()
    assert record["result"]["num_prompt_tokens"] == len(prompt) == 6


@dataclass(frozen=True)
class Stream:
    """A run that reads so after each step."""

    texts: tuple[str, ...]

    def __iter__(self) -> Iterator[Update]:
        for text in self.texts:
            yield Update(TraceStep(0, 0, ()), [text], [text.partition("_")[0].rstrip("\ufffd")])

    def finish(self) -> Any:
        return SimpleNamespace(texts=[self.texts[-1]])


def test_nothing_undecided_and_no_half_of_a_character_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[str] = []
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(write=pieces.append, flush=lambda: None))
    written(Stream(("The___", "The \ufffd__", "The \u00e9__", "The \u00e9_x_", "The \u00e9 x.")))  # pyright: ignore
    assert "".join(pieces) == "The \u00e9 x.\n"
    assert [piece for piece in pieces if piece][:3] == ["The", " ", "\u00e9"]


def test_the_answer_is_written_and_what_ran_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment().run(tmp_path)
    (record,) = answers(tmp_path)
    said = capsys.readouterr()
    assert said.out == record["result"]["text"] + "\n"
    result = record["result"]
    assert (result["dtype"], result["model"]) == ("float32", "LlamaForCausalLM in DecodableTransformer")
    assert result["kernels"]["commit"] == "reference"
    assert result["decode_tokens_per_second"] > 0
    assert "tokenizers" in result["libraries"]


@pytest.mark.parametrize(("warm", "capture", "decodes"), [
    (False, "none", 1), (True, "none", 2), (False, "graph", 1), (True, "graph", 3)])
def test_an_answer_is_written_at_once_and_timed_again_where_it_is_to_be_warm(
        warm: bool, capture: str, decodes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    written_before: list[str] = []
    streamed = answer.stream_generate

    def counted(*args: Any, **kwargs: Any) -> Any:
        written_before.append(capsys.readouterr().out)
        return streamed(*args, **kwargs)

    monkeypatch.setattr(answer, "stream_generate", counted)
    experiment(warm=warm, capture=capture).run(tmp_path)
    (record,) = answers(tmp_path)
    assert len(written_before) == decodes
    assert written_before[0] == ""
    assert "".join([*written_before, capsys.readouterr().out]) == record["result"]["text"] + "\n"
    if capture == "graph":
        assert record["result"]["steps"]["steps_taken"] == 2


def test_each_seed_draws_an_answer_of_its_own_and_the_same_again(tmp_path: Path) -> None:
    decoder = presets.autoregressive(Categorical(temperature=2.0))
    experiment(seeds=[3, 4], decoder=decoder).run(tmp_path)
    first = {record["point"]["seed"]: record["result"]["tokens"] for record in answers(tmp_path)}
    assert first[3] != first[4]
    experiment(seeds=[4], decoder=decoder).run(tmp_path)
    assert {record["point"]["seed"]: record["result"]["tokens"] for record in answers(tmp_path)} == first


@pytest.mark.parametrize(("changes", "message"), [
    ({"prompt": " "}, "prompt=' ': must hold a text"), ({"num_new": 0}, "num_new=0: must be"),
    ({"seeds": []}, "seeds=.*needs at least one"), ({"seeds": [1, 1]}, "must all be different"),
    ({"dtype": "int3"}, "dtype='int3': must be one of float32, bfloat16, int4, int8"),
    ({"device": "tpu"}, "device='tpu'"),
], ids=str)
def test_what_cannot_be_answered_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        experiment(**changes)
