"""Worker processes of this Python with their own environment (another Triton, the interpreter, a GPU), one call at a
time. A call that kills its process, as a compiler or a GPU fault may, is an error like any other; the next call starts
a new process.

A worker runs this file: python -m quicksilver.experiments.harness.worker
"""

import os
import pickle
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from queue import SimpleQueue
from typing import IO, Any

from .interrupts import leave_interrupts_to_parent

ENOUGH_SECONDS = 60.0  # a call without an answer by then is taken to hang
LATE_SECONDS = 10.0  # by how much a call may overrun the time limit of its run


def running_environment(device: str) -> dict[str, str]:
    """The environment of a process that runs kernels: compiled on a GPU, interpreted elsewhere."""
    return {"TRITON_INTERPRET": "0" if device == "cuda" else "1", "TRITON_DEFAULT_FP_FUSION": "1"}


class CallFailed(RuntimeError):
    """A call raised an error, killed its process, or timed out; the message says which."""


class CutShort(CallFailed):
    """A call timed out with a limit below ENOUGH_SECONDS: whether it would fail is unknown."""


class Worker:
    """A process, started by the first call and restarted after it dies. Use it as a context manager."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.end()

    def ask(self, function: Callable[..., Any], *arguments: Any, seconds: float | None = None) -> Any:
        """function(*arguments) in the process. The function is at module level, arguments and result are picklable.
        CallFailed with the process's message if it raises, dies or exceeds `seconds`; CutShort if it exceeds `seconds`
        below ENOUGH_SECONDS."""
        if self._process is None:
            self._start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            pickle.dump((function, arguments), process.stdin)
            process.stdin.flush()
            if not select.select([process.stdout], [], [], seconds)[0]:
                self.end()
                assert seconds is not None
                raise (CallFailed if seconds >= ENOUGH_SECONDS else CutShort)(f"no answer within {seconds:.0f} s")
            succeeded, answer = pickle.load(process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            raise CallFailed(self._last_words()) from None
        if not succeeded:
            raise CallFailed(answer)
        return answer

    def _start(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed in `end`)
        command = [sys.executable, "-m", "quicksilver.experiments.harness.worker"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
                                         env={**os.environ, **self.environment})

    def _last_words(self) -> str:
        process, errors = self._process, self._errors
        assert process is not None
        assert errors is not None
        status = process.wait()
        errors.seek(0)
        lines = errors.read().decode(errors="replace").strip().splitlines()
        self.end()
        return f"its process ended with status {status}{': ' + lines[-1] if lines else ''}"

    def end(self) -> None:
        """Stop the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
        if self._errors is not None:
            self._errors.close()
            self._errors = None


class Pool:
    """Workers with one environment that share the calls. Use it as a context manager."""

    def __init__(self, environment: Mapping[str, str], num_processes: int) -> None:
        self._workers = [Worker(environment) for _ in range(num_processes)]

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *exc_info: object) -> None:
        for worker in self._workers:
            worker.end()

    def ask_all(self, function: Callable[..., Any], calls: Iterable[tuple[Any, ...]], seconds: float | None = None
                ) -> Iterator[tuple[int, Any]]:
        """Run the calls, each within `seconds`. Yields a call's index and its result or CallFailed, in order of
        completion."""
        idle: SimpleQueue[Worker] = SimpleQueue()
        for worker in self._workers:
            idle.put(worker)

        def answer(arguments: tuple[Any, ...]) -> Any:
            worker = idle.get()
            try:
                return worker.ask(function, *arguments, seconds=seconds)
            except CallFailed as error:
                return error
            finally:
                idle.put(worker)

        with ThreadPoolExecutor(len(self._workers)) as threads:
            futures = {threads.submit(answer, arguments): place for place, arguments in enumerate(calls)}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                self.__exit__()
                raise


def _serve() -> None:
    """Serve calls until the parent exits."""
    leave_interrupts_to_parent()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # compilers print to stdout; answers have a descriptor of their own
    while True:
        try:
            function, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = (True, function(*arguments))
        except Exception as error:  # any error becomes the answer
            answer = (False, f"{type(error).__name__}: {error}")
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    _serve()
