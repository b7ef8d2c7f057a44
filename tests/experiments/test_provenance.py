"""A record says where it comes from."""

import json
import os
import subprocess
import sys

import torch
from quicksilver.experiments.provenance import available_cores, provenance


def test_provenance_names_commit_machine_and_versions() -> None:
    found = provenance()
    assert found["commit"] == "none" or len(found["commit"]) == 40
    assert len(found["source_hash"]) == 16
    assert found["machine"]["cores"] == available_cores() >= 1
    assert found["machine"]["cpu"]
    assert found["versions"].keys() >= {"python", "torch", "numpy", "triton", "quicksilver"}
    assert found["torch"]["build"] == (f"cuda {torch.version.cuda}" if torch.version.cuda else "cpu")
    assert found["torch"]["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert (found["machine"]["gpu"] is not None) == torch.cuda.is_available()


def test_no_type_or_kernel_is_stated_of_a_process_that_measured_nothing() -> None:
    assert not provenance().keys() & {"dtype", "kernels", "gpu", "device"}


def test_what_was_set_of_the_processor_and_of_waiting_threads_is_seen() -> None:
    code = "import json; from quicksilver.experiments.provenance import provenance; print(json.dumps(provenance()))"
    settings = {"GOMP_SPINCOUNT": "7", "ATEN_CPU_CAPABILITY": "default"}
    finished = subprocess.run([sys.executable, "-c", code], env={**os.environ, **settings}, capture_output=True,
                              text=True, check=True)
    found = json.loads(finished.stdout)["torch"]
    assert found["cpu_capability"] == "DEFAULT"
    assert found["environment"].items() >= settings.items()
