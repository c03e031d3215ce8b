"""A few hundredths of the long run: `python -m tests.files.fuzz` makes ten thousand files."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("more", [[], ["--mapped", "*"]], ids=["as they are", "mapped"])
@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_damaged_files_neither_crash_nor_hang_nor_read_outside(repository: Path, count: int, more: list[str]) -> None:
    words = ["--count", str(count), "--seed", "1", "--spawn", "10", *more]
    done = subprocess.run(
        [sys.executable, "-m", "tests.files.fuzz", *words], cwd=repository, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{count} files, seed 1" in done.stdout
    assert "0 faults" in done.stdout
