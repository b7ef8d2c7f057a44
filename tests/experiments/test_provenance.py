"""A record says where it comes from."""

from quicksilver.experiments.cores import available_cores
from quicksilver.experiments.provenance import provenance


def test_provenance_names_commit_machine_and_versions() -> None:
    found = provenance()
    assert found["commit"] == "none" or len(found["commit"]) == 40
    assert len(found["source_hash"]) == 16
    assert found["machine"]["cores"] == available_cores() >= 1
    assert found["machine"]["cpu"]
    assert found["versions"].keys() >= {"python", "torch", "numpy", "triton", "quicksilver"}
