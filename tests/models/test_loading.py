"""Faults of other loaders, publicly reported, planted one by one: each is refused or seen. Those that GGUF files, text
and single families have are tested where these are."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from quicksilver.decoders import generate, presets
from quicksilver.models import LoadedModel, load
from quicksilver.models.families import FAMILIES, describe
from quicksilver.models.filling import parts_of
from safetensors.torch import load_file, save_file

from tests.models.checkpoints.mutations import WRONG_TYPES
from tests.models.families.transformers_model import SIZE, Variant, check_same, distance

LLAMA3 = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 64}


def loaded(folder: Path, **options: Any) -> LoadedModel:
    return load(folder, device="cpu", say=lambda line: None, **options)


def set_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def holds(model: LoadedModel, weights: dict[str, torch.Tensor]) -> bool:
    """Whether the model's weights are these to the bit, each once, and no others."""
    assignments = model.description.names.assignments(model.model.config)
    own = [(part.name, tensor) for part, tensor in parts_of(model.model.transformer, assignments)]
    return len(own) == len(weights) and all(torch.equal(tensor, weights[name]) for name, tensor in own)


def in_two_shards(folder: Path) -> dict[str, torch.Tensor]:
    """The folder's weights, every other one in another file. Returns them."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {name: f"{'ab'[number % 2]}.safetensors" for number, name in enumerate(weights)}
    for file in ("a.safetensors", "b.safetensors"):
        save_file({name: weights[name] for name, shard in weight_map.items() if shard == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return weights


def test_a_class_without_a_head_whose_names_do_not_match(tmp_path: Path) -> None:
    model: Any = Variant("Llama").saved(tmp_path)  # transformers 47405
    model.model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="architectures="):
        loaded(tmp_path)
    set_config(tmp_path, architectures=["LlamaForCausalLM"])
    with pytest.raises(ValueError, match="tensors model.embed_tokens.weight, lm_head.weight, .* missing"):
        loaded(tmp_path)


def test_a_weight_that_is_initialised_after_it_was_read(tmp_path: Path) -> None:
    Variant("Qwen2").saved(tmp_path)  # transformers 46620
    weights, model = load_file(tmp_path / "model.safetensors"), loaded(tmp_path)
    assert holds(model, weights)
    torch.nn.init.normal_(model.model.transformer.get_parameter("blocks.1.attention.qkv_proj.weight"))
    assert not holds(model, weights)


def test_theta_under_the_names_of_either_version(tmp_path: Path) -> None:
    model = Variant("Llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 77_000.0}}).saved(tmp_path)
    assert distance(model, loaded(tmp_path)) < 1e-5  # MarinFold 184, vllm 42624
    set_config(tmp_path, rope_parameters=None, rope_theta=77_000.0)
    assert distance(model, loaded(tmp_path)) < 1e-5
    set_config(tmp_path, rope_theta=None)
    assert distance(model, loaded(tmp_path)) > 1e-3
    set_config(tmp_path, rope_parametres={"rope_theta": 77_000.0})
    with pytest.raises(ValueError, match="rope_parametres: unknown to this family"):
        loaded(tmp_path)


@pytest.mark.parametrize("renormalise", [None, False, True])
def test_whether_experts_weights_sum_to_one_where_it_is_not_said(renormalise: bool | None, tmp_path: Path) -> None:
    values = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}  # transformers 41151
    model = Variant("Qwen3Moe", values).saved(tmp_path)
    set_config(tmp_path, norm_topk_prob=renormalise)
    assert (distance(model, loaded(tmp_path)) < 1e-5) == (not renormalise)


def test_scaled_frequencies_in_prefill_and_in_cached_steps(tmp_path: Path) -> None:
    model = Variant("Llama", {"rope_parameters": LLAMA3}).saved(tmp_path)  # mlir-air 1948
    found, prompt = loaded(tmp_path), torch.randint(0, SIZE["vocab_size"], (520,)).tolist()
    tokens = torch.tensor(generate(found.model, presets.autoregressive(), [prompt], num_new=8).completions[0].tokens)
    with torch.no_grad():
        logits_LV = found.model.logits(found.model.transformer.sequence_hidden(tokens[None]))[0]
    assert logits_LV[519:-1].argmax(-1).tolist() == tokens[520:].tolist()
    set_config(tmp_path, rope_parameters={"rope_type": "default", "rope_theta": 500_000.0})
    assert distance(model, loaded(tmp_path)) > 1e-3


@pytest.mark.parametrize("window", [6, 7, 8])
def test_a_window_of_one_more_or_less(window: int, tmp_path: Path) -> None:
    model = Variant("Mistral", {"sliding_window": 7}).saved(tmp_path)  # transformers 39408
    set_config(tmp_path, sliding_window=window)
    assert (distance(model, loaded(tmp_path)) < 1e-5) == (window == 7)


def test_routers_keep_the_dtype_of_the_file(tmp_path: Path) -> None:
    Variant("Mixtral", {"num_local_experts": 4}).saved(tmp_path)  # vllm 47777, 50761
    model = loaded(tmp_path, dtype=torch.bfloat16).model.transformer
    weights = load_file(tmp_path / "model.safetensors")
    name = next(name for name in weights if "layers.1." in name and name.endswith(".gate.weight"))
    assert torch.equal(model.get_parameter("blocks.1.ffn.router.weight"), weights[name])
    assert not torch.equal(weights[name].bfloat16().float(), weights[name])
    assert model.get_parameter("blocks.1.ffn.down_XEM").dtype == torch.bfloat16


@pytest.mark.parametrize("is_tied", [False, True])
def test_the_head_is_the_embedding_where_the_flag_says_so(is_tied: bool, tmp_path: Path) -> None:
    Variant("Qwen3", {"tie_word_embeddings": is_tied}).saved(tmp_path)  # vllm 51063, transformers 42612
    transformer = loaded(tmp_path).model.transformer
    assert torch.equal(transformer.head.weight, transformer.embedding.weight) == is_tied
    set_config(tmp_path, tie_word_embeddings=not is_tied)
    with pytest.raises(ValueError, match=f"lm_head.weight{' missing' if is_tied else ': must be the embedding'}"):
        loaded(tmp_path)


def test_of_a_reused_folder_the_tensors_that_the_index_names(tmp_path: Path) -> None:
    Variant("Llama").saved(tmp_path)  # vllm 54230
    weights = in_two_shards(tmp_path)
    old = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    save_file(old, tmp_path / "c.safetensors")
    for file in ("a.safetensors", "b.safetensors"):
        save_file(old | load_file(tmp_path / file), tmp_path / file)
    assert holds(loaded(tmp_path), weights)


def test_a_shard_that_is_missing(tmp_path: Path) -> None:
    Variant("Llama").saved(tmp_path)  # sglang 32279
    in_two_shards(tmp_path)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(ValueError, match="b.safetensors: no such file"):
        loaded(tmp_path)
    path = tmp_path / "model.safetensors.index.json"
    shards = json.loads(path.read_text())["weight_map"]
    path.write_text(json.dumps({"weight_map": {name: file for name, file in shards.items() if file[0] == "a"}}))
    with pytest.raises(ValueError, match="missing"):
        loaded(tmp_path)


@pytest.mark.parametrize(("old", "new"), [("model.", "base_model.model."), (".mlp.", ".feed_forward.")])
def test_names_that_another_program_wrote(old: str, new: str, tmp_path: Path) -> None:
    Variant("Llama").saved(tmp_path)  # sglang 38616
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name.replace(old, new): tensor for name, tensor in weights.items()}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="tensors .* missing"):
        loaded(tmp_path)
    save_file(weights | {f"{new}more.weight": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"more.weight unexpected"):
        loaded(tmp_path)


def test_more_than_ten_experts_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    check_same(Variant("Mixtral", {"num_local_experts": 12}), tmp_path)


@pytest.mark.parametrize(("one", "other"), [("experts.2.w1", "experts.2.w3"), ("experts.2.w1", "experts.10.w1")])
def test_experts_weights_exchanged(one: str, other: str, tmp_path: Path) -> None:
    model = Variant("Mixtral", {"num_local_experts": 12}).saved(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    first, second = (next(name for name in weights if f"layers.0.block_sparse_moe.{part}." in name)
                     for part in (one, other))
    assert distance(model, loaded(tmp_path)) < 1e-5
    save_file(weights | {first: weights[second], second: weights[first].clone()}, path)
    assert distance(model, loaded(tmp_path)) > 1e-4


def test_a_row_beside_a_longer_one_decodes_as_alone(tmp_path: Path) -> None:
    Variant("Llama").saved(tmp_path)  # LLaDA 89, dllm 15
    model, prompts = loaded(tmp_path).model, [[5, 6, 7], list(range(40))]
    together = generate(model, presets.autoregressive(), prompts, num_new=8).completions
    for prompt, found in zip(prompts, together, strict=True):
        assert found.tokens == generate(model, presets.autoregressive(), [prompt], num_new=8).completions[0].tokens


def test_predictions_read_at_the_next_position(tmp_path: Path) -> None:
    Variant("Llama").saved(tmp_path)  # ml-diffucoder 15, Dream 31
    model = loaded(tmp_path).model
    tokens = generate(model, presets.autoregressive(), [[5, 6, 7]], num_new=8).completions[0].tokens
    with torch.no_grad():
        logits_LV = model.logits(model.transformer.sequence_hidden(torch.tensor([tokens])))[0]
    assert logits_LV[2:-1].argmax(-1).tolist() == list(tokens)[3:]
    with pytest.raises(ValueError, match="shift 0: needs a causal next-token model"):
        generate(replace(model, shift=0), presets.autoregressive(), [[5, 6, 7]], num_new=8)


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Mixtral", "Olmoe", "Qwen2", "Qwen3", "Qwen3Moe"])
def test_a_value_of_another_type_in_any_field_is_refused_by_name_or_is_none(family: str) -> None:
    import transformers

    name = f"{family}ForCausalLM"
    assert name in {each for known in FAMILIES for each in known.architectures}
    values = getattr(transformers, f"{family}Config")(**SIZE).to_dict() | {"architectures": [name]}
    more = ("rope_scaling", "quantization_config", "layer_types", "head_dim", "partial_rotary_factor")
    # A count of a trillion is compared with the tensors before a family reads it.
    wrong = [value for value in WRONG_TYPES if value not in (10**12, 2**70)] + [{"rope_type": []}, ["a"], [[]]]
    lines = [line for field in (*values, *more) for value in wrong if (line := refusal(values | {field: value}))]
    assert len(lines) > 150
    assert all(line.startswith("folder/config.json: ") and line.isprintable() for line in lines)


def refusal(values: dict[str, Any]) -> str | None:
    """The line that refuses a configuration, if one does."""
    try:
        describe(values, "folder/config.json")
    except ValueError as error:
        return str(error)
    return None


def rewritten(folder: Path, changes: dict[str, Any]) -> None:
    """The folder's config.json with these values; those of None are left out."""
    path = folder / "config.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))


NO_V5 = {"layer_types": None, "rope_parameters": None}
MOE = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
OLDER = [
    (Variant("Qwen3Moe", MOE | {"use_sliding_window": True, "sliding_window": 6}), NO_V5 | {"max_window_layers": 48}),
    (Variant("Qwen2", {"use_sliding_window": True, "sliding_window": 6, "num_hidden_layers": 3}),
     NO_V5 | {"max_window_layers": None, "rope_theta": 5e4}),
    (Variant("Qwen3", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}), NO_V5),
    (Variant("Mixtral", {"num_local_experts": 4}), NO_V5),
    (Variant("Mistral", {"sliding_window": 6}), NO_V5 | {"rope_theta": 1e6}),
    (Variant("Llama"), {"rope_scaling": {}, "rope_parameters": {"rope_type": "linear", "factor": 4.0,
                                                                "rope_theta": 1e4}}),
    (Variant("Llama"), NO_V5 | {"rope_theta": 5e5, "rope_scaling": {
        "type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64}}),
    (Variant("Gemma3", {"head_dim": 16, "sliding_window": 6, "num_hidden_layers": 7}),
     NO_V5 | {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window_pattern": 3,
              "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "_sliding_window_pattern": None,
              "cache_implementation": "hybrid"}),
]


@pytest.mark.parametrize(("variant", "changes"), OLDER, ids=str)
def test_a_configuration_in_older_words_means_what_transformers_reads_in_it(
        variant: Variant, changes: dict[str, Any], tmp_path: Path) -> None:
    model = type(variant.saved(tmp_path))
    rewritten(tmp_path, changes)
    reference: Any = model.from_pretrained(tmp_path).eval()  # pyright: ignore[reportAttributeAccessIssue]
    assert distance(reference, load(tmp_path, device="cpu", say=lambda line: None), length=60) < 1e-5


@pytest.mark.parametrize(("variant", "changes", "message"), [
    (Variant("Mistral", {"sliding_window": 6}), {"layer_types": ["full_attention"] * 3}, "must all be sliding"),
    (Variant("Qwen2"), {"use_sliding_window": False, "layer_types": ["sliding_attention"] * 3}, "needs use_sliding"),
    (Variant("Llama"), {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling beside rope_parameters"),
    (Variant("Llama"), {"rope_interleaved": True}, "rope_interleaved=True: must be False"),
], ids=str)
def test_a_configuration_that_says_two_things_is_refused(
        variant: Variant, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    variant.saved(tmp_path)
    rewritten(tmp_path, changes)
    with pytest.raises(ValueError, match=message):
        load(tmp_path, device="cpu", say=lambda line: None)


def test_a_tied_head_that_a_file_holds_too_must_be_the_embedding(tmp_path: Path) -> None:
    Variant("Llama", {"tie_word_embeddings": True}).saved(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, path, {"format": "pt"})
    load(tmp_path, device="cpu", say=lambda line: None)
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"] + 1}, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"lm_head\.weight: must be the embedding"):
        load(tmp_path, device="cpu", say=lambda line: None)


def test_a_cast_leaves_the_angles_as_they_are(tmp_path: Path) -> None:
    Variant("Llama").saved(tmp_path)
    transformer = load(tmp_path, dtype=torch.float32, device="cpu", say=lambda line: None).model.transformer
    angles = transformer.cos_LD.clone()
    transformer.to(torch.bfloat16)
    assert transformer.norm.weight.dtype == torch.bfloat16
    assert torch.equal(transformer.cos_LD, angles)
