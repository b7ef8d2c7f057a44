"""Locks keep other processes out and are gone when their holder dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from quicksilver.experiments.harness import locks
from quicksilver.experiments.harness.locks import exclusive

_HOLDER = """
import sys, time
from pathlib import Path
from quicksilver.experiments.locks import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""

_WAITER = """
import sys
from pathlib import Path
from quicksilver.experiments.locks import exclusive
print("waiting", flush=True)
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
"""

_SHARER = """
import sys
from pathlib import Path
from quicksilver.experiments import locks
locks._MACHINE = Path(sys.argv[1])
print("waiting", flush=True)
with locks.machine_shared():
    print("held", flush=True)
"""


def test_a_second_process_waits_and_a_killed_holder_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "a"
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    waiter = subprocess.Popen([sys.executable, "-c", _WAITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert waiter.stdout is not None
    assert waiter.stdout.readline() == "waiting\n"
    time.sleep(0.3)
    assert waiter.poll() is None
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    assert waiter.communicate(timeout=30)[0] == "held\n"
    with exclusive(path):
        pass


def test_timing_keeps_other_work_out_and_shared_work_does_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _SHARER, str(locks._MACHINE)]
    with locks.machine_shared():
        assert subprocess.run(command, capture_output=True, text=True, timeout=60).stdout == "waiting\nheld\n"
    with locks.machine_alone():
        sharer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert sharer.stdout is not None
        assert sharer.stdout.readline() == "waiting\n"
        time.sleep(0.3)
        assert sharer.poll() is None
    assert sharer.communicate(timeout=60)[0] == "held\n"
