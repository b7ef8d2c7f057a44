"""Checkpoints: safetensors with the model's configuration in the header, written atomically."""

import json
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..kernels.atomic_file import atomic_write
from ..kernels.moe_router import Routing, Scoring
from .attention import Bidirectional, BlockCausal, Causal
from .config import ExpertShape, Shape, TransformerConfig
from .transformer import Transformer

_PATTERNS = {pattern.__name__: pattern for pattern in (Bidirectional, BlockCausal, Causal)}


def save_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, object]) -> None:
    """Write tensors (contiguous copies) and a JSON header as one safetensors file, atomically."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    atomic_write(path, save(tensors, metadata={"header": json.dumps(header)}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors and header of a file written by `save_tensors`. ValueError names a file that is damaged or of another
    format."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            header = json.loads(metadata["header"])
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118
    except FileNotFoundError:
        raise ValueError(f"{path}: no such checkpoint") from None
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a complete checkpoint of this library ({error})") from None


def config_to_json(config: TransformerConfig) -> dict[str, object]:
    """A configuration as JSON values; `config_from_json` is its inverse."""
    kind = type(config.attention).__name__
    values = {**asdict(config), "attention": {"kind": kind, **vars(config.attention)}}
    experts = config.shape.experts
    if experts is not None:
        values["shape"]["experts"]["routing"]["scoring"] = experts.routing.scoring.value
    return values


def config_from_json(values: dict) -> TransformerConfig:
    attention = dict(values["attention"])
    kind = attention.pop("kind")
    if kind not in _PATTERNS:
        raise ValueError(f"attention={kind!r}: must be one of {sorted(_PATTERNS)}")
    shape = dict(values["shape"])
    if shape.get("experts") is not None:  # older files do not have it
        routing = dict(shape["experts"]["routing"])
        routing["scoring"] = Scoring(routing["scoring"])
        shape["experts"] = ExpertShape(**{**shape["experts"], "routing": Routing(**routing)})
    return TransformerConfig(values["vocab_size"], values["max_length"], _PATTERNS[kind](**attention), Shape(**shape))


def save_checkpoint(path: Path, model: Transformer, **facts: object) -> None:
    """Write the model's weights, its configuration and `facts` (JSON values) to `path`."""
    save_tensors(path, weights_of(model), {"config": config_to_json(model.config), **facts})


def weights_of(model: Transformer) -> dict[str, Tensor]:
    """The model's weights by name, on the CPU, without a tied head."""
    tensors = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    if model.config.shape.tied_embeddings:
        del tensors["head.weight"]
    return tensors


def set_weights(model: Transformer, tensors: dict[str, Tensor], origin: Path) -> None:
    """Load weights of `weights_of`. ValueError names `origin` if they do not fit the model."""
    if model.config.shape.tied_embeddings:
        tensors = tensors | {"head.weight": tensors["embedding.weight"]}
    try:
        model.load_state_dict(tensors)
    except RuntimeError:
        raise ValueError(f"{origin}: its weights are not those of {model.config}") from None


def load_checkpoint(path: Path, expect: TransformerConfig | None = None) -> Transformer:
    """The model written by `save_checkpoint`. ValueError if the file is damaged, or if its configuration is not the one
    expected."""
    tensors, header = load_tensors(path)
    try:
        config = config_from_json(header["config"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: holds no configuration of this library ({error})") from None
    if expect is not None and config != expect:
        differences = (f"{name}={value}, not {vars(expect)[name]}" for name, value in vars(config).items()
                       if value != vars(expect)[name])
        raise ValueError(f"{path}: a checkpoint of another configuration: {'; '.join(differences)}")
    model = Transformer(config)
    set_weights(model, tensors, path)
    return model
