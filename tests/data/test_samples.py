"""The sample files beside the code are readable, small and documented."""

from pathlib import Path

import numpy as np
import pytest

from ups_server.data.check import check_file
from ups_server.data.generate import generate
from ups_server.data.pdebench.card import CARDS
from ups_server.data.source import open_source
from ups_server.pde import family

NAMES = [card.family for card in CARDS]


@pytest.mark.parametrize("name", NAMES)
def test_every_family_has_a_sample(repository: Path, name: str) -> None:
    file = repository / "data" / "samples" / f"{name}.h5"
    assert file.stat().st_size <= 200_000
    report = check_file(file)
    assert report.ok
    assert not report.warnings
    assert report.family == name
    assert report.usable == 4
    assert f'"{name}"' in (repository / "data" / "README.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_samples_come_from_our_generator(repository: Path, tmp_path: Path, name: str) -> None:
    made = generate(family(name), {}, 4, 128, tmp_path / "file.h5", 0, frame_dt=family(name).dt)
    sample, again = open_source(repository / "data" / "samples" / f"{name}.h5"), open_source(made)
    assert np.allclose(sample.read(range(4)), again.read(range(4)), atol=1e-4)
    sample.close()
    again.close()
