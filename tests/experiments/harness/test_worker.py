"""A call in a child answers, fails, dies or is late; the next call works."""

import math
import os
import signal
import time

import pytest
from quicksilver.experiments.harness import worker as kernel_worker
from quicksilver.experiments.harness.worker import CallFailed, CutShort, Pool, Worker

ENVIRONMENT = {"QUICKSILVER_TEST": "yes"}


def test_an_error_a_death_and_a_late_answer_cost_one_call_each() -> None:
    with Worker(ENVIRONMENT) as worker:
        assert worker.ask(os.getenv, "QUICKSILVER_TEST") == "yes"
        first = worker.ask(os.getpid)
        with pytest.raises(CallFailed, match="ValueError: "):
            worker.ask(math.sqrt, -1)
        worker.ask(print, "what a compiler prints does not spoil the answers")
        assert worker.ask(os.getpid) == first
        with pytest.raises(CallFailed, match="its process ended with status 3"):
            worker.ask(os._exit, 3)
        second = worker.ask(os.getpid)
        with pytest.raises(CallFailed, match="no answer within 0 s"):
            worker.ask(time.sleep, 60, seconds=0.1)
        assert len({os.getpid(), first, second, worker.ask(os.getpid)}) == 4


def test_calls_are_shared_out_and_each_answer_knows_its_place() -> None:
    with Pool(ENVIRONMENT, 2) as pool:
        answers = dict(pool.ask_all(math.sqrt, [(4,), (-1,), (9,)]))
        assert (answers[0], answers[2]) == (2.0, 3.0)
        assert isinstance(answers[1], CallFailed)
        assert dict(pool.ask_all(math.floor, [(1.5,)])) == {0: 1}


def test_an_interruption_of_the_group_is_the_parent_s_to_answer() -> None:
    with Worker(ENVIRONMENT) as worker:
        child = worker.ask(os.getpid)
        worker.ask(os.kill, child, signal.SIGINT)
        assert worker.ask(os.getpid) == child


def test_a_late_answer_is_a_failure_only_where_there_was_enough_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with Worker(ENVIRONMENT) as worker:
        with pytest.raises(CutShort):
            worker.ask(time.sleep, 60, seconds=0.1)
        monkeypatch.setattr(kernel_worker, "ENOUGH_SECONDS", 0.1)
        with pytest.raises(CallFailed) as late:
            worker.ask(time.sleep, 60, seconds=0.1)
        assert not isinstance(late.value, CutShort)


def test_one_call_of_many_that_hangs_costs_itself_alone() -> None:
    with Pool(ENVIRONMENT, 2) as pool:
        list(pool.ask_all(time.sleep, [(0.2,), (0.2,)]))  # starts the processes
        answers = dict(pool.ask_all(time.sleep, [(0,), (60,), (0,)], seconds=1))
    assert (answers[0], answers[2]) == (None, None)
    assert str(answers[1]) == "no answer within 1 s"
