"""dInfer's copy of Fast-dLLM's three loops (github.com/inclusionAI/dInfer, arXiv 2510.08666), on a plain view of our
transformer. It has the factor rule that Fast-dLLM's first release lacks.
"""

from collections.abc import Iterator
from pathlib import Path

from .base import Comparison, Finding, RandomModels, Source, stub_module
from .fast_dllm import LOOPS, Cached, findings

HOME = "github.com/inclusionAI/dInfer"
FILE = "python/dinfer/decoding/generate_fastdllm.py"


def agreement(checkout: Path, num_models: int = 20) -> Iterator[Comparison[Finding]]:
    foreign = (stub_module("transformers", "AutoTokenizer", "AutoModel")
               | stub_module("..model.modeling_llada_fastdllm", "LLaDAModelLM")
               | stub_module("..model.modeling_fused_olmoe", "FusedOlmoeForCausalLM"))
    module = Source("--dinfer", checkout, HOME).load(
        FILE, *(function for function, _ in LOOPS.values()),
        stand_ins=foreign)
    yield from findings("dInfer", module, Cached, RandomModels(num_models))
