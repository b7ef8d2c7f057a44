"""Dream-7B, Dream-Coder and DiffuCoder (arXiv 2508.15487, 2509.01142, 2506.20639): Qwen2.5's layers, bidirectional. As
in the next-token model that they were trained from, a position predicts the token after it (shift 1)."""

from ..attention import Bidirectional
from .base import Attention, Description, Family, described, without_window
from .fields import Fields


def _describe(fields: Fields) -> Description:
    without_window(fields)
    fields.expect("use_mrope", False)
    return described(fields, Attention(qkv_bias=True), pattern=Bidirectional())


DREAM = Family(("DreamModel",), _describe)
