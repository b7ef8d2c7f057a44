"""A published model's config.json, read field by field. What nobody has read may change what the model computes, and is
refused: a key of a newer version, read by none, is how published loaders went wrong without a word.

A field that is absent or null has its default, where it has one.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ...kernels.checks import check_integer, check_real, shown

_REQUIRED: Any = object()

# What says nothing of the forward: names, versions, training, and what generation and tokenizers take from elsewhere.
_INERT = frozenset((
    "_name_or_path", "architectures", "attention_dropout", "attn_implementation", "auto_map", "bos_token_id",
    "cache_implementation", "chunk_size_feed_forward", "decoder_start_token_id", "dtype", "embd_pdrop", "eos_token_id",
    "finetuning_task", "head_dropout", "id2label", "initializer_range", "is_decoder", "is_encoder_decoder",
    "is_llama_config", "label2id", "model_type", "output_attentions", "output_hidden_states", "output_router_logits",
    "pad_token_id", "pretraining_tp", "problem_type", "resid_pdrop", "return_dict", "router_aux_loss_coef",
    "router_dropout", "router_jitter_noise", "torch_dtype", "transformers.js_config", "transformers_version",
    "unsloth_fixed", "unsloth_version", "use_cache"))


class Fields:
    """The fields of one configuration, which `origin` names. Every method's errors are ValueErrors that name the field
    and what is allowed."""

    def __init__(self, values: Mapping[str, Any], origin: str) -> None:
        self.origin = origin
        self._values = dict(values)
        self._read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        """Whether the field is there, be it null."""
        return name in self._values

    def take(self, name: str, default: Any = _REQUIRED) -> Any:
        """The value as it is."""
        self._read.add(name)
        value = self._values.get(name)
        if value is not None:
            return value
        if default is _REQUIRED:
            raise ValueError(f"{self.origin}: has no {name}, which the model needs")
        return default

    def integer(self, name: str, default: Any = _REQUIRED, at_least: int = 1) -> Any:
        value = self.take(name, default)
        return value if value is None else check_integer(f"{self.origin}: {name}", value, at_least)

    def real(self, name: str, default: Any = _REQUIRED) -> Any:
        value = self.take(name, default)
        return value if value is None else check_real(f"{self.origin}: {name}", value, above=0)

    def flag(self, name: str, default: Any = _REQUIRED) -> bool:
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise ValueError(f"{self.origin}: {name}={shown(value)}: must be true or false")
        return value

    def integers(self, name: str) -> tuple[int, ...]:
        """A list of integers, empty where there is none."""
        value = self.take(name, [])
        if not isinstance(value, list):
            raise ValueError(f"{self.origin}: {name}={shown(value)}: must be a list of integers")
        return tuple(check_integer(f"{self.origin}: {name}", item, 0) for item in value)

    def table(self, name: str) -> "Fields | None":
        """A table within, whose own fields are to be read; None where there is none."""
        value = self.take(name, None)
        if value is None or isinstance(value, Mapping):
            return None if value is None else Fields(value, f"{self.origin}: {name}")
        raise ValueError(f"{self.origin}: {name}={shown(value)}: must be a table")

    def expect(self, name: str, *allowed: object) -> None:
        """Of values that are computed otherwise, this library has these alone; absent counts as the first."""
        value = self.take(name, allowed[0])
        if value not in allowed:
            raise ValueError(f"{self.origin}: {name}={shown(value)}: must be "
                             f"{'one of ' if len(allowed) > 1 else ''}{', '.join(map(repr, allowed))}")

    def require(self, name: str, *allowed: object) -> None:
        """The same of a field that must be there: where it is not, the model's own code has another value."""
        self.take(name)
        self.expect(name, *allowed)

    def inert(self, *names: str) -> None:
        """Fields that say nothing of this family's forward, whatever they hold."""
        self._read.update(names)

    def check_all_read(self, ignoring: Iterable[str] = ()) -> None:
        """ValueError if a field was read by none and is not known to say nothing of the forward."""
        unread = sorted(name for name in self._values.keys() - self._read - _INERT - set(ignoring)
                        if self._values[name] is not None)
        if unread:
            raise ValueError(f"{self.origin}: {', '.join(unread)}: unknown to this family, and may change what the "
                             f"model computes; ignoring={unread} loads it all the same")
