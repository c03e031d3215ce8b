"""The initial states of PDEBench's scalar 1-D families."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ups_server.pde import Grid
from ups_server.pde.families.compressible_ns import WAVES
from ups_server.pde.grid import Array
from ups_server.pde.random_fields import EDGE_WIDTH, SCALAR, WINDOW, MultiSine

FINE = Grid((1024,), ((0.0, 1.0),))


def sample(seed: int, count: int, grid: Grid = FINE, unit_range: bool = False) -> Array:
    return SCALAR.sample(np.random.default_rng(seed), count, grid, unit_range=unit_range)


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


@pytest.mark.parametrize("sums", [SCALAR, WAVES])
def test_windows_begin_where_the_number_that_asked_for_them_says(sums: MultiSine) -> None:
    """Left edges U(0.1, 0.1 + 0.35 p) in units of x, a share p of the states, each 0.45 wide."""
    low, high = sums.window_extent
    grid = Grid((2048,), (sums.window_extent,))
    whole, cut = (
        dataclasses.replace(sums, windowed=share).sample(np.random.default_rng(8), 2000, grid)
        for share in (0.0, sums.windowed)
    )
    windowed = (whole != cut).any(axis=1)
    assert windowed.mean() == pytest.approx(sums.windowed, abs=0.02)
    shown = cut[windowed] / whole[windowed] > 0.5
    left, right = (grid.axes[0][index] for index in (shown.argmax(axis=1), 2047 - shown[:, ::-1].argmax(axis=1)))
    np.testing.assert_allclose(right - left, WINDOW, atol=3.0 * (high - low) / 2048)
    assert stats.kstest(left, stats.uniform(0.1, 0.35 * sums.windowed).cdf).pvalue > 0.01


@pytest.mark.parametrize(("sums", "singles"), [(SCALAR, {2, 4, 6, 8}), (WAVES, {2, 4, 6})])
def test_waves_are_pairs_of_the_numbers_or_an_even_one(sums: MultiSine, singles: set[int]) -> None:
    count = 1000
    plain = dataclasses.replace(sums, windowed=0.0).sample(np.random.default_rng(0), count, FINE)
    basis = _basis(FINE.axes[0])
    smooth = np.abs(basis @ np.linalg.lstsq(basis, plain.T, rcond=None)[0] - plain.T).max(axis=0) < 1e-9
    # What is rectified has corners, but where it has one sign.
    assert smooth.mean() == pytest.approx(0.9, abs=0.05)
    amplitudes = _wave_amplitudes(plain, FINE.axes[0])[smooth]
    present = amplitudes > 1e-6
    found = [tuple((np.flatnonzero(row) + 1).tolist()) for row in present]
    pairs = {pair for pair in found if len(pair) == 2}
    assert pairs == set(itertools.combinations(range(1, sums.numbers + 1), 2))
    alone = [pair[0] for pair in found if len(pair) == 1]
    assert set(alone) == singles
    # Two independent draws are the same number once in K times.
    assert len(alone) / len(found) == pytest.approx(1.0 / sums.numbers, abs=0.03)
    # Of what is rectified only states of one sign are here, whose waves are short.
    assert stats.kstest(amplitudes[present], stats.uniform().cdf).statistic < 0.06


def test_numbers_not_drawn_add_a_constant() -> None:
    """Without rectification the standard deviation of a row's mean is sqrt(4 (3/4)^2 / 6)."""
    means = dataclasses.replace(SCALAR, windowed=0.0).sample(np.random.default_rng(1), 10000, FINE.subsample(32))
    assert means.mean(axis=1).std() == pytest.approx(0.61, abs=0.02)


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
