"""Repairs what the process inherits from a shell or notebook. Runs before other modules are loaded."""

import os
import sys
import tempfile


def mended() -> dict[str, str]:
    """Open closed standard descriptors on the null device, and return the environment variables to set. Exits with one
    line and exit code 1 if there is no folder for temporary files."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number; else the next file opened would
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  open to the end
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        sys.exit(f"error: {error}; TMPDIR must name one")
    # Figures go to files, and a notebook's backend may not be importable here. tqdm (a bar while transformers reads
    # GGUF) reads the environment once, when torch imports it.
    return {"MPLBACKEND": "agg"} | ({} if sys.stderr.isatty() else {"TQDM_DISABLE": "1"})
