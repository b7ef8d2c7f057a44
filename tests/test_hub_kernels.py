"""Hugging Face's `kernels`, which transformers imports, beside our folder of that name: both work, in either order.

Our folder has no __init__.py and is imported as quicksilver.kernels: a package named `kernels` anywhere on the path
comes before it. Where no version that transformers takes is installed, a stand-in of its name and version is.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers.utils.import_utils import KERNELS_MIN_VERSION, is_kernels_available

ROOT = Path(__file__).resolve().parents[1]
IS_INSTALLED = is_kernels_available()
STAND_IN = '''
class _Anything:
    def __init__(self, *args, **options): pass

def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return _Anything

def use_kernel_forward_from_hub(name):
    return lambda layer: layer

use_kernelized_func = use_kernel_func_from_hub = use_kernel_forward_from_hub
'''
BOTH_WORK = '''
import importlib, sys

for name in sys.argv[1:]:
    importlib.import_module(name)
import kernels, torch
from quicksilver.decoders import generate, presets
from quicksilver.kernels.swiglu import swiglu
from quicksilver.models import HuggingFaceModel
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.integrations import hub_kernels
from transformers.utils import is_kernels_available

assert is_kernels_available() and hub_kernels.LayerRepository is kernels.LayerRepository
config = LlamaConfig(vocab_size=31, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2)
model = HuggingFaceModel.of(LlamaForCausalLM(config).eval())
assert len(generate(model, presets.autoregressive(), [[3, 1, 4]], num_new=4).completions[0].tokens) == 7
assert swiglu(torch.ones(2, 16)).shape == (2, 8)
print(kernels.__file__)
'''


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a process that finds Hugging Face's `kernels`, or the stand-in for it."""
    if IS_INSTALLED:
        return dict(os.environ)
    package, metadata = tmp_path / "site" / "kernels", tmp_path / "site" / f"kernels-{KERNELS_MIN_VERSION}.dist-info"
    for folder in (package, metadata):
        folder.mkdir(parents=True)
    (package / "__init__.py").write_text(STAND_IN)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: kernels\nVersion: {KERNELS_MIN_VERSION}\n")
    path = os.pathsep.join(filter(None, (str(package.parent), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


def printed(program: str, *arguments: str, cwd: Path, env: dict[str, str]) -> str:
    finished = subprocess.run([sys.executable, "-c", program, *arguments], cwd=cwd, env=env, capture_output=True,
                              text=True)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()


def test_from_our_root_the_name_is_still_theirs(environment: dict[str, str]) -> None:
    program = "import kernels, quicksilver.kernels.checks as ours; print(kernels.__file__, ours.__file__, sep='\\n')"
    theirs, ours = printed(program, cwd=ROOT, env=environment).splitlines()
    assert Path(theirs).parent.name == "kernels"
    assert not Path(theirs).is_relative_to(ROOT / "kernels")
    assert Path(ours) == ROOT / "kernels" / "checks.py"


@pytest.mark.slow
@pytest.mark.parametrize("from_root", [True, False], ids=["from the root", "from outside"])
@pytest.mark.parametrize("order", [("kernels", "transformers", "quicksilver.models"),
                                   ("quicksilver.models", "transformers", "kernels")], ids=" ".join)
@pytest.mark.parametrize("which", ["kernels as installed" if IS_INSTALLED else "a stand-in for kernels"])
def test_both_work_in_either_order(
        which: str, order: tuple[str, ...], from_root: bool, environment: dict[str, str], tmp_path: Path) -> None:
    found = Path(printed(BOTH_WORK, *order, cwd=ROOT if from_root else tmp_path, env=environment))
    assert not found.is_relative_to(ROOT / "kernels")
