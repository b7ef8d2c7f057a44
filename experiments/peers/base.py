"""The base of every comparison with public code: its files as modules, random models for both sides, and a count of the
decodes that agree.

A decode that differs counts against us unless a known defect of theirs explains it: their code with that defect
repaired must give our tokens.
"""

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

import torch

from ...decoders import Decoder, Request
from ...models import AttentionPattern, Bidirectional, DecodableTransformer, Shape
from ..harness.records import Json, describe
from .agreement import close_decisions, random_transformer

Engine = Callable[[DecodableTransformer, list[int]], list[int]]
"""A peer's decode: from our model and a prompt to the whole canvas."""


@dataclass(frozen=True)
class Finding:
    """A row of the table: decodes of one peer under some settings, those with our tokens, those that differ by a proven
    defect of the peer, and near-ties that rounding might flip."""

    peer: str
    setting: str
    num_decodes: int = 0
    num_same: int = 0
    num_by_defect: int = 0
    num_close: int = 0
    note: str = ""

    @property
    def holds(self) -> bool:
        return self.num_same + self.num_by_defect == self.num_decodes

    def to_json(self) -> Json:
        return asdict(self) | {"holds": self.holds}

    @classmethod
    def of_json(cls, result: Json) -> "Finding":
        return cls(**{name: result[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Timing:
    """Interleaved times of a setting: figures, the same as text, and whether both sides computed the same."""

    text: str
    figures: Json
    holds: bool = True

    def to_json(self) -> Json:
        return {"text": self.text, "holds": self.holds, "figures": self.figures}

    @classmethod
    def of_json(cls, result: Json) -> "Timing":
        return cls(result["text"], result["figures"], result["holds"])


Outcome = TypeVar("Outcome", Finding, Timing)


@dataclass(frozen=True)
class Comparison(Generic[Outcome]):
    """A comparison with a peer, not yet run: its name, its parameters (JSON values), and the function that measures it.
    """

    peer: str
    setting: str
    of: Json
    measure: Callable[[], Outcome]


@dataclass(frozen=True)
class Case:
    """One setting of both engines: our decoder, theirs, and theirs with its known defect repaired (None: it has none
    here)."""

    decoder: Decoder
    theirs: Engine
    repaired: Engine | None = None


@dataclass(frozen=True)
class RandomModels:
    """Random models with few near-ties and a random prompt each; every other one has a position table. The mask id is
    the last of the vocabulary."""

    num_models: int = 20
    prompt_length: int = 8
    num_new: int = 24
    vocab_size: int = 32
    shape: Shape = field(default_factory=lambda: Shape(width=64, num_layers=2))
    pattern: AttentionPattern = field(default_factory=Bidirectional)
    shift: int = 0
    position_tables: bool = True

    @property
    def mask_id(self) -> int:
        return self.vocab_size - 1

    def __iter__(self) -> Iterator[tuple[DecodableTransformer, list[int]]]:
        for seed in range(self.num_models):
            shape = replace(self.shape, position_table=self.position_tables and seed % 2 == 0)
            transformer = random_transformer(shape, self.vocab_size, self.prompt_length + self.num_new, self.pattern,
                                             seed)
            prompt = torch.randint(0, self.mask_id, (self.prompt_length,)).tolist()
            yield DecodableTransformer(transformer, self.mask_id, self.shift), prompt


def compared(finding: Finding, cases: Sequence[Case], models: RandomModels) -> Comparison[Finding]:
    """The comparison that counts a finding: every case decoded with every model."""
    of = {"models": describe(models), "decoders": [describe(case.decoder) for case in cases]}
    return Comparison(finding.peer, finding.setting, of, lambda: _counted(finding, cases, models))


def _counted(finding: Finding, cases: Sequence[Case], models: RandomModels) -> Finding:
    num_decodes = num_same = num_by_defect = num_close = 0
    for model, prompt in models:
        request = Request.completing(prompt, models.num_new, mask_id=model.mask_id)
        for case in cases:
            ours = case.decoder.decode(model, [request])[0].tokens
            num_decodes += 1
            num_close += close_decisions(case.decoder, model, request)
            if ours == case.theirs(model, prompt):
                num_same += 1
            elif case.repaired is not None and ours == case.repaired(model, prompt):
                num_by_defect += 1
    return replace(finding, num_decodes=num_decodes, num_same=num_same, num_by_defect=num_by_defect,
                   num_close=num_close)


def stub_module(module: str, *names: str) -> dict[str, ModuleType]:
    """A stub of a module that a peer's file imports but no decode calls: every name is an empty class. Parent modules
    are included; leading dots are relative to the file's own folder."""
    path = module.lstrip(".")
    dots, parts = module[: len(module) - len(path)], path.split(".")
    modules = {name: ModuleType(name) for name in (dots + ".".join(parts[: i + 1]) for i in range(len(parts)))}
    for name in names:
        setattr(modules[module], name, type(name, (), {}))
    return modules


@dataclass(frozen=True)
class Source:
    """A peer's checkout: the option that gives it, and its repository."""

    option: str
    checkout: Path
    home: str

    def load(self, file: str, *names: str, stand_ins: Mapping[str, ModuleType] | None = None) -> ModuleType:
        """One of its Python files as a module that has all `names`. Only while it loads, its siblings can be imported
        and `stand_ins` replace modules that it imports. ValueError if the file or a name is missing."""
        path = (self.checkout / file).resolve()
        root = f"{self.option.strip('-').replace('-', '_')}_{hash(str(self.checkout.resolve())):x}"
        package = ".".join((root, *Path(file).parts[:-1]))
        name = f"{package}.{path.stem}"
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, path) if path.is_file() else None
            if spec is None or spec.loader is None:
                raise ValueError(f"{self.option} {self.checkout}: has no file {file}; give a checkout of {self.home}")
            module = importlib.util.module_from_spec(spec)
            stand_ins = {importlib.util.resolve_name(key, package): value for key, value in (stand_ins or {}).items()}
            with _importing(self.checkout.resolve(), package, stand_ins):
                sys.modules[name] = module  # dataclasses look up their module during execution
                try:
                    spec.loader.exec_module(module)
                except BaseException:
                    del sys.modules[name]
                    raise
        module = sys.modules[name]
        for wanted in names:
            if not hasattr(module, wanted):
                raise ValueError(f"{self.option} {self.checkout}: {file} has no {wanted}; give a checkout of "
                                 f"{self.home}")
        return module


@contextmanager
def _importing(root: Path, package: str, stand_ins: Mapping[str, ModuleType]) -> Iterator[None]:
    """Make a checkout's modules importable, both top-level and as submodules of `package` (its first part is the
    checkout), and install `stand_ins`. Afterwards all but the package's modules are removed from sys.modules."""
    before = dict(sys.modules)
    folders = package.split(".")
    for depth in range(1, len(folders) + 1):
        parent = sys.modules.setdefault(".".join(folders[:depth]), ModuleType(".".join(folders[:depth])))
        parent.__path__ = [str(root.joinpath(*folders[1:depth]))]
    sys.modules.update(stand_ins)
    sys.path.insert(0, str(root.joinpath(*folders[1:])))
    try:
        yield
    finally:
        sys.path.pop(0)
        for name in set(sys.modules) - set(before):
            file = getattr(sys.modules[name], "__file__", None)
            is_loose = file is not None and Path(file).is_relative_to(root) and not name.startswith(folders[0])
            if name in stand_ins or is_loose:
                del sys.modules[name]
        sys.modules.update({name: before[name] for name in stand_ins if name in before})
