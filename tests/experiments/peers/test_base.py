"""A peer's file is loaded without leaving anything behind, and a differing decode is excused by a repaired defect
alone."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
from quicksilver.decoders import Blocks, Decoder, Greedy, Linear, Recompute, Request, TopProbability
from quicksilver.experiments.peers.base import Case, Finding, RandomModels, Source, compared, stub_module
from quicksilver.models import DecodableTransformer

from tests.experiments.peers.stand_ins import checkout

DECODER = Decoder(Blocks(24), Linear(4), Greedy(), TopProbability(), Recompute())


def ours(model: DecodableTransformer, prompt: list[int]) -> list[int]:
    return DECODER.decode(model, [Request.completing(prompt, 24, mask_id=model.mask_id)])[0].tokens


def wrong(model: DecodableTransformer, prompt: list[int]) -> list[int]:
    return [*ours(model, prompt)[:-1], model.mask_id]


@pytest.mark.parametrize(("case", "counts", "holds"), [
    (Case(DECODER, ours), (2, 2, 0), True), (Case(DECODER, wrong), (2, 0, 0), False),
    (Case(DECODER, wrong, ours), (2, 0, 2), True), (Case(DECODER, wrong, wrong), (2, 0, 0), False),
    (Case(DECODER, ours, wrong), (2, 2, 0), True)])
def test_a_difference_is_excused_by_the_repaired_peer_alone(case: Case, counts: tuple[int, int, int], holds: bool
                                                           ) -> None:
    found = compared(Finding("peer", "setting", note="note"), [case], RandomModels(2)).measure()
    assert (found.num_decodes, found.num_same, found.num_by_defect) == counts
    assert found.holds == holds
    assert (found.peer, found.setting, found.note) == ("peer", "setting", "note")


def test_models_are_repeatable_and_every_other_one_has_a_position_table() -> None:
    first, again = (list(RandomModels(3)) for _ in range(2))
    assert [prompt for _, prompt in first] == [prompt for _, prompt in again]
    assert [model.config.shape.position_table for model, _ in first] == [True, False, True]
    assert not any(model.config.shape.position_table for model, _ in RandomModels(2, position_tables=False))
    assert all(model.mask_id not in prompt for model, prompt in first)


def test_a_file_is_loaded_beside_its_siblings_and_nothing_loose_is_left(tmp_path: Path) -> None:
    checkout(tmp_path, "a/b/file.py", "import foreign.part\nfrom foreign.part import Model\nimport sibling\n"
                                      "from .other import two\nfrom ..upper.far import Far\n"
                                      "value = sibling.one + two\n")
    checkout(tmp_path, "a/b/sibling.py", "one = 1")
    checkout(tmp_path, "a/b/other.py", "two = 2")
    mine = sys.modules["foreign"] = ModuleType("foreign")
    try:
        path, known = list(sys.path), set(sys.modules)
        module = Source("--peer", tmp_path, "home").load(
            "a/b/file.py", "value", stand_ins=stub_module("foreign.part", "Model") | stub_module("..upper.far", "Far"))
        assert sys.modules["foreign"] is mine
    finally:
        del sys.modules["foreign"]
    assert module.value == 3
    assert isinstance(module.Model, type)
    assert sys.path == path
    assert all(name.startswith("peer_") for name in set(sys.modules) - known)
    assert Source("--peer", tmp_path, "home").load("a/b/file.py") is module


def test_what_is_missing_is_named_and_a_file_that_fails_is_not_kept(tmp_path: Path) -> None:
    source = Source("--peer", tmp_path, "example.org/peer")
    with pytest.raises(ValueError, match="--peer .*: has no file x.py; give a checkout of example.org/peer"):
        source.load("x.py")
    checkout(tmp_path, "x.py", "value = 1")
    with pytest.raises(ValueError, match="x.py has no generate; give a checkout of example.org/peer"):
        source.load("x.py", "value", "generate")
    checkout(tmp_path, "y.py", "import no_such_module")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_module"):
            source.load("y.py")
