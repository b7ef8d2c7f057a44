"""Fast-dLLM v2 (arXiv 2509.26328): Qwen2.5's layers, block-causal; as in the next-token model that it was trained from,
a position predicts the token after it (shift 1).

The block is the configuration's bd_size. The mask token is not in config.json: 151665 is the default of the model's own
`forward` and `generate` (modeling.py of Fast_dLLM_v2_7B, as github.com/Satgoy152/DualDiffusion holds it).
"""

from ..attention import BlockCausal
from .base import Attention, Description, Family, described, without_window
from .fields import Fields

_MASK_ID = 151_665


def _describe(fields: Fields) -> Description:
    without_window(fields)
    fields.inert("conplemenrary_mask")  # spelt so; of training
    return described(fields, Attention(qkv_bias=True), pattern=BlockCausal(fields.integer("bd_size")), mask_id=_MASK_ID)


FAST_DLLM = Family(("Fast_dLLM_QwenForCausalLM",), _describe)
