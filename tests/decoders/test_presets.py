"""The presets: named as their rows of conf, with a reference, listed in the page, and importable by themselves."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from quicksilver.decoders import Decoder, presets
from quicksilver.decoders.presets import PRESETS
from quicksilver.models import Bidirectional

from tests.conftest import TableModel, ragged_requests

ROOT = Path(__file__).resolve().parents[2]
ROWS = {path.stem: OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        for path in sorted((ROOT / "conf" / "decoder").glob("*.yaml"))}
OURS = {"autoregressive", "block_diffusion", "mercury_style"}


def test_every_preset_has_its_row_of_conf_and_no_other() -> None:
    assert len(PRESETS) == 39
    assert set(ROWS) == {*PRESETS, "parts"}


@pytest.mark.parametrize("name", PRESETS)
def test_a_row_names_every_knob_and_changes_only_block_and_steps(name: str) -> None:
    """Published blocks and steps are for hundreds of tokens, the tasks' answers have tens."""
    expected = {"_target_": f"quicksilver.decoders.presets.{name}"} | presets.knobs(name)
    expected |= {knob: value for knob, value in (("block", 4), ("steps", 8)) if knob in expected}
    if name == "autoregressive":  # whose sampler is an option group's
        expected |= {"sampler": "${sampler}", "defaults": [{"/sampler@_global_.sampler": "greedy"}, "_self_"]}
    assert ROWS[name] == expected


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_builds_from_its_defaults_and_says_where_it_comes_from(name: str) -> None:
    assert isinstance(PRESETS[name](), Decoder)
    assert inspect.signature(PRESETS[name]).return_annotation is Decoder
    summary = (PRESETS[name].__doc__ or "").splitlines()[0]
    source = re.search(r" \(([^()]+)\)\.$", summary)
    assert source, summary
    if name in OURS:
        assert re.match("ours|the baseline", source[1])
    else:
        assert re.search(r"arXiv \d{4}\.\d{5}$", source[1])


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_listed_in_the_decoders_page(name: str) -> None:
    page = (ROOT / "decoders" / "README.md").read_text().partition("\n## Presets\n")[2]
    assert f"`{name}`" in page


def test_knobs_are_arguments_with_their_defaults_and_an_unknown_preset_is_refused() -> None:
    assert presets.knobs("fast_dllm_dual") == {"block": 32, "tau": 0.9}
    with pytest.raises(ValueError, match="preset 'nope': must be one of autoregressive, mdlm, "):
        presets.knobs("nope")


def test_steps_are_those_of_each_block() -> None:
    requests = ragged_requests(1, seed=1, block=8)
    decoder = presets.llada(block=4, steps=2)
    run = decoder.begin(TableModel(Bidirectional()), requests)
    windows = [step.window.index for step in decoder.stream(run)]
    assert len(windows) > 2
    assert windows == sorted([*set(windows)] * 2)


def test_presets_need_neither_hydra_nor_a_gpu_nor_an_experiment() -> None:
    program = ("import sys; sys.modules.update(hydra=None, omegaconf=None)\n"
               "from quicksilver.decoders import presets\n"
               "print(presets.fast_dllm_dual(block=8).windows)\n"
               "assert not [name for name in sys.modules if name.startswith('quicksilver.experiments')]")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    finished = subprocess.run([sys.executable, "-c", program], text=True, capture_output=True,
                              env=environment | {"CUDA_VISIBLE_DEVICES": ""})
    assert (finished.stdout, finished.returncode) == ("Blocks(size=8)\n", 0), finished.stderr
