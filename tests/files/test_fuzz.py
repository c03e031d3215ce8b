"""A few hundredths of the long run: `python -m tests.files.fuzz` makes two thousand files for each reader."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.files.mutations import STRUCTURAL, mutate
from tests.pdebench_files import write


@pytest.mark.parametrize("count", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_damaged_files_neither_crash_nor_hang_nor_read_outside(repository: Path, count: int) -> None:
    words = ["--count", str(count), "--seed", "1", "--spawn", str(0 if count < 10 else 10)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.files.fuzz", *words], cwd=repository, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{count} files, seed 1" in done.stdout
    assert "17 readers, 0 faults" in done.stdout


def test_nothing_reads_a_bad_chunk_while_files_are_damaged(tmp_path: Path) -> None:
    """HDF5 writes past its buffers at chunks that are shorter than they should be: no later change may read one."""
    seed, structural, seen = write(tmp_path / "seed.h5", "burgers"), {change.__name__ for change in STRUCTURAL}, 0
    for number in range(60):
        done = mutate(np.random.default_rng(number), seed, tmp_path / "file.h5", tmp_path / "secret.h5")
        changes = [name for name in done if name in structural]
        seen += "with_garbage_chunks" in changes
        assert "with_garbage_chunks" not in changes[:-1]
    assert seen > 1
