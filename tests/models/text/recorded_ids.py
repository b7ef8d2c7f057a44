"""Ids that llama.cpp gives for texts, recorded once, so that tokenizers read from GGUF metadata can be held to them.

    python -m tests.models.text.recorded_ids SMOLLM2.gguf     writes tests/models/text/recorded_ids.json anew

Needs cyllama, which brings llama.cpp, and gguf; no test does. The vocabularies are trained on the corpus itself, across
all borders of words, so that a text cut elsewhere has other ids; some merges are left out, so that some tokens are only
found where merges are ignored.
"""

import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quicksilver.models.text.pre_tokenizers import PRE_TOKENIZERS
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from .corpus import TEXTS

PATH = Path(__file__).with_suffix(".json")
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6
_SPECIAL = ["<|im_start|>", "<|im_end|>", "[INST]"]


def byte_level() -> dict[str, Any]:
    """Metadata of a byte-level vocabulary; the key `pre` is to be added."""
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=_SPECIAL, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokens, merges = _trained(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), None, trainer)
    kept = [" ".join(merge) for number, merge in enumerate(merges) if number % 7]
    return {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": kept,
            "tokenizer.ggml.token_type": [_CONTROL, _CONTROL, _USER_DEFINED] + [_NORMAL] * (len(tokens) - 3),
            "tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": 1}


def sentence_piece() -> dict[str, Any]:
    """Metadata of a vocabulary with scores, in which rare characters have no token but their bytes."""
    escaped = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    trained, _ = _trained(None, escaped, trainers.BpeTrainer(vocab_size=900, limit_alphabet=120, show_progress=False))
    special = ["<unk>", "<s>", "</s>"]
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    # llama.cpp ends a token's text at a zero byte.
    trained = [token for token in trained if token not in (*special, "[INST]") and "\0" not in token]
    tokens = [*special, *fallback, "[INST]", *trained]
    return {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": [0.0] * 260 + [-float(place) for place in range(len(trained))],
            "tokenizer.ggml.token_type": [_UNKNOWN, _CONTROL, _CONTROL] + [_BYTE] * 256 + [_USER_DEFINED]
                                         + [_NORMAL] * len(trained),
            "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0}


def _trained(cut: Any, normalizer: Any, trainer: trainers.BpeTrainer) -> tuple[list[str], list[list[str]]]:
    tokenizer = Tokenizer(models.BPE())
    if cut is not None:
        tokenizer.pre_tokenizer = cut
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator(TEXTS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), model["merges"]


def llama_cpp_ids(path: Path) -> dict[str, list[list[int]]]:
    """Every text's ids, without and with what a text begins and ends with."""
    from cyllama.llama import llama_cpp  # pyright: ignore[reportMissingImports]

    llama_cpp.ggml_backend_load_all()
    params = llama_cpp.LlamaModelParams()
    params.n_gpu_layers = 0
    model = llama_cpp.LlamaModel(str(path), params)
    vocabulary = model.get_vocab()
    return {name: [vocabulary.tokenize(text, adds, True)
                   for text in TEXTS] for name, adds in (("plain", False), ("with_special", True))}


def write_model(path: Path, metadata: Mapping[str, Any]) -> None:
    """A GGUF of one layer of zeros, which llama.cpp loads, with these keys."""
    import gguf  # pyright: ignore[reportMissingImports]
    import numpy as np

    width, writer = 32, gguf.GGUFWriter(str(path), "llama")
    for key, value in metadata.items():
        {list: writer.add_array, bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string}[type(value)](
            key, value)
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(width)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    shapes = {"token_embd": (len(metadata["tokenizer.ggml.tokens"]), width), "output_norm": (width,),
              "blk.0.attn_norm": (width,), "blk.0.ffn_norm": (width,),
              **{f"blk.0.{name}": (width, width) for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate",
                                                              "ffn_up", "ffn_down")}}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", np.zeros(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(smollm2: Path) -> None:
    import cyllama  # pyright: ignore[reportMissingImports]

    built = json.loads((Path(cyllama.__path__[0]) / "build_config.json").read_text())["versions"]
    byte_level_keys, pieces_keys = byte_level(), sentence_piece()
    by_pre: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocabulary.gguf"
        for name in sorted(PRE_TOKENIZERS):
            write_model(path, byte_level_keys | {"tokenizer.ggml.pre": name})
            by_pre[name] = llama_cpp_ids(path)
        write_model(path, pieces_keys)
        by_score = llama_cpp_ids(path)
        write_model(path, pieces_keys | {"tokenizer.ggml.add_space_prefix": False})
        without_prefix = llama_cpp_ids(path)
    distinct: list[Any] = []
    for found in by_pre.values():
        if found not in distinct:
            distinct.append(found)
    PATH.write_text(json.dumps({
        "provenance": {"cyllama": cyllama.__version__, "llama.cpp": built["llama_cpp_version"],
                       "smollm2_file": smollm2.name, "smollm2_sha256": hashlib.sha256(smollm2.read_bytes()).hexdigest(),
                       "call": "tokenize(text, add_special, parse_special=True)"},
        "texts": TEXTS, "byte_level": byte_level_keys, "sentence_piece": pieces_keys,
        "ids": distinct, "by_pre": {name: distinct.index(found) for name, found in by_pre.items()},
        "by_score": by_score, "without_space_prefix": without_prefix, "smollm2": llama_cpp_ids(smollm2)},
        separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
