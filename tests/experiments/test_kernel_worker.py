"""A call in a child answers, fails, dies or is late; the next call works."""

import math
import os
import time

import pytest
from quicksilver.experiments.kernel_worker import CallFailed, Pool, Worker

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
