"""A transformer written out a second time, in float64, with keys and values kept by layer and position: what the tests
of decoders compare with. One row at a time; positions are lists of integers."""

from dataclasses import dataclass, field

import torch
from quicksilver.models import BlockCausal, Causal, DecodableTransformer
from torch import Tensor


@dataclass
class Memory:
    """Keys and values [K, D] by layer and position."""

    kept: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)


class NaiveTransformer:
    """The dense transformer of a model. Row q of an answer is of the token AT position q."""

    def __init__(self, model: DecodableTransformer) -> None:
        self.weights = {name: tensor.double() for name, tensor in model.transformer.state_dict().items()}
        self.shape, self.pattern = model.config.shape, model.spec.pattern
        self.shift, self.mask_id = model.spec.shift, model.spec.mask_id
        self.num_answers = 0  # forwards in which something was asked

    def log_probs(self, tokens: list[int], asked: list[int], feed: list[int] | None = None,
                  memory: Memory | None = None) -> Tensor:
        """Log-probabilities [Q, V] at the positions `asked`, the mask id banned."""
        logits_QV = self.logits(tokens, asked, feed, memory)
        logits_QV[:, self.mask_id] = -torch.inf
        return logits_QV.log_softmax(-1)

    @torch.no_grad()
    def logits(self, tokens: list[int], asked: list[int], feed: list[int] | None = None,
               memory: Memory | None = None) -> Tensor:
        """Logits [Q, V] at the positions `asked`. The tokens at `feed` (all) go through the network; each sees what the
        memory (an empty one) holds after the fed positions' keys and values were put there."""
        self.num_answers += len(asked) > 0
        feed = list(range(len(tokens))) if feed is None else sorted(feed)
        hidden_FE = self._hidden([tokens[position] for position in feed], feed, Memory() if memory is None else memory)
        sources = [feed.index(max(position - self.shift, 0)) for position in asked]
        return hidden_FE[sources] @ self.weights["head.weight"].T

    def _hidden(self, tokens: list[int], feed: list[int], memory: Memory) -> Tensor:
        x_FE = self.weights["embedding.weight"][tokens] + self.weights["position_table.weight"][feed]
        for layer in range(self.shape.num_layers):
            block = f"blocks.{layer}"
            x_FE = x_FE + self._attention(layer, self._norm(f"{block}.attention_norm", x_FE), feed, memory)
            gate_up_FM = self._norm(f"{block}.ffn_norm", x_FE) @ self.weights[f"{block}.ffn.gate_up_proj.weight"].T
            gate_FM, up_FM = gate_up_FM.chunk(2, dim=-1)
            x_FE = x_FE + (gate_FM * gate_FM.sigmoid() * up_FM) @ self.weights[f"{block}.ffn.down_proj.weight"].T
        return self._norm("norm", x_FE)

    def _norm(self, name: str, x_FE: Tensor) -> Tensor:
        root_F1 = (x_FE.square().mean(-1, keepdim=True) + self.shape.norm_eps).sqrt()
        return x_FE / root_F1 * self.weights[f"{name}.weight"]

    def _attention(self, layer: int, x_FE: Tensor, feed: list[int], memory: Memory) -> Tensor:
        heads, kv_heads, width = self.shape.num_heads, self.shape.num_kv_heads, self.shape.head_width
        weight = self.weights[f"blocks.{layer}.attention.qkv_proj.weight"]
        q_FHD, k_FKD, v_FKD = (x_FE @ weight.T).unflatten(-1, (-1, width)).split((heads, kv_heads, kv_heads), dim=1)
        for position, key_KD, value_KD in zip(feed, self._turned(k_FKD, feed), v_FKD, strict=True):
            memory.kept[layer, position] = key_KD, value_KD
        positions = sorted(position for at, position in memory.kept if at == layer)
        keys_CKD, values_CKD = (torch.stack(tensors).repeat_interleave(heads // kv_heads, dim=1) for tensors in
                                zip(*(memory.kept[layer, position] for position in positions), strict=True))
        scores_HFC = torch.einsum("fhd,chd->hfc", self._turned(q_FHD, feed), keys_CKD) / width**0.5
        sees_FC = self._sees(torch.tensor(feed)[:, None], torch.tensor(positions))
        mixed_FHD = torch.einsum("hfc,chd->fhd", scores_HFC.masked_fill(~sees_FC, -torch.inf).softmax(-1), values_CKD)
        return mixed_FHD.flatten(1) @ self.weights[f"blocks.{layer}.attention.o_proj.weight"].T

    def _turned(self, x_FHD: Tensor, feed: list[int]) -> Tensor:
        """RoPE: dimensions i and i + D / 2 are a complex number, which the position turns by its angle."""
        half = self.shape.head_width // 2
        angle_FD = torch.tensor(feed).double()[:, None] * self.shape.rope_theta ** (-torch.arange(half).double() / half)
        turn_F1D = torch.polar(torch.ones_like(angle_FD), angle_FD)[:, None]
        number_FHD = torch.complex(x_FHD[..., :half], x_FHD[..., half:]) * turn_F1D
        return torch.cat((number_FHD.real, number_FHD.imag), dim=-1)

    def _sees(self, query: Tensor, key: Tensor) -> Tensor:
        if isinstance(self.pattern, BlockCausal):
            return key // self.pattern.block <= query // self.pattern.block
        return key <= (query if self.pattern == Causal() else torch.inf)
