"""Tiny random models of transformers, saved as it saves them, beside what is loaded of them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from quicksilver.decoders import generate, presets
from quicksilver.models import LoadedModel, load, save
from torch import Tensor, nn

SIZE = {"vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 640}


@dataclass(frozen=True)
class Variant:
    """A model of transformers, "Llama" say, with values in its configuration that are not SIZE's."""

    family: str
    values: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join((self.family, *(f"{name}={value}" for name, value in self.values.items())))

    def saved(self, folder: Path) -> nn.Module:
        """The model with random weights, norms and biases among them, also in `folder`."""
        torch.manual_seed(0)
        name = f"{self.family}TextConfig" if self.family == "Gemma3" else f"{self.family}Config"
        config = getattr(transformers, name)(**SIZE | self.values)
        model = getattr(transformers, f"{self.family}ForCausalLM")(config).eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
            else:
                nn.init.normal_(parameter, mean=1, std=0.3)
        model.save_pretrained(folder)
        return model


def distance(model: Any, loaded: LoadedModel, length: int = 600) -> float:
    """The largest difference between the logits of whole sequences, of which the largest logit is 1."""
    tokens_BL = torch.randint(0, SIZE["vocab_size"], (2, length), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted: Tensor = model(tokens_BL).logits
        found = loaded.model.logits(loaded.model.transformer.sequence_hidden(tokens_BL))
    return float((found - wanted).abs().max() / wanted.abs().max())


def check_same(variant: Variant, folder: Path) -> None:
    """The model that is loaded gives transformers' logits, and its greedy tokens with a cache; and what it is saved as
    is the model of transformers again."""
    model: Any = variant.saved(folder)
    loaded = load(folder, say=lambda line: None)
    assert distance(model, loaded) < 1e-5
    prompt = torch.randint(0, SIZE["vocab_size"], (1, 20), generator=torch.Generator().manual_seed(2))
    wanted = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=24, do_sample=False,
                            eos_token_id=None, pad_token_id=0)
    found = generate(loaded.model, presets.autoregressive(), prompt.tolist(), num_new=24)
    assert list(found.completions[0].tokens) == wanted[0].tolist()
    save(loaded, folder / "again")
    again: Any = type(model).from_pretrained(folder / "again")
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    with torch.no_grad():
        assert torch.equal(again(prompt).logits, model(prompt).logits)
