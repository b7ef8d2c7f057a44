"""Locks keep other processes out and are gone when their holder dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from quicksilver.experiments.locks import exclusive

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
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
"""


def test_a_second_process_waits_and_a_killed_holder_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "a"
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    waiter = subprocess.Popen([sys.executable, "-c", _WAITER, str(path)], stdout=subprocess.PIPE, text=True)
    time.sleep(1.0)
    assert waiter.poll() is None
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    assert waiter.communicate(timeout=30)[0] == "held\n"
    with exclusive(path):
        pass
