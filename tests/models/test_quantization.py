"""Models whose linear layers are of few bits: loaded, or trained here, they decode alike however steps are taken."""

from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType as Type
from quicksilver.decoders import CapturedSteps, Decoder, generate, presets
from quicksilver.kernels.dispatch import named, recording
from quicksilver.kernels.quantized_linear import Form, dense
from quicksilver.models import (
    AttentionPattern,
    Bidirectional,
    Causal,
    DecodableTransformer,
    LoadedModel,
    Shape,
    Transformer,
    TransformerConfig,
    load,
    quantization,
    save,
    save_checkpoint,
)
from quicksilver.models.quantization import Quantization
from quicksilver.models.quantized_parameter import QuantizedParameter
from torch import Tensor

from tests.models.checkpoints.gguf_models import SIZE, Written
from tests.models.families.transformers_model import Variant

FAMILIES = {"autoregression": (Causal(), presets.autoregressive(), 1),
            "diffusion": (Bidirectional(), presets.fast_dllm_dual(block=8, tau=0.9), 0)}
PROMPTS = [[1, 2, 3], [4, 5, 6, 7]]


def transformer(attention: AttentionPattern = Causal(), **shape: Any) -> Transformer:  # noqa: B008
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"width": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "ffn_width": 96} | shape
    model = Transformer(TransformerConfig(100, 64, attention, Shape(**sizes))).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return model


def loaded(path: Path, dtype: str) -> tuple[LoadedModel, list[str]]:
    lines: list[str] = []
    return load(path, dtype=dtype, device="cpu", say=lines.append), lines


def forms(model: Transformer) -> dict[str, Form]:
    return {name: parameter.quantized.form for name, parameter in model.named_parameters()
            if isinstance(parameter, QuantizedParameter)}


def logits(model: Transformer) -> Tensor:
    tokens_BL = torch.randint(0, SIZE["vocab_size"], (2, 60), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model.head(model.sequence_hidden(tokens_BL))


def distance(found: Transformer, wanted: Transformer) -> float:
    """Root mean square of the difference of logits, of which that of the logits is 1."""
    expected = logits(wanted)
    return float((logits(found) - expected).square().mean().sqrt() / expected.square().mean().sqrt())


@pytest.mark.parametrize("kind", [Type.Q4_0, Type.Q4_1, Type.Q8_0])
@pytest.mark.parametrize("is_tied", [False, True])
def test_a_gguf_files_own_bits_are_kept(kind: Type, is_tied: bool, tmp_path: Path) -> None:
    path = Written("llama", "LlamaForCausalLM", {"tie_word_embeddings": is_tied}, type=kind).write(tmp_path)
    found, lines = loaded(path, "int4")
    form = Form.INT8_GROUPS if kind is Type.Q8_0 else Form.INT4
    assert set(forms(found.model.transformer).values()) == {form}
    assert len(lines) == 1
    assert f"as {form.value}, the rest in float32, on cpu" in lines[0]
    wanted = load(path, device="cpu", say=lambda line: None).model.transformer
    for name, parameter in found.model.transformer.named_parameters():
        if isinstance(parameter, QuantizedParameter):
            expected = wanted.get_parameter(name).detach()
            torch.testing.assert_close(dense(parameter.quantized), expected, rtol=2**-8,
                                       atol=2**-8 * float(expected.abs().max()))
    assert distance(found.model.transformer, wanted) < 0.03
    assert (found.model.transformer.head.weight is found.model.transformer.embedding.weight) == is_tied
    assert found.model.transformer.num_parameters() == wanted.num_parameters()


@pytest.mark.parametrize(("kind", "dtype", "form", "head"), [
    (Type.F16, "int4", Form.INT4, Form.INT8_GROUPS), (Type.F32, "int8", Form.INT8_ROWS, Form.INT8_ROWS),
    (Type.Q8_0, "int8", Form.INT8_GROUPS, Form.INT8_GROUPS), (Type.Q4_0, "int8", Form.INT8_ROWS, Form.INT8_ROWS),
    (Type.Q5_0, "int4", Form.INT8_GROUPS, Form.INT8_GROUPS)])
def test_what_a_file_has_in_more_bits_is_not_held_in_fewer_than_asked(
        kind: Type, dtype: str, form: Form, head: Form, tmp_path: Path) -> None:
    path = Written("qwen2", "Qwen2ForCausalLM", type=kind).write(tmp_path)
    found = loaded(path, dtype)[0].model.transformer
    held = forms(found)
    assert held.pop("head.weight") is head
    assert set(held.values()) == {form}
    assert distance(found, load(path, device="cpu", say=lambda line: None).model.transformer) < (
        0.4 if form is Form.INT4 else 0.03)


@pytest.mark.parametrize(("dtype", "most"), [("int4", 0.4), ("int8", 0.03)])
@pytest.mark.parametrize("is_tied", [False, True])
def test_a_folder_is_quantised_as_it_is_loaded_and_says_what_it_takes(
        dtype: str, most: float, is_tied: bool, tmp_path: Path) -> None:
    Variant("Llama", {"hidden_size": 64, "intermediate_size": 96, "tie_word_embeddings": is_tied}).saved(tmp_path)
    found, (line,) = loaded(tmp_path, dtype)
    plain = load(tmp_path, device="cpu", say=lambda line: None).model.transformer
    assert all(layer.is_quantized for layer in found.model.transformer.linear_layers)
    assert distance(found.model.transformer, plain) < most
    floats = sum(tensor.nbytes for tensor in (*plain.parameters(), *plain.buffers()))
    held = floats - found.model.transformer.saved_bytes(with_head=True)
    assert f"{held / 1e9:.2f} GB as weights of" in line
    assert found.model.forward_cost(1, 0, 1, 0)[1] < plain.config.forward_bytes(1, 0, 1)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("format_name", ["int4", "int8"])
@pytest.mark.parametrize("capture", ["graph", pytest.param("compile", marks=pytest.mark.slow)])
def test_tokens_are_the_same_captured_or_not_and_in_a_batch_or_alone(
        name: str, format_name: str, capture: str) -> None:
    attention, decoder, shift = FAMILIES[name]
    model = DecodableTransformer(transformer(attention), 99, shift, packing=Quantization(format_name))
    expected = tokens(model, decoder, PROMPTS)
    alone = [tokens(model, decoder, [prompt])[0] for prompt in PROMPTS]
    assert [row[-16:] for row in alone] == [row[-16:] for row in expected]
    runner = CapturedSteps.named(capture, decoder)
    assert runner is not None
    for _ in range(2):
        assert tokens(model, decoder, PROMPTS, runner) == expected
    with recording() as ran:
        assert tokens(model, decoder, PROMPTS, runner) == expected
    replays = runner.replays
    assert replays.replayed > 0
    assert not replays.reasons
    assert (replays.by_program > 0) == (capture == "compile")
    held = ", ".join(sorted({form.value for form in forms(model.transformer).values()}))
    assert named(ran)["linear"] == f"cpu ({held})"


def tokens(model: DecodableTransformer, decoder: Decoder, prompts: list[list[int]], runner: CapturedSteps | None = None
           ) -> list[list[int]]:
    generation = generate(model, decoder, prompts, num_new=16, runner=runner)
    return [completion.tokens for completion in generation.completions]


def test_steps_that_were_captured_see_that_weights_became_floats() -> None:
    decoder = presets.autoregressive()
    model = DecodableTransformer(transformer(), 99, 1, packing=Quantization("int4"))
    before = model.weights_version()
    runner = CapturedSteps.named("graph", decoder)
    for _ in range(3):
        tokens(model, decoder, PROMPTS, runner)
    model.transformer.dequantize()
    assert model.weights_version() != before
    with recording() as ran:
        tokens(model, decoder, PROMPTS, runner)
    assert "bits" not in named(ran).get("linear", "")


def test_it_is_not_trained_or_saved_until_it_is_floats_again(tmp_path: Path) -> None:
    model = transformer()
    Quantization("int4").pack(model)
    tokens_BL = torch.arange(20)[None]
    with pytest.raises(ValueError, match=r"4 bits in groups of 32 cannot be trained: dequantize\(\) it first"):
        model.head(model.sequence_hidden(tokens_BL)).mean().backward()
    with pytest.raises(ValueError, match=r"dequantize\(\) first"):
        save_checkpoint(tmp_path / "weights.safetensors", model)
    before = logits(model)
    model.dequantize()
    assert not forms(model)
    torch.testing.assert_close(logits(model), before, rtol=0, atol=0.05 * float(before.abs().max()))
    model.head(model.sequence_hidden(tokens_BL)).mean().backward()
    assert model.head.weight.grad is not None
    save_checkpoint(tmp_path / "weights.safetensors", model)


def test_a_loaded_model_is_not_saved_as_a_checkpoint(tmp_path: Path) -> None:
    Variant("Llama", {"hidden_size": 64, "intermediate_size": 96}).saved(tmp_path)
    found, _ = loaded(tmp_path, "int8")
    with pytest.raises(ValueError, match=r"dequantize\(\) first"):
        save(found, tmp_path / "saved")


def test_widths_that_are_no_whole_groups_stay_floats() -> None:
    model = transformer(ffn_width=72)
    Quantization("int8").pack(model)
    assert [name for name, layer in model.named_modules() if name.endswith("down_proj") and layer.is_quantized] == []
    assert len(forms(model)) == 7
    with pytest.raises(ValueError, match="format='int8': no layer is as wide as a multiple of 32"):
        Quantization("int8").pack(transformer(width=48, ffn_width=72))


def test_what_cannot_be_is_refused_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Variant("Llama", {"hidden_size": 64}).saved(tmp_path)
    with pytest.raises(ValueError, match="dtype=int3: must be one of torch.float32, .*, int4, int8"):
        loaded(tmp_path, "int3")
    with pytest.raises(ValueError, match="dtype=int8 with device=cuda: must be on cpu"):
        load(tmp_path, dtype=torch.int8, device="cuda", say=lambda line: None)
    with pytest.raises(ValueError, match="format='int4' on meta: must be on cpu"):
        Quantization("int4").pack(transformer().to("meta"))
    with pytest.raises(ValueError, match="format='int2': must be one of int4, int8"):
        Quantization("int2")
    monkeypatch.setattr(quantization, "has_operators", lambda: False)
    with pytest.raises(ValueError, match="this PyTorch does not multiply weights of so few bits"):
        Quantization("int4")


def test_a_scale_that_is_not_finite_is_refused_by_its_tensor(tmp_path: Path) -> None:
    path = Written("qwen2", "Qwen2ForCausalLM", type=Type.Q8_0).write(tmp_path)
    content = bytearray(path.read_bytes())
    content[-34:-32] = b"\x00\x7c"  # the last block's scale
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.gguf: tensor .*: holds values that are not finite"):
        loaded(path, "int4")
