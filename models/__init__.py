"""One transformer for both families, its objectives, and the adapters through which decoders see models."""

from .adapter import DecodableTransformer, LanguageModel, Plan
from .attention import AttentionPattern, Bidirectional, BlockCausal, Causal
from .balancing import AuxiliaryLoss, Balancing, LossFree, Unbalanced
from .checkpoint import load_checkpoint, save_checkpoint
from .config import ExpertShape, Shape, TransformerConfig
from .expert_aware import ExpertAware
from .heads import FusedHead, Head, SeparateHead
from .hugging_face import HuggingFaceModel
from .kv_store import KVStore
from .logits_function import LogitsFunction
from .mixture import Mixture, Routed, Router
from .objectives import AutoregressiveNLL, BlockDiffusion, MaskedDiffusion, Objective, exact_k_nll
from .routers import RouterWatch, ruled
from .routing_rules import FewerWhereSure, OwnChoice, RoutingRule, SharedInBlock
from .transformer import Transformer

__all__ = [
    "AttentionPattern",
    "AutoregressiveNLL",
    "AuxiliaryLoss",
    "Balancing",
    "Bidirectional",
    "BlockCausal",
    "BlockDiffusion",
    "Causal",
    "DecodableTransformer",
    "ExpertAware",
    "ExpertShape",
    "FewerWhereSure",
    "FusedHead",
    "Head",
    "HuggingFaceModel",
    "KVStore",
    "LanguageModel",
    "LogitsFunction",
    "LossFree",
    "MaskedDiffusion",
    "Mixture",
    "Objective",
    "OwnChoice",
    "Plan",
    "Routed",
    "Router",
    "RouterWatch",
    "RoutingRule",
    "SeparateHead",
    "Shape",
    "SharedInBlock",
    "Transformer",
    "TransformerConfig",
    "Unbalanced",
    "exact_k_nll",
    "load_checkpoint",
    "ruled",
    "save_checkpoint",
]
