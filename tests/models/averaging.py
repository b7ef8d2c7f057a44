"""A small module with any fault that a test asks for: positions average what they see."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

WIDTH, VOCAB_SIZE, MAX_LENGTH = 8, 11, 12


class Averaging(nn.Module):
    """One layer, h_q = x_q + mean of x_k over the keys seen; `causal` by itself, in masks and caches as transformers
    has them, but for the faults that a test asks for. By itself a position sees no further back than `window`; in a
    sequence that goes past `scaled_from`, all positions are others."""

    def __init__(self, causal: bool, faults: frozenset[str] = frozenset(), window: int = MAX_LENGTH,
                 scaled_from: int = MAX_LENGTH) -> None:
        super().__init__()
        self.config = SimpleNamespace(max_position_embeddings=MAX_LENGTH, num_hidden_layers=1, hidden_size=WIDTH,
                                      num_attention_heads=1)
        self.causal, self.faults, self.has_table, self.first_place = causal, faults, True, 0
        self.window, self.scaled_from = window, scaled_from
        self.tokens, self.places = nn.Embedding(VOCAB_SIZE, WIDTH), nn.Embedding(MAX_LENGTH, WIDTH)
        self.head = nn.Linear(WIDTH, VOCAB_SIZE)
        self.eval()

    def get_input_embeddings(self) -> nn.Module:
        return self.tokens

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None,
                past_key_values: Any = None) -> SimpleNamespace:
        num_rows, num_fed = input_ids.shape
        if position_ids is None:
            position_ids = torch.arange(num_fed)[None] + self.first_place
        if "writes" in self.faults:
            position_ids += 1  # as XGLM's code did
            position_ids = position_ids - 1
        x_BFE = self.tokens(input_ids)
        if self.has_table:
            x_BFE = x_BFE + self.places(position_ids)
        if position_ids.max() >= self.scaled_from:
            x_BFE = 2 * x_BFE
        keys_B1CE = x_BFE[:, None]
        if past_key_values is not None:
            keys_B1CE = past_key_values.update(keys_B1CE, keys_B1CE, 0)[0]
            if "forgets" in self.faults:
                keys_B1CE = torch.zeros_like(keys_B1CE)
        seen_BFC = torch.ones(num_rows, num_fed, keys_B1CE.shape[2], dtype=torch.bool)
        if attention_mask is not None and attention_mask.ndim == 4:
            if "deaf" not in self.faults:
                boolean = attention_mask.dtype == torch.bool
                if "boolean" in self.faults and not boolean:
                    attention_mask = attention_mask.bool()  # as Dream's code reads a mask of numbers
                    boolean = True
                seen_BFC = attention_mask[:, 0] if boolean else attention_mask[:, 0] == 0
        elif attention_mask is not None and "sees padding" not in self.faults:
            seen_BFC = seen_BFC & attention_mask[:, None].bool()
        if self.causal and (attention_mask is None or attention_mask.ndim == 2):
            seen_BFC = seen_BFC.tril()
        if "counts rows" in self.faults or attention_mask is None or attention_mask.ndim == 2:  # as GPT-Neo does
            key_C = torch.arange(seen_BFC.shape[2])
            seen_BFC = seen_BFC & (key_C[-num_fed:, None] - key_C < self.window)
        weight_BFC = seen_BFC / seen_BFC.sum(-1, keepdim=True).clamp(min=1)
        logits_BFV = self.head(x_BFE + weight_BFC @ keys_B1CE[:, 0])
        return SimpleNamespace(logits=logits_BFV.tanh() if "capped" in self.faults else logits_BFV)
