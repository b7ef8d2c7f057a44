"""Run an experiment: python -m quicksilver.experiments [experiment=...] [task=...] [key=value ...] (or --help)

The only file that knows Hydra: it composes the configuration, builds the experiment, and runs its missing points.
`-m` with a Hydra launcher runs a sweep in several processes. Bad input ends with one line and exit code 2, a failed
point or a full disk with exit code 1. Launchers pickle `_run` by value, so everything it refers to is in a module.
"""

import inspect
import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from traceback import walk_tb
from typing import Any

from .harness.cores import available_cores, waiting_threads
from .harness.interrupts import INTERRUPTED, end_when_interrupted, interrupt_once
from .harness.surroundings import mended

if __name__ == "__main__":
    end_when_interrupted()
os.environ.update(mended())
os.environ.update(waiting_threads(os.environ))  # read by torch's OpenMP runtime as it is loaded

import hydra
import torch
from hydra import compose
from hydra.conf import HydraConf
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

# Without a GPU Triton kernels run in the interpreter only, which must be set before Triton is imported.
os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")

from ..kernels.checks import check_integer
from .config.annotations import ConfigTypes
from .config.reads import Place, reads
from .config.renames import check_names
from .config.usage import listed, options, usage
from .harness import progress
from .harness.devices import best_device, fast_precision
from .harness.experiment import Experiment, PointsFailed, Unavailable, check_folder

_EXPERIMENT: Place = ("experiment",)
_READ_HERE = ("experiment", "output")
_TEXT = "prompt"


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    try:
        yield
    except (HydraException, OmegaConfBaseException, ValueError, MemoryError) as error:
        progress.console.print(f"error: {_one_line(error)}", markup=False)
        sys.exit(2)


def _one_line(error: BaseException) -> str:
    """The message of a chain's root error on one line, without Hydra's additions."""
    override = ""
    while error.__cause__ is not None:
        override = str(error).partition("Error merging override ")[2] or override
        error = error.__cause__
    if isinstance(error, (ConfigAttributeError, ConfigKeyError)) and isinstance(error.parent_node, DictConfig):
        known = ", ".join(str(key) for key in error.parent_node if key != "_target_")
        return f"unknown key {error.full_key!r}: must be one of {known or 'none, it has no options'}"
    message = str(error).partition("Config search path:")[0].partition("full_key:")[0]
    return " ".join(f"{override}: {message}".split() if override else message.split())


@hydra.main(config_path="pkg://quicksilver.conf", config_name="config", version_base="1.3")
def _run(config: DictConfig) -> None:
    # Errors are caught inside the job because Hydra prints a line of its own about an exception that leaves it.
    with _errors_in_one_line():
        _refuse_unread(config, HydraConfig.get())
        _refuse_other_tasks(config, HydraConfig.get())
        config = _with_every_kernel(config, HydraConfig.get())
        if config.threads is None:
            config.threads = min(2, _free_cores(HydraConfig.get()))
        if config.device is None:
            config.device = best_device()
        if config.models_at_once is None:
            config.models_at_once = _models_at_once(config, HydraConfig.get())
        if config.precision is None:
            config.precision = fast_precision(config.device)
        folder = _output(config.output)
        ConfigTypes(_plain(config)).check(_EXPERIMENT, Experiment)
        experiment = instantiate(config.experiment, _convert_="all")
        experiment.check()
        check_folder("output", folder)
        try:
            num_failed = experiment.run(folder)
        except Unavailable as error:
            progress.console.print(f"error: {error}", markup=False)
            sys.exit(1)
        except OSError as error:
            progress.console.print(f"error: {error}; what was recorded before is intact", markup=False)
            sys.exit(1)
    if num_failed:
        raise PointsFailed(f"{num_failed} points failed; see the report")


def _plain(config: DictConfig) -> Any:
    """The configuration as dicts and lists, interpolations unresolved."""
    return OmegaConf.to_container(config, resolve=False)


def _output(value: object) -> Path:
    if not isinstance(value, str) or not value:
        raise ValueError(f"output={value!r}: must be the name of a folder; one of digits alone in quotes, as "
                         """output='"123"'""")
    return Path(value)


def _refuse_unread(config: DictConfig, hydra_config: HydraConf) -> None:
    """ValueError for a command-line option that the experiment does not read."""
    plain, texts = _plain(config), list(hydra_config.overrides.task)
    read = reads(plain, _EXPERIMENT)
    for text, option in zip(texts, OverridesParser.create().parse_overrides(texts), strict=True):
        name = option.package or option.key_or_group
        place = tuple(name.split("."))
        parts = {found[: len(place)] for found in read}
        if place[0] in _READ_HERE or place in parts or (option.is_delete() and place[:-1] in read):
            continue
        if _chooses(option.key_or_group, [other for other in texts if other != text], read):
            continue
        keys = sorted({found[0] for found in read} | set(_READ_HERE))
        raise ValueError(f"{name}: experiment={hydra_config.runtime.choices['experiment']} does not read it, only "
                         f"{', '.join(keys)}")


def _refuse_other_tasks(config: DictConfig, hydra_config: HydraConf) -> None:
    """ValueError for options (of training, for example) of a task that is not selected."""
    setups = {name: setup for name, setup in config.task.items() if isinstance(setup, DictConfig)}
    chosen = ",".join(str(name) for name, setup in setups.items() if "_target_" in setup)
    training = hydra_config.runtime.choices.get("training")
    for name, setup in setups.items():
        if "_target_" not in setup:
            by = f"training={training}" if training else f"task.{name}"
            raise ValueError(f"{by}: is for task={name}, and chosen is task={chosen}")


def _chooses(group: str, others: list[str], read: Mapping[Place, Any]) -> bool:
    """Whether the option of a group changes what the experiment reads although no node of that name is read: some
    groups set keys all over the configuration."""
    options = GlobalHydra.instance().config_loader().get_group_options(group)
    for choice in ([], *([f"{group}={option}"] for option in options)):
        try:
            composed = compose("config", overrides=[*others, *choice])
        except (HydraException, OmegaConfBaseException):
            return True  # another option needs it
        if reads(_plain(composed), _EXPERIMENT) != read:
            return True
    return False


def _with_every_kernel(config: DictConfig, hydra_config: HydraConf) -> DictConfig:
    """The configuration with every option of the kernel group if the experiment takes kernels and none was named."""
    if hydra_config.runtime.choices.get("kernel", "not taken") is not None:
        return config
    every = GlobalHydra.instance().config_loader().get_group_options("kernel")
    return compose("config", overrides=[*hydra_config.overrides.task, f"kernel=[{','.join(every)}]"])


def _free_cores(hydra_config: HydraConf) -> int:
    """All cores, or one per job if a launcher runs jobs in parallel."""
    runs_in_parallel = hydra_config.mode == RunMode.MULTIRUN and hydra_config.launcher.get("n_jobs", 1) != 1
    return 1 if runs_in_parallel else available_cores()


def _models_at_once(config: DictConfig, hydra_config: HydraConf) -> int:
    """The number of models that the free cores can train in parallel; one on a GPU, which they would share."""
    threads = check_integer("training_threads", config.training_threads)
    return max(1, _free_cores(hydra_config) // threads) if config.device == "cpu" else 1


def _for_hydra(argument: str) -> str:
    """The argument in Hydra's syntax; a prompt is quoted, whatever characters it has. ValueError names an argument that
    cannot be parsed, or a group whose value is not an option's name."""
    key, equals, text = argument.partition("=")
    if argument.startswith("-") or not equals:
        return argument
    if key == _TEXT:
        if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" and text[0] not in text[1:-1]:
            text = text[1:-1]
        return f"{key}={QuotedString(text.replace('${', chr(92) + '${'), Quote.single).with_quotes()}"
    try:
        option = OverridesParser.create().parse_override(argument)
    except HydraException as error:
        raise ValueError(f"{argument}: {str(error).splitlines()[0]}") from None
    if _is_group(option.key_or_group) and not option.is_sweep_override() and not _names_options(option.value()):
        raise ValueError(f"{argument}: must name one of the group's options, or a list of them")
    return argument


def _said_of_itself(arguments: Sequence[str]) -> str | None:
    """The help text, if the command line asks for help in general or on a group."""
    if {"--help", "-h"} & {*arguments}:
        return usage()
    for argument in arguments:
        group, _, choice = argument.partition("=")
        if choice == "help" and group.isidentifier() and options(group):
            return "\n".join(listed(group))
    return None


def _is_group(key: str) -> bool:
    return key == "hydra" or key.startswith("hydra/") or (resources.files("quicksilver.conf") / key).is_dir()


def _names_options(value: object) -> bool:
    """Whether Hydra accepts the value for a group; a dict is merged with the group's node."""
    return isinstance(value, (str, dict, QuotedString)) or (
        isinstance(value, list) and all(isinstance(name, (str, QuotedString)) for name in value))


def main() -> None:
    interrupt_once()
    # Without this Hydra prints its errors over several lines and exits with 1; with it they are raised.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # an answer may hold what the terminal cannot encode
    try:
        with _errors_in_one_line():
            if (said := _said_of_itself(sys.argv[1:])) is not None:
                print(said)
                return
            check_names(sys.argv[1:])
            sys.argv[1:] = map(_for_hydra, sys.argv[1:])
            _run()
    except PointsFailed as error:
        progress.console.print(f"error: {error}", markup=False)
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(1)  # the reader closed the pipe
    except KeyboardInterrupt:
        progress.console.print(INTERRUPTED, markup=False)
        sys.stdout.flush()
        os._exit(130)  # everything is written; unloading torch is slow, and a kill may follow soon
    except Exception as error:
        hydras_own = [argument for argument in sys.argv[1:] if argument.lstrip("+~").startswith("hydra")]
        if not hydras_own or _is_of_a_job(error):
            raise
        progress.console.print(f"error: {' '.join(hydras_own)}: {type(error).__name__} {_one_line(error)}".rstrip(),
                               markup=False)
        sys.exit(2)
    finally:
        _let_go_of_stdout()


def _let_go_of_stdout() -> None:
    """Flush stdout while a BrokenPipeError can still be caught."""
    try:
        print(end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_of_a_job(error: BaseException) -> bool:
    """Whether an error was raised in a job (in this process or in a launcher's), not in Hydra before it."""
    job = inspect.unwrap(_run).__code__
    return error.__cause__ is not None or any(frame.f_code is job for frame, _ in walk_tb(error.__traceback__))


if __name__ == "__main__":
    main()
