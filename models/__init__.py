"""One transformer for both families, its objectives, and the adapters through which decoders see models."""

from .adapter import DecodableTransformer, LanguageModel, Plan
from .attention import AttentionPattern, Bidirectional, BlockCausal, Causal
from .checkpoint import load_checkpoint, save_checkpoint
from .config import ExpertShape, Shape, TransformerConfig
from .heads import FusedHead, Head, SeparateHead
from .hugging_face import HuggingFaceModel
from .kv_store import KVStore
from .logits_function import LogitsFunction
from .mixture import Mixture, Router
from .objectives import AutoregressiveNLL, BlockDiffusion, MaskedDiffusion, Objective, exact_k_nll
from .transformer import Transformer

__all__ = [
    "AttentionPattern",
    "AutoregressiveNLL",
    "Bidirectional",
    "BlockCausal",
    "BlockDiffusion",
    "Causal",
    "DecodableTransformer",
    "ExpertShape",
    "FusedHead",
    "Head",
    "HuggingFaceModel",
    "KVStore",
    "LanguageModel",
    "LogitsFunction",
    "MaskedDiffusion",
    "Mixture",
    "Objective",
    "Plan",
    "Router",
    "SeparateHead",
    "Shape",
    "Transformer",
    "TransformerConfig",
    "exact_k_nll",
    "load_checkpoint",
    "save_checkpoint",
]
