"""The initial states of PDEBench's scalar 1-D families."""

from pathlib import Path

import numpy as np
import pytest

from ups_server.pde import Grid
from ups_server.pde.families.multi_sine import EDGE_WIDTH, WINDOW, sample_multi_sine
from ups_server.pde.family import Array

FINE = Grid((1024,), ((0.0, 1.0),))


def sample(seed: int, count: int, grid: Grid = FINE, unit_range: bool = False) -> Array:
    return sample_multi_sine(np.random.default_rng(seed), count, grid, unit_range=unit_range)


@pytest.mark.parametrize("unit_range", [False, True])
def test_a_seed_makes_the_same_functions_on_every_grid(unit_range: bool) -> None:
    fine = sample(5, 40, unit_range=unit_range)
    for stride, first in ((2, 0), (8, 0), (8, 3)):
        coarse = sample(5, 40, FINE.subsample(stride, first), unit_range)
        np.testing.assert_allclose(coarse, fine[:, first::stride], atol=1e-12)


def test_a_rescaled_box_holds_the_rescaled_functions() -> None:
    np.testing.assert_allclose(sample(5, 10, Grid((1024,), ((-1.0, 3.0),))), sample(5, 10), atol=1e-11)


def test_seeds_differ_and_rows_do_not_depend_on_the_count() -> None:
    assert not np.allclose(sample(1, 3), sample(2, 3))
    np.testing.assert_array_equal(sample(1, 3), sample(1, 50)[:3])


def test_unit_range_spans_it_exactly() -> None:
    states = sample(3, 60, unit_range=True)
    np.testing.assert_array_equal(states.min(axis=1), 0.0)
    np.testing.assert_array_equal(states.max(axis=1), 1.0)


def test_shares_of_the_variants() -> None:
    states = sample(0, 5000, FINE.subsample(2))
    windowed = (np.abs(states[:, 0]) < 1e-6) & (np.abs(states[:, -1]) < 1e-6)
    assert windowed.mean() == pytest.approx(0.1, abs=0.02)
    # |u| has corners where u crosses zero: jumps of the slope that no sum of eight waves has.
    plain = states[~windowed]
    bend = np.abs(np.diff(plain, n=2, axis=1)).max(axis=1)
    smooth_bend = 1.05 * (2.0 * np.pi * 8.0 / 512.0) ** 2 * 2.0
    rectified = bend > smooth_bend
    assert 0.0 < rectified.mean() < 0.1
    one_signed = (plain[rectified].min(axis=1) >= 0.0) | (plain[rectified].max(axis=1) <= 0.0)
    assert one_signed.all()
    assert (plain[rectified].mean(axis=1) > 0.0).mean() == pytest.approx(0.5, abs=0.15)


def test_waves_are_pairs_of_one_to_four_or_an_even_one() -> None:
    states, basis = sample(0, 300), _basis(FINE.axes[0])
    amplitudes = _wave_amplitudes(states, FINE.axes[0])
    present = amplitudes > 1e-6
    plain = np.abs(basis @ np.linalg.lstsq(basis, states.T, rcond=None)[0] - states.T).max(axis=0) < 1e-9
    assert plain.mean() > 0.75
    pairs = {tuple((np.flatnonzero(row) + 1).tolist()) for row in present[plain] if row.sum() == 2}
    singles = {int(np.flatnonzero(row)[0]) + 1 for row in present[plain] if row.sum() == 1}
    assert pairs == {(1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)}
    assert {2, 4, 6, 8} <= singles
    assert amplitudes[plain].max() <= 1.0 + 1e-9


def test_the_files_begin_with_such_sums(pdebench: Path) -> None:
    import h5py

    with h5py.File(pdebench / "1D_Burgers_Sols_Nu0.001.hdf5", "r") as file:
        first = file["tensor"][0, 0].astype(np.float64)[None]
    assert _wave_amplitudes(first, FINE.axes[0])[0, 3] == pytest.approx(0.05835, abs=1e-4)
    basis = _basis(FINE.axes[0])
    fit = basis @ np.linalg.lstsq(basis, first[0], rcond=None)[0]
    np.testing.assert_allclose(fit, first[0], atol=1e-6)


def test_the_files_have_windows_of_this_width(pdebench: Path) -> None:
    """The window of a compressible file's velocity: 0.45 wide, edges of 0.01 (in absolute length)."""
    import h5py

    with h5py.File(pdebench / "1D_CFD_Rand_Eta0.1_Zeta0.1_periodic_Train.hdf5", "r") as file:
        velocity = file["Vx"][1, 0].astype(np.float64)
        x = file["x-coordinate"][:].astype(np.float64)
    left = 0.1554496
    window = 0.5 * (np.tanh((x - left) / EDGE_WIDTH) - np.tanh((x - left - WINDOW) / EDGE_WIDTH))
    basis = window[:, None] * _basis(x)[:, [0, 1, 4, 9, 12]]
    fit = basis @ np.linalg.lstsq(basis, velocity, rcond=None)[0]
    np.testing.assert_allclose(fit, velocity, atol=1e-6)


def _basis(x: Array) -> Array:
    angle = 2.0 * np.pi * np.arange(1, 9) * ((x - x[0]) / (x[-1] - x[0]))[:, None]
    return np.concatenate([np.ones((len(x), 1)), np.cos(angle), np.sin(angle)], axis=1)


def _wave_amplitudes(states: Array, x: Array) -> Array:
    """Amplitudes (N, 8) of wave numbers 1 to 8 with the files' period, by least squares."""
    weights = np.linalg.lstsq(_basis(x), states.T, rcond=None)[0]
    return np.asarray(np.hypot(weights[1:9], weights[9:]).T, dtype=np.float64)
