import os
import subprocess
import sys
from pathlib import Path

import pytest

SHOW = ("import os; from quicksilver.experiments.harness.surroundings import mended; print(mended()); "
        "null = os.stat(os.devnull).st_rdev; "
        "print([os.fstat(number).st_rdev == null for number in range(3)], file=open('seen', 'w'))")


def test_closed_descriptors_lead_to_the_null_device_and_not_to_the_next_file(tmp_path: Path) -> None:
    subprocess.run(f'"{sys.executable}" -c "$SHOW" <&- >&- 2>&-', shell=True, cwd=tmp_path,
                   env=os.environ | {"SHOW": SHOW}, check=True)
    assert (tmp_path / "seen").read_text() == "[True, True, True]\n"


@pytest.mark.slow
def test_other_libraries_draw_no_bars_where_nobody_watches(tmp_path: Path) -> None:
    """The command line's modules import torch, and that tqdm."""
    code = ("import quicksilver.experiments.__main__; from tqdm.auto import tqdm; "
            "list(tqdm(range(3), desc='Converting'))")
    finished = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (finished.stdout, finished.stderr) == ("", "")
