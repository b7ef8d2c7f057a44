"""dInfer's copy of the loops is found where dInfer keeps it, without the models it imports."""

from pathlib import Path

import pytest
from quicksilver.experiments.peers.dinfer import agreement

from tests.experiments.peers.stand_ins import LOOPS, checkout

FILE = "python/dinfer/decoding/generate_fastdllm.py"
_FOREIGN = """
from ..model.modeling_llada_fastdllm import LLaDAModelLM
from ..model.modeling_fused_olmoe import FusedOlmoeForCausalLM
from .siblings import NUMBER
assert NUMBER == 7
assert not isinstance(NUMBER, FusedOlmoeForCausalLM)
"""


def test_the_loops_run_without_the_models_that_the_file_imports(tmp_path: Path) -> None:
    checkout(tmp_path, FILE, _FOREIGN + LOOPS)
    checkout(tmp_path, FILE.replace("generate_fastdllm", "siblings"), "NUMBER = 7")
    finding = next(agreement(tmp_path, num_models=1)).measure()
    assert finding.peer == "dInfer"
    assert finding.num_same == finding.num_decodes == 12


def test_a_missing_checkout_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--dinfer .*: has no file python/dinfer/decoding/generate_fastdllm.py"):
        next(agreement(tmp_path))
