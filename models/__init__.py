"""One transformer for both families, its objectives, and the adapters through which decoders see models."""

from .adapter import DecodableTransformer, LanguageModel, ModelSpec, Plan
from .attention import AttentionPattern, Bidirectional, BlockCausal, Causal
from .balancing import AuxiliaryLoss, Balancing, LossFree, NoBalancing
from .checkpoint import load_checkpoint, save_checkpoint
from .config import ExpertShape, Shape, TransformerConfig
from .families import Description
from .heads import FusedHead, Head, SeparateHead
from .hugging_face import HuggingFaceModel
from .kv_store import KVStore
from .loading import LoadedModel, describe_checkpoint, load
from .logits_function import LogitsFunction
from .masking import ExactCount, Independent, Masking
from .mixture import MoELayer, Router, RoutingResult
from .objectives import AutoregressiveNLL, BlockDiffusion, MaskedDiffusion, Objective, exact_k_nll
from .routers import RouterRecorder, with_routing_rule
from .routing_rules import BlockSharedExperts, RoutingRule, TokenChoice, TopPExperts
from .saving import save
from .transformer import Transformer

__all__ = [
    "AttentionPattern",
    "AutoregressiveNLL",
    "AuxiliaryLoss",
    "Balancing",
    "Bidirectional",
    "BlockCausal",
    "BlockDiffusion",
    "BlockSharedExperts",
    "Causal",
    "DecodableTransformer",
    "Description",
    "ExactCount",
    "ExpertShape",
    "FusedHead",
    "Head",
    "HuggingFaceModel",
    "Independent",
    "KVStore",
    "LanguageModel",
    "LoadedModel",
    "LogitsFunction",
    "LossFree",
    "MaskedDiffusion",
    "Masking",
    "MoELayer",
    "ModelSpec",
    "NoBalancing",
    "Objective",
    "Plan",
    "Router",
    "RouterRecorder",
    "RoutingResult",
    "RoutingRule",
    "SeparateHead",
    "Shape",
    "TokenChoice",
    "TopPExperts",
    "Transformer",
    "TransformerConfig",
    "describe_checkpoint",
    "exact_k_nll",
    "load",
    "load_checkpoint",
    "save",
    "save_checkpoint",
    "with_routing_rule",
]
