"""The sample files beside the code are readable, small and documented."""

from pathlib import Path

import numpy as np
import pytest

from ups_server.data.check import check_file
from ups_server.data.formats import open_source
from ups_server.data.formats.pdebench.card import CARDS
from ups_server.data.simulate import generate
from ups_server.pde import families, family

NAMES = [card.family for card in CARDS if card.family in families()]
SHAPES = {1: (4, 128, None), 2: (2, 32, 4)}
"""By dimensions: trajectories, points per axis, steps (None: all of the family's)."""


@pytest.mark.parametrize("name", NAMES)
def test_every_family_has_a_sample(repository: Path, name: str) -> None:
    file = repository / "data" / "samples" / f"{name}.h5"
    assert file.stat().st_size <= 200_000
    report = check_file(file)
    assert report.ok
    assert not report.warnings
    assert report.family == name
    assert report.usable == SHAPES[family(name).ndim][0]
    assert f'"{name}"' in (repository / "data" / "README.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_samples_come_from_our_generator(repository: Path, tmp_path: Path, name: str) -> None:
    equation = family(name)
    count, points, steps = SHAPES[equation.ndim]
    span = None if steps is None else steps * equation.dt
    made = generate(equation, {}, count, points, tmp_path / "file.h5", 0, frame_dt=equation.dt, t_final=span)
    sample, again = open_source(repository / "data" / "samples" / f"{name}.h5"), open_source(made)
    rows = range(count)
    assert np.allclose(sample.read(rows), again.read(rows), rtol=1e-4, atol=1e-4)
    sample.close()
    again.close()
