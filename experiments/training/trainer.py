"""One training loop for all families.

Muon for the 2-D weights of the layers, AdamW for all other parameters (stacked experts included); linear warm-up times
cosine decay to zero; gradients clipped at norm 1. A recipe fixes the number of updates; seconds are measured. Every
random number is a function of (seed, update), so a resumed training ends in the same weights as an uninterrupted one.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ...kernels.atomic_file import clear_temporaries
from ...kernels.dispatch import Ran, recording
from ...models import RouterRecorder, SeparateHead, Transformer
from ...models.checkpoint import load_checkpoint, load_tensors, save_checkpoint, save_tensors, set_weights, weights_of
from ...models.routers import expert_counts, max_violation
from ..harness.execution import ProductTypes, seen
from ..harness.locks import exclusive, machine_shared
from ..harness.progress import bar, console
from ..harness.provenance import provenance
from ..harness.records import Json, RecordStore, key_of
from .evaluator import accuracy
from .muon import Muon
from .recipe import PRECISIONS, TrainingPoint

_SECONDS_BETWEEN_SAVES = 10.0


class TrainingPaused(Exception):
    """Training reached its time limit. Its state is saved, and the next call resumes it."""


def load_or_train(point: TrainingPoint, folder: Path, stop_at: float = math.inf, models_at_once: int = 1
                  ) -> tuple[Transformer, Json]:
    """The point's model and training record: loaded from `folder` if complete there, else trained from the last saved
    state. If several processes need the same point, one trains it. TrainingPaused if training is not complete at
    `stop_at`, a time of time.perf_counter(). `models_at_once`, how many the caller trains in parallel, is recorded."""
    weights = _weights(point, folder)
    with exclusive(folder / "locks" / key_of(point)):
        record = _finished(point, folder)
        if record is not None:
            try:
                return load_checkpoint(weights, expect=point.config()).eval(), record
            except ValueError as error:
                console.print(f"training again: {error}", markup=False, style="yellow")
        clear_temporaries(weights)
        clear_temporaries(weights.with_suffix(".state.safetensors"))
        with machine_shared():
            transformer, result = _train(point, weights.with_suffix(".state.safetensors"), stop_at)
        save_checkpoint(weights, transformer, key=key_of(point))
        record = RecordStore(folder / "records").write(point, result | {"models_at_once": models_at_once}, provenance())
        weights.with_suffix(".state.safetensors").unlink(missing_ok=True)
        return transformer, record


def is_trained(point: TrainingPoint, folder: Path) -> bool:
    """Whether `folder` has the point's checkpoint and a record without failure."""
    return _finished(point, folder) is not None


def _weights(point: TrainingPoint, folder: Path) -> Path:
    return folder / "checkpoints" / f"{key_of(point)}.safetensors"


def _finished(point: TrainingPoint, folder: Path) -> Json | None:
    """The record of a completed training in `folder`, else None."""
    record = RecordStore(folder / "records").completed(point)
    return record if _weights(point, folder).exists() else None


def initialized(point: TrainingPoint) -> Transformer:
    """The model with its initial weights."""
    torch.manual_seed(point.seed)
    return Transformer(point.config())


@dataclass
class _Run:
    """The state of a training, as saved and restored."""

    transformer: Transformer
    optimizers: tuple[torch.optim.Optimizer, ...]
    update: int
    seconds: float
    curve: list[Json]
    losses: list[float]
    violations: list[float]


def _begin(point: TrainingPoint) -> _Run:
    transformer = initialized(point).to(point.recipe.device)
    matrices = [p for p in transformer.blocks.parameters() if p.ndim == 2]
    in_blocks = {id(p) for p in matrices}
    others = [p for p in transformer.parameters() if id(p) not in in_blocks]
    optimizers = (Muon(matrices, point.recipe.muon_lr, PRECISIONS[point.recipe.precision]),
                  torch.optim.AdamW(others, lr=point.recipe.adamw_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True))
    return _Run(transformer, optimizers, 0, 0.0, [], [], [])


def _save(run: _Run, path: Path, point: TrainingPoint) -> None:
    tensors = {f"model.{name}": tensor for name, tensor in weights_of(run.transformer).items()}
    for number, optimizer in enumerate(run.optimizers):
        for parameter, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{parameter}.{name}": tensor for name, tensor in state.items()}
    header = {"key": key_of(point), "update": run.update, "seconds": run.seconds, "curve": run.curve,
              "losses": run.losses, "violations": run.violations}
    save_tensors(path, tensors, header)


def _restore(run: _Run, path: Path, point: TrainingPoint) -> None:
    tensors, header = load_tensors(path)
    if header.get("key") != key_of(point):
        raise ValueError(f"{path}: holds the state of another recipe")
    model = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    set_weights(run.transformer, model, path)
    for number, optimizer in enumerate(run.optimizers):
        state: dict[int, Json] = {}
        for name, tensor in tensors.items():
            if name.startswith(f"optimizer.{number}."):
                _, _, parameter, field = name.split(".")
                state.setdefault(int(parameter), {})[field] = tensor
        optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    run.update, run.seconds, run.curve, run.losses, run.violations = (
        header[name] for name in ("update", "seconds", "curve", "losses", "violations"))


def _train(point: TrainingPoint, state_path: Path, stop_at: float) -> tuple[Transformer, Json]:
    recipe = point.recipe
    torch.set_num_threads(recipe.threads)
    run = _begin(point)
    if state_path.exists():
        try:
            _restore(run, state_path, point)
        except ValueError as error:
            console.print(f"training from the start: {error}", markup=False, style="yellow")
    num_tokens = recipe.batch_size * run.transformer.config.max_length
    curve_updates = {round(recipe.updates * (i + 1) / recipe.num_curve_points) for i in range(recipe.num_curve_points)}
    saved = began = time.perf_counter()
    first_update, earlier_seconds = run.update, run.seconds
    with bar(f"train {point.name} {type(recipe.objective).__name__} seed {point.seed}", recipe.updates,
             run.update) as shown:
        while run.update < recipe.updates:
            if time.perf_counter() >= stop_at:
                if run.update > first_update:
                    _save(run, state_path, point)
                raise TrainingPaused(f"{run.update:,} of {recipe.updates:,} updates")
            loss = _update(run, point)
            run.losses.append(round(loss, 6))
            run.update += 1
            if not math.isfinite(loss):
                raise FloatingPointError(f"{point.name}: the loss is {loss} at update {run.update} of {recipe.updates}")
            now = time.perf_counter()
            run.seconds = earlier_seconds + now - began
            rate = (run.update - first_update) * num_tokens / (now - began)
            shown.update(run.update, f"loss {np.mean(run.losses[-20:]):.3f}  {rate:,.0f} tokens/s")
            if run.update in curve_updates:
                evaluator = point.evaluator(run.transformer, recipe.curve_decoder, SeparateHead())
                quality = accuracy(evaluator, point.task, recipe.num_curve_items, recipe.num_curve_items)
                run.transformer.train()
                run.curve.append({"update": run.update, "seconds": run.seconds, "right": quality})
            if time.perf_counter() - saved > _SECONDS_BETWEEN_SAVES:
                _save(run, state_path, point)
                saved = time.perf_counter()
            began += time.perf_counter() - now  # exclude evaluation and checkpointing time
    return run.transformer.eval(), {
        "seconds": run.seconds, "updates": recipe.updates, "examples": recipe.updates * recipe.batch_size,
        "tokens": recipe.updates * num_tokens, "parameters": run.transformer.num_parameters(),
        "active_parameters": run.transformer.num_active_parameters(), "curve": run.curve, "losses": run.losses,
        "violations": run.violations} | seen(run.transformer, *_watched_update(point))


def _watched_update(point: TrainingPoint) -> tuple[ProductTypes, Ran]:
    """The product dtypes and kernels of the recipe's updates, recorded in one untimed update of an untrained model:
    recording slows operators down."""
    run = _begin(point)
    with recording() as ran, ProductTypes() as products:
        _update(run, point)
    return products, ran


def _update(run: _Run, point: TrainingPoint) -> float:
    """One optimizer update. Returns the loss in nats per target token, without the balancing loss."""
    recipe, task = point.recipe, point.task
    rng = np.random.default_rng([point.seed, run.update])
    encoded = recipe.format.encode(task, task.training_problems(rng, recipe.batch_size))
    autocast = torch.autocast(recipe.device, torch.bfloat16, enabled=recipe.precision == "bfloat16")
    with RouterRecorder(run.transformer) as recorder, autocast:
        loss = recipe.objective.loss(
            run.transformer, torch.tensor(encoded.tokens), torch.tensor(encoded.target), mask_id=task.vocab_size - 1,
            generator=torch.Generator().manual_seed(int(rng.integers(2**63))))
    routing = [result for (result,) in recorder.results]
    (loss + recipe.balancing.loss(recorder.routers, routing)).backward()
    nn.utils.clip_grad_norm_(run.transformer.parameters(), 1.0)
    factor = recipe.learning_rate_factor(run.update)
    for optimizer, rate in zip(run.optimizers, (recipe.muon_lr, recipe.adamw_lr), strict=True):
        optimizer.param_groups[0]["lr"] = rate * factor
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    recipe.balancing.adjust(recorder.routers, routing)
    if routing:
        violations = [max_violation(expert_counts(result)) for result in routing]
        run.violations.append(round(torch.stack(violations).mean().item(), 4))
    return loss.item()
