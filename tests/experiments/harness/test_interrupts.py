"""An interruption counts once, whoever sends it how often."""

import signal
import subprocess
import sys

import pytest
from quicksilver.experiments.harness import interrupts
from quicksilver.experiments.harness.interrupts import interrupt_once, interrupts_held

TWICE = """
import os, signal, time
from quicksilver.experiments.harness.interrupts import interrupt_once, interrupts_held
interrupt_once()
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
except KeyboardInterrupt:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)
    print("written")
"""


def test_the_second_of_two_signals_does_not_break_what_the_first_began() -> None:
    finished = subprocess.run([sys.executable, "-c", TWICE], text=True, capture_output=True, check=True)
    assert finished.stdout == "written\n"


def test_a_later_interruption_counts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(interrupts, "_SAME_SECONDS", 0.0)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        interrupt_once()
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        interrupt_once()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interruption_is_held_back_until_the_block_ends() -> None:
    done, before = [], signal.signal(signal.SIGINT, signal.default_int_handler)

    def held() -> None:
        with interrupts_held():
            signal.raise_signal(signal.SIGINT)
            done.append("whole")

    try:
        with pytest.raises(KeyboardInterrupt):
            held()
        assert done == ["whole"]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
