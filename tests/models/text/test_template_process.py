"""A template takes no more than it may, and whoever comes after it is served."""

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from quicksilver.models.text import template_process
from quicksilver.models.text.template_process import BOUNDS, Bounds, TemplateRefused, rendered

SMALL = Bounds(characters=1000, memory_bytes=1 << 28, seconds=1)
DOUBLED = "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x SIGN n.x %}{% endfor %}{{ n.x }}"
NESTED = "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}"
LOOPS = f"{'{% for a in range(9999) %}' * 3}WRITTEN{'{% endfor %}' * 3}"


def served() -> bool:
    return rendered("{{ a }}", {"a": 3}) == "3"


@pytest.mark.parametrize("source", [
    "{{ 'a' * 10**10 }}", "{{ ['a'] * 10**10 }}", "{{ 'a'.ljust(10**10) }}", "{{ 'a' | center(10**10) }}",
    "{{ '%10000000000d' % 1 }}", "{{ '{:10000000000d}'.format(1) }}", "{{ [1] | tojson(indent=10**10) }}",
    "{{ (1,) * 10**10 }}", "{{ '\t'.expandtabs(10**9) }}", DOUBLED.replace("SIGN", "+"), DOUBLED.replace("SIGN", "~"),
    NESTED,
], ids=str)
def test_memory_is_bounded(source: str) -> None:
    with pytest.raises(TemplateRefused, match="takes more than (256 MiB of memory|1 s of a processor)"):
        rendered(source, {}, SMALL)
    assert served()


@pytest.mark.parametrize("source", [LOOPS.replace("WRITTEN", ""), "{{ 9**(9**9) }}"], ids=["loops", "power"])
def test_time_is_bounded(source: str) -> None:
    with pytest.raises(TemplateRefused, match="takes more than 1 s of a processor"):
        rendered(source, {}, SMALL)
    assert served()


def test_the_text_is_bounded() -> None:
    with pytest.raises(TemplateRefused, match="writes more than 1,000 characters"):
        rendered(LOOPS.replace("WRITTEN", "x"), {}, SMALL)
    assert rendered("{{ 'x' * 1000 }}", {}, SMALL) == "x" * 1000


def test_many_requests_of_one_process_have_each_the_whole_time() -> None:
    counts = "{% for a in range(99999) %}{% endfor %}"
    pids = {rendered(counts * 5 + "{{ 1 }}", {}, replace(BOUNDS, seconds=1)) and process_id() for _ in range(20)}
    assert len(pids) == 1


def process_id() -> int:
    process = template_process._PROCESS._process
    assert process is not None
    return process.pid


def test_a_process_that_was_ended_is_replaced() -> None:
    served()
    before = process_id()
    os.kill(before, signal.SIGKILL)
    with pytest.raises(TemplateRefused, match="its process ended with status -9"):
        served()
    assert served()
    assert process_id() != before


def test_whoever_is_interrupted_does_not_leave_an_answer_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(process: object, request: bytes) -> bytes:
        raise KeyboardInterrupt

    served()
    with monkeypatch.context() as patch:
        patch.setattr(template_process, "_exchanged", interrupted)
        with pytest.raises(KeyboardInterrupt):
            served()
    assert served()


def test_threads_get_each_its_own_text() -> None:
    found: dict[int, str] = {}
    threads = [threading.Thread(target=lambda place=place: found.update({place: rendered("{{ a }}", {"a": place})}))
               for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {place: str(place) for place in range(8)}


def test_a_process_that_is_forked_has_its_own() -> None:
    served()
    own, (reading, writing) = process_id(), os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, str(process_id() if served() else own).encode())
        template_process._PROCESS.end()
        os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(reading, 20)) != own
    assert served()
    assert process_id() == own


def test_half_a_surrogate_pair_and_every_script_pass() -> None:
    text = "\ud800 \U0001d54f \u00e9\n\r\0"
    assert rendered("{{ a }}|{{ a }}", {"a": text}) == f"{text}|{text}"


def test_modules_beside_the_process_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jinja2.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    template_process._PROCESS.end()
    assert served()
