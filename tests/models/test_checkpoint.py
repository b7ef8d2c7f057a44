"""Checkpoints: whole or refused, and put in place atomically."""

import errno
import os
import stat
from pathlib import Path

import pytest
import torch
from quicksilver.kernels.atomic_file import atomic_write
from quicksilver.models import Bidirectional, BlockCausal, Causal, load_checkpoint, save_checkpoint

from tests.conftest import random_transformer


@pytest.mark.parametrize("attention", [Causal(), Bidirectional(), BlockCausal(4)], ids=str)
@pytest.mark.parametrize("tied", [False, True])
def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path, attention: Causal, tied: bool) -> None:
    model = random_transformer(attention, tied_embeddings=tied)
    save_checkpoint(tmp_path / "m.safetensors", model)
    loaded = load_checkpoint(tmp_path / "m.safetensors", expect=model.config)
    assert loaded.config == model.config
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=0, atol=0)


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m.safetensors", random_transformer(Causal()))
    with pytest.raises(ValueError, match=r"m\.safetensors: .* another configuration: attention=Causal\(\), not Bidir"):
        load_checkpoint(tmp_path / "m.safetensors", expect=random_transformer(Bidirectional()).config)


@pytest.mark.parametrize("keep", [0, 5, 400, -3])
def test_a_truncated_checkpoint_is_named_and_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, random_transformer(Causal()))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"m\.safetensors: not a whole checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize("call", ["fsync", "replace", "fdopen"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "file"
    atomic_write(path, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_written_file_has_ordinary_permissions(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a", b"")
    (tmp_path / "b").touch()
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)
