"""What the command line inherits of its user's shell or notebook, made harmless before other modules are loaded."""

import os
import sys
import tempfile


def mended() -> dict[str, str]:
    """Changes of the environment; descriptors that the user closed are opened on the null device. The process ends with
    one line and exit code 1 where there is no folder for temporary files."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free: the next file would take its place else
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  open to the end
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        sys.exit(f"error: {error}; TMPDIR must name one")
    # Figures go to files; the backend of a notebook need not be importable here. tqdm, which draws a bar while
    # transformers reads GGUF, asks the environment once, as it is imported: by torch.
    return {"MPLBACKEND": "agg"} | ({} if sys.stderr.isatty() else {"TQDM_DISABLE": "1"})
