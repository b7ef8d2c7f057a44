"""Mixtral (arXiv 2401.04088): Mistral with experts in every layer, whose weights are those of a softmax over the chosen
ones."""

from ...kernels.moe_router import Routing
from ..config import ExpertShape
from .base import Attention, Description, Family, all_layers, described
from .fields import Fields
from .rotary import rope_of
from .tensor_names import TensorNames

_THETA = 1_000_000.0  # where a configuration names none
NAMES = TensorNames(
    router="block_sparse_moe.gate", expert_down="block_sparse_moe.experts.{expert}.w2",
    expert_gate_up=("block_sparse_moe.experts.{expert}.w1", "block_sparse_moe.experts.{expert}.w3"))


def _describe(fields: Fields) -> Description:
    window = fields.integer("sliding_window", None)
    attention = Attention(window=window, windowed_layers=all_layers(fields) if window else ())
    routing = Routing(fields.integer("num_experts_per_tok"), renormalise=True)
    experts = ExpertShape(fields.integer("num_local_experts"), fields.integer("intermediate_size"), routing)
    return described(fields, attention, experts=experts, rope=rope_of(fields, theta=_THETA), names=NAMES)


MIXTRAL = Family(("MixtralForCausalLM",), _describe)
