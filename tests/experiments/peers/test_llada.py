"""The comparison with LLaDA's loop counts agreement, catches a deviation and sees the missing mask's fault. The loop
itself is not here; a stand-in with its signature is."""

from pathlib import Path

import pytest
from quicksilver.experiments.peers import speed
from quicksilver.experiments.peers.agreement import Turns
from quicksilver.experiments.peers.llada import agreement
from quicksilver.experiments.peers.llada import speed as llada_speed
from quicksilver.models import Shape

from tests.experiments.peers.stand_ins import LLADA, checkout, measured

pytestmark = pytest.mark.usefixtures("one_layer")


@pytest.mark.parametrize(("offset", "holds"), [pytest.param(0, True, marks=pytest.mark.slow), (1, False)])
def test_agreement_is_counted_with_and_without_guidance(tmp_path: Path, offset: int, holds: bool) -> None:
    plain, guided = measured(agreement(checkout(tmp_path, "generate.py", LLADA, offset), num_models=1))
    assert (plain.num_decodes, guided.num_decodes) == (12, 12)
    assert plain.holds == guided.holds == holds
    assert ((plain.num_same, guided.num_same) == (12, 12)) == holds
    assert "UnboundLocalError" in guided.note


def test_the_fault_is_noted_only_where_the_checkout_has_it(tmp_path: Path) -> None:
    repaired = LLADA.replace("    given = x", "    doubled = None\n    given = x")
    _, guided = measured(agreement(checkout(tmp_path, "generate.py", repaired), num_models=1))
    assert guided.holds
    assert guided.note == ""


def test_a_missing_or_foreign_checkout_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--llada .*: has no file generate.py; give a checkout of github.com/ML-GSAI"):
        next(agreement(tmp_path))
    with pytest.raises(ValueError, match="generate.py has no generate;"):
        next(agreement(checkout(tmp_path, "generate.py", "x = 1")))


def test_both_loops_are_timed_on_the_same_weights_in_both_precisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                                   ) -> None:
    monkeypatch.setattr(speed, "interleaved", lambda ours, theirs, rounds: Turns([1.0], [3.0]))
    monkeypatch.setattr(speed, "timed_engines", lambda engines, theirs, rounds: ("    engines", {}))
    setting = speed.Setting(Shape(width=16, num_layers=1, num_heads=2, num_kv_heads=2, ffn_width=16,
                                  position_table=False), 13, prompt_length=3, num_new=8, block=4, steps=4, rounds=1)
    precise, rounded = measured(llada_speed(checkout(tmp_path, "generate.py", LLADA), setting))
    assert precise.holds
    assert rounded.holds
    assert "float32, 8 tokens after 3, blocks of 4, 4 steps: ours 8.0 tokens/s, theirs 2.7, ratio 3.00" in precise.text
    assert "bfloat16" in rounded.text
    # 4 forwards of 11 positions; ours asks for the 4 of the block
    assert "positions computed: ours 44, theirs 44; with logits: ours 12, theirs 44" in precise.text
