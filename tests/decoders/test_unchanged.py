"""Every preset and every pair of parts decodes as it was recorded: tokens, trace and counts."""

import pytest

from tests.decoders.recorded_decodes import Recorded, read

LONG = 24
"""Steps from which on a decode is for CI: 33 of 319 take two fifths of the time."""


@pytest.mark.parametrize("recorded", [
    pytest.param(recorded, id=name, marks=[pytest.mark.slow] if recorded.num_steps > LONG else [])
    for name, recorded in read().items()])
def test_tokens_and_counts_are_those_recorded(recorded: Recorded) -> None:
    recorded.check(recorded.again())
