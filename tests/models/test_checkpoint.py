"""Checkpoints: whole or refused, and put in place atomically."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest
import torch
from quicksilver.kernels.atomic_file import atomic_write
from quicksilver.kernels.moe_router import Routing, Scoring
from quicksilver.models import (
    Bidirectional,
    BlockCausal,
    Causal,
    ExpertShape,
    Router,
    load_checkpoint,
    save_checkpoint,
)
from quicksilver.models.checkpoint import config_to_json, load_tensors, save_tensors

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


@pytest.mark.parametrize("scoring", list(Scoring))
def test_a_mixture_comes_back_with_its_routing_its_bias_and_its_types(tmp_path: Path, scoring: Scoring) -> None:
    routing = Routing(2, scoring, num_groups=2, groups_kept=1, renormalise=True, scale=1.5)
    experts = ExpertShape(4, 8, routing, shared_width=6, num_dense_layers=1, selection_bias=True)
    model = random_transformer(Causal(), experts=experts)
    router = next(module for module in model.modules() if isinstance(module, Router))
    assert router.bias_X is not None
    router.bias_X.normal_()
    save_checkpoint(tmp_path / "m.safetensors", model.bfloat16())
    tensors, header = load_tensors(tmp_path / "m.safetensors")
    assert tensors["blocks.1.ffn.router.bias_X"].dtype == torch.float32
    assert tensors["blocks.1.ffn.down_XEM"].dtype == torch.bfloat16
    assert json.loads(json.dumps(header["config"])) == header["config"]
    loaded = load_checkpoint(tmp_path / "m.safetensors", expect=model.config)
    assert loaded.config == model.config
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name].to(tensor.dtype), tensor, rtol=0, atol=0)
    with pytest.raises(ValueError, match="a checkpoint of another configuration: shape="):
        load_checkpoint(tmp_path / "m.safetensors", expect=random_transformer(Causal()).config)


def test_a_file_older_than_experts_still_loads(tmp_path: Path) -> None:
    model = random_transformer(Causal())
    config = config_to_json(model.config)
    assert isinstance(config["shape"], dict)
    del config["shape"]["experts"]
    save_tensors(tmp_path / "m.safetensors", model.state_dict(), {"config": config})
    assert load_checkpoint(tmp_path / "m.safetensors").config == model.config


def test_another_configuration_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m.safetensors", random_transformer(Causal()))
    with pytest.raises(ValueError, match=r"m\.safetensors: .* another configuration: attention=Causal\(\), not Bidir"):
        load_checkpoint(tmp_path / "m.safetensors", expect=random_transformer(Bidirectional()).config)


@pytest.mark.parametrize("keep", [0, 5, 400, -3])
def test_a_truncated_checkpoint_is_named_and_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, random_transformer(Causal()))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"m\.safetensors: not a complete checkpoint"):
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
