"""An emulator of NVIDIA GPUs for what Triton compiles (PTX for sm_80 and sm_90), in numpy."""

from .ptx import Fault
from .scheduler import execute

__all__ = ["Fault", "execute"]
