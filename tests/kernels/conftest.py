"""With STRICT_DEVICE=1 every test of the kernels runs in the rehearsal of a GPU."""

from collections.abc import Iterator

import pytest

from .. import strict_device


@pytest.fixture(autouse=strict_device.ENABLED)
def _rehearsed() -> Iterator[None]:
    with strict_device.rehearsal():
        yield
