"""The layer equals those of transformers on random weights: OLMoE, Qwen3-MoE, Mixtral and DeepSeek-V3."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from quicksilver.kernels.moe_router import Routing, Scoring
from quicksilver.models import ExpertShape, MoELayer
from torch import nn
from transformers import DeepseekV3Config, MixtralConfig, OlmoeConfig, Qwen3MoeConfig
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
from transformers.models.olmoe.modeling_olmoe import OlmoeSparseMoeBlock
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

WIDTH, EXPERT_WIDTH = 32, 12


@dataclass(frozen=True)
class Published:
    name: str
    block: type[nn.Module]
    config: Any
    shape: ExpertShape

    def __str__(self) -> str:
        return self.name


def olmoe(renormalise: bool) -> Published:
    config = OlmoeConfig(hidden_size=WIDTH, intermediate_size=EXPERT_WIDTH, num_experts=10, num_experts_per_tok=3,
                         norm_topk_prob=renormalise)
    return Published(f"olmoe_{renormalise}", OlmoeSparseMoeBlock, config,
                     ExpertShape(10, EXPERT_WIDTH, Routing(3, renormalise=renormalise)))


def qwen3(renormalise: bool) -> Published:
    config = Qwen3MoeConfig(hidden_size=WIDTH, moe_intermediate_size=EXPERT_WIDTH, num_experts=12,
                            num_experts_per_tok=4, norm_topk_prob=renormalise)
    return Published(f"qwen3_{renormalise}", Qwen3MoeSparseMoeBlock, config,
                     ExpertShape(12, EXPERT_WIDTH, Routing(4, renormalise=renormalise)))


def mixtral(routing: Routing) -> Published:
    config = MixtralConfig(hidden_size=WIDTH, intermediate_size=EXPERT_WIDTH, num_local_experts=8,
                           num_experts_per_tok=2)
    return Published(f"mixtral_{routing.scoring.value}", MixtralSparseMoeBlock, config,
                     ExpertShape(8, EXPERT_WIDTH, routing))


def deepseek(renormalise: bool, num_shared: int) -> Published:
    config = DeepseekV3Config(hidden_size=WIDTH, moe_intermediate_size=EXPERT_WIDTH, n_routed_experts=16,
                              num_experts_per_tok=4, n_group=4, topk_group=2, norm_topk_prob=renormalise,
                              routed_scaling_factor=2.5, n_shared_experts=num_shared)
    routing = Routing(4, Scoring.SIGMOID, num_groups=4, groups_kept=2, renormalise=renormalise, scale=2.5)
    return Published(f"deepseek_v3_{renormalise}_{num_shared}", DeepseekV3MoE, config, ExpertShape(
        16, EXPERT_WIDTH, routing, shared_width=num_shared * EXPERT_WIDTH, selection_bias=True))


# Mixtral's softmax over all, renormalised over the chosen, is gpt-oss's softmax of the chosen: both are ours.
EVERY = [olmoe(False), olmoe(True), qwen3(False), qwen3(True), mixtral(Routing(2, renormalise=True)),
         mixtral(Routing(2, Scoring.SOFTMAX_OF_CHOSEN)), deepseek(True, 1), deepseek(False, 2)]


def random_block(published: Published) -> nn.Module:
    block = published.block(published.config).eval()
    for tensor in (*block.parameters(), *block.buffers()):
        nn.init.normal_(tensor, std=tensor.shape[-1] ** -0.5)
    return block


def ours(block: Any, shape: ExpertShape) -> MoELayer:
    """A mixture with the block's weights."""
    mixture = MoELayer(WIDTH, shape)
    held = {"router.weight": block.gate.weight, "gate_up_XGE": block.experts.gate_up_proj,
            "down_XEM": block.experts.down_proj}
    if shape.selection_bias:
        held["router.bias_X"] = block.gate.e_score_correction_bias
    if shape.shared_width:
        shared = block.shared_experts
        held["shared.gate_up_proj.weight"] = torch.cat((shared.gate_proj.weight, shared.up_proj.weight))
        held["shared.down_proj.weight"] = shared.down_proj.weight
    mixture.load_state_dict(held)
    return mixture


@torch.inference_mode()
@pytest.mark.parametrize("num_positions", [1, 23])
@pytest.mark.parametrize("published", EVERY, ids=str)
def test_it_gives_what_the_published_layer_gives(published: Published, num_positions: int) -> None:
    block, x_BFE = random_block(published), torch.randn(2, num_positions, WIDTH)
    expected = block(x_BFE)
    found = ours(block, published.shape)(x_BFE)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6 * float(expected.abs().max()))


@torch.inference_mode()
def test_the_weights_of_mixtral_renormalised_and_of_the_chosen_are_equal() -> None:
    block, x_BFE = random_block(mixtral(Routing(2, renormalise=True))), torch.randn(1, 9, WIDTH)
    one, other = (ours(block, published.shape).router(x_BFE) for published in EVERY[4:6])
    assert torch.equal(one.expert_BFA, other.expert_BFA)
    torch.testing.assert_close(one.weight_BFA, other.weight_BFA)
