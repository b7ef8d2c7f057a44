"""Run an experiment: python -m quicksilver.experiments [experiment=...] [task=...] [key=value ...]

The only file that knows Hydra: it composes the configuration, builds the experiment, and runs its missing points.
`-m` with a Hydra launcher fans a sweep out over processes. Bad input ends with one line and exit code 2, a failed point
or a full disk with exit code 1. Launchers send `_run` to other processes by value: what it refers to lives in modules.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
import torch
from hydra import compose
from hydra.conf import HydraConf
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

# Without a GPU Triton's kernels can only be interpreted, which Triton must know before it is imported.
os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")

from . import progress
from .devices import best_device
from .interrupts import interrupt_once
from .provenance import available_cores
from .runner import PointsFailed, check_folder


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    try:
        yield
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        progress.console.print(f"error: {_one_line(error)}", markup=False)
        sys.exit(2)


def _one_line(error: BaseException) -> str:
    """The message of the error at the root of a chain, on one line, without what Hydra adds about itself."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, (ConfigAttributeError, ConfigKeyError)) and isinstance(error.parent_node, DictConfig):
        known = ", ".join(str(key) for key in error.parent_node if key != "_target_")
        return f"unknown key {error.full_key!r}: must be one of {known or 'none, it has no options'}"
    message = str(error).partition("Config search path:")[0].partition("full_key:")[0]
    return " ".join(message.split())


@hydra.main(config_path="pkg://quicksilver.conf", config_name="config", version_base="1.3")
def _run(config: DictConfig) -> None:
    # Input is checked here; a ValueError that comes later is our own mistake and keeps its traceback. Errors are
    # caught inside the job because Hydra prints a line of its own about an exception that leaves it.
    with _errors_in_one_line():
        config = _with_every_kernel(config, HydraConfig.get())
        _compose_presets(config, HydraConfig.get())
        if config.threads is None:
            config.threads = _free_cores(HydraConfig.get())
        if config.device is None:
            config.device = best_device()
        experiment = instantiate(config.experiment, _convert_="all")
        experiment.check()
        check_folder("output", Path(config.output))
    try:
        num_failed = experiment.run(Path(config.output))
    except OSError as error:
        progress.console.print(f"error: {error}; what was recorded before is intact", markup=False)
        sys.exit(1)
    if num_failed:
        raise PointsFailed(f"{num_failed} points failed; see the report")


def _with_every_kernel(config: DictConfig, hydra_config: HydraConf) -> DictConfig:
    """The configuration with all options of the kernel group, where an experiment takes kernels and none was named."""
    if hydra_config.runtime.choices.get("kernel", "not taken") is not None:
        return config
    every = GlobalHydra.instance().config_loader().get_group_options("kernel")
    return compose("config", overrides=[*hydra_config.overrides.task, f"kernel=[{','.join(every)}]"])


def _compose_presets(config: DictConfig, hydra_config: HydraConf) -> None:
    """Put the presets that the experiment names, or all where it names none, in the place of their names."""
    if "presets" not in config.experiment:
        return
    known = GlobalHydra.instance().config_loader().get_group_options("decoder")
    named = known if config.experiment.presets is None else list(config.experiment.presets)
    for name in named:
        if name not in known:
            raise ValueError(f"presets={named}: {name!r} is none of {', '.join(known)}")
    presets = {}
    for name in named:
        chosen = compose("config", overrides=["experiment=decode", f"decoder={name}"]).experiment
        presets[name] = {"_target_": "quicksilver.experiments.decoders.Preset",
                         "decoder": OmegaConf.to_container(chosen.decoder, resolve=True),
                         "family": OmegaConf.to_container(chosen.family, resolve=True)}
    config.experiment.presets = presets


def _free_cores(hydra_config: HydraConf) -> int:
    """Two of the cores, or one for each job where a launcher runs several at once."""
    runs_in_parallel = hydra_config.mode == RunMode.MULTIRUN and hydra_config.launcher.get("n_jobs", 1) != 1
    return 1 if runs_in_parallel else min(2, available_cores())


def main() -> None:
    interrupt_once()
    # Hydra prints its own errors over several lines and exits with 1 unless it is told to let them through.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        with _errors_in_one_line():
            _run()
    except PointsFailed as error:
        progress.console.print(f"error: {error}", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        progress.console.print("interrupted: the same command goes on from here", markup=False)
        sys.stdout.flush()
        os._exit(130)  # everything is written, and who interrupts may soon kill: unloading torch takes its time


if __name__ == "__main__":
    main()
