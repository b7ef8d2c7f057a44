"""The comparison with public engines fails clearly without a peer, and tells one that agrees from one that does not.
The peers themselves are not here; a stand-in with LLaDA's signature is."""

import subprocess
import sys
from pathlib import Path

import pytest
from quicksilver.experiments.peers import llada_agreement, load_llada

_STAND_IN = """
import torch

def generate(model, prompt, steps, gen_length, block_length, temperature, mask_id):
    x = torch.cat((prompt, torch.full((1, gen_length), mask_id)), 1)
    per_block = steps * block_length // gen_length
    for begin in range(prompt.shape[1], x.shape[1], block_length):
        for step in range(per_block):
            logits = model(x).logits[0]
            p = logits.softmax(-1)
            open_ = [i for i in range(begin, begin + block_length) if x[0, i] == mask_id]
            quota = block_length // per_block + (step < block_length % per_block)
            for i in sorted(open_, key=lambda i: -p[i].max().item())[:quota]:
                x[0, i] = p[i].argmax() + OFFSET
    return x
"""


@pytest.mark.parametrize(("offset", "holds"), [(0, True), (1, False)])
def test_agreement_is_counted(tmp_path: Path, offset: int, holds: bool) -> None:
    path = tmp_path / "generate.py"
    path.write_text(_STAND_IN.replace("OFFSET", str(offset)))
    (finding,) = llada_agreement(load_llada(path), num_models=1)
    assert finding.holds == holds
    assert ("12 of 12 decodes identical" in finding.text) == holds


def test_a_missing_or_foreign_peer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere.py: not a Python file"):
        load_llada(tmp_path / "nowhere.py")
    (tmp_path / "other.py").write_text("x = 1")
    with pytest.raises(ValueError, match="has no function generate"):
        load_llada(tmp_path / "other.py")


@pytest.mark.parametrize(("arguments", "message"), [([], "name a peer"), (["--llada", "nowhere"], "not a Python file")])
def test_the_command_fails_clearly_without_a_peer(arguments: list[str], message: str) -> None:
    finished = subprocess.run([sys.executable, "-m", "quicksilver.experiments.peers", *arguments], capture_output=True,
                              text=True)
    assert finished.returncode == 2
    assert message in finished.stderr
