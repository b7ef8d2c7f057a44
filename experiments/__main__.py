"""Run an experiment: python -m quicksilver.experiments [experiment=...] [task=...] [key=value ...]

The only file that knows Hydra: it composes the configuration, builds the experiment, and runs its missing points.
`-m` with a Hydra launcher fans a sweep out over processes. Bad input ends with one line and exit code 2, a failed point
or a full disk with exit code 1.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from .progress import console


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    try:
        yield
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        console.print(f"error: {_one_line(error)}", markup=False)
        sys.exit(2)
    except OSError as error:
        console.print(f"error: {error}; what was recorded before is intact", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("interrupted: the same command goes on from here", markup=False)
        sys.exit(130)


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
    # Caught here as well as outside: Hydra prints a line of its own about an exception that leaves the job.
    with _errors_in_one_line():
        experiment = instantiate(config.experiment, _convert_="all")
        num_failed = experiment.run(Path(config.output))
    if num_failed:
        sys.exit(1)


def main() -> None:
    # Hydra prints its own errors over several lines and exits with 1 unless it is told to let them through.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    with _errors_in_one_line():
        _run()


if __name__ == "__main__":
    main()
