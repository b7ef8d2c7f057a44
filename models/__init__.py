"""One transformer for both families, its objectives, and the adapter through which decoders see it."""

from .adapter import DecodableTransformer, LanguageModel, Plan
from .attention import AttentionPattern, Bidirectional, BlockCausal, Causal
from .checkpoint import load_checkpoint, save_checkpoint
from .config import ExpertShape, Shape, TransformerConfig
from .heads import FusedHead, Head, SeparateHead
from .kv_store import KVStore
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
    "KVStore",
    "LanguageModel",
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
