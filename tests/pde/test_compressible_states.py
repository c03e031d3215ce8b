"""Initial states of compressible flow against the stated distributions and PDEBench's files."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ups_server.pde.families.compressible_ns import CompressibleNs1D, CompressibleNs2D
from ups_server.pde.gas import GAMMA

LINE, SQUARE = CompressibleNs1D(), CompressibleNs2D()


def test_sampled_states_have_the_mach_number_asked_for() -> None:
    grid = SQUARE.default_grid()
    mach = np.linspace(0.1, 1.0, 8)
    states = SQUARE.fit_initial(SQUARE.sample_initial(np.random.default_rng(0), 8, grid), {"M": mach})
    whole = np.abs(states[:, 0, 0, 0]) > 1e-6
    assert 1 < whole.sum() < 8
    states, mach = states[whole], mach[whole]
    speed = np.hypot(states[..., 0], states[..., 1]).mean(axis=(1, 2))
    sound = np.sqrt(GAMMA * states[..., 3].mean(axis=(1, 2)) / states[..., 2].mean(axis=(1, 2)))
    np.testing.assert_allclose(speed / sound, mach, rtol=1e-10)
    assert (states[..., 2:] > 0.0).all()


@pytest.mark.parametrize("family", [LINE, SQUARE])
def test_samples_are_the_same_functions_on_every_grid(family: CompressibleNs1D | CompressibleNs2D) -> None:
    fine = family.default_grid()
    states = family.sample_initial(np.random.default_rng(4), 2, fine)
    every = (slice(None), *(slice(None, None, 8),) * family.ndim)
    np.testing.assert_allclose(
        family.sample_initial(np.random.default_rng(4), 2, fine.subsample(8)), states[every], atol=1e-10
    )
    np.testing.assert_array_equal(family.sample_initial(np.random.default_rng(4), 1, fine), states[:1])
    assert (states[..., family.ndim :] > 0.0).all()


def test_states_of_the_line_have_the_stated_extremes() -> None:
    """Density and pressure are m s + b with s in [0, 1] and m, b independent and log-uniform."""
    states = LINE.sample_initial(np.random.default_rng(5), 800, LINE.default_grid())
    for values, low, high in ((states[..., 1], 1.0, 10.0), (states[..., 2], 10.0, 100.0)):
        base, span = values.min(axis=1), np.ptp(values, axis=1)
        for drawn in (base, span):
            assert stats.kstest(np.log(drawn), stats.uniform(np.log(low), np.log(high / low)).cdf).pvalue > 0.01
        assert abs(np.corrcoef(np.log(base), np.log(span))[0, 1]) < 0.1
    at_rest = (states[:, :, 0] == 0.0).mean(axis=1)
    assert (at_rest > 0.5).mean() == pytest.approx(0.5, abs=0.05)


def test_states_of_the_square_have_the_stated_base_contrast_and_speed() -> None:
    grid = SQUARE.default_grid()
    states = SQUARE.sample_initial(np.random.default_rng(6), 300, grid)
    # No window reaches the corner: there the gas of windowed states is at rest.
    windowed = np.abs(states[:, 0, 0, 0]) < 1e-6
    assert windowed.mean() == pytest.approx(0.5, abs=0.08)
    density, pressure = states[..., 2], states[..., 3]
    base = np.where(windowed, density[:, 0, 0], density.mean(axis=(1, 2)))
    temperature = np.where(windowed, pressure[:, 0, 0], pressure.mean(axis=(1, 2))) / base
    for drawn in (base, temperature):
        assert stats.kstest(drawn, stats.uniform(0.1, 9.9).cdf).pvalue > 0.01
    for values in (density / base[:, None, None], pressure / (base * temperature)[:, None, None]):
        contrast = np.abs(values[~windowed] - 1.0).mean(axis=(1, 2))
        assert stats.kstest(contrast, stats.uniform(0.01, 0.19).cdf).pvalue > 0.01
    mach = np.hypot(states[..., 0], states[..., 1]).mean(axis=(1, 2)) / np.sqrt(GAMMA * temperature)
    np.testing.assert_allclose(mach[~windowed], 0.1, rtol=1e-10)
    # A window shows about a fifth of the square.
    assert mach[windowed].mean() == pytest.approx(0.1 * 0.45**2, rel=0.1)
    shown = np.abs(density / base[:, None, None] - 1.0)[windowed] > 1e-6
    for axis, reach in ((2, 0.175), (1, 0.35)):
        first = grid.axes[0][shown.any(axis=axis).argmax(axis=1)]
        assert (first > 0.1 - 0.08).all()
        assert stats.kstest(first, stats.uniform(first.min(), reach).cdf).pvalue > 0.01


def test_waves_of_the_square_fall_like_the_root_of_their_length() -> None:
    """Amplitudes of sin(k x + a) and sin(-k x + b) add up to |k|^(-1/2) sqrt(2 (1 - cos(a + b)))."""
    grid = SQUARE.default_grid(32)
    states = SQUARE.sample_initial(np.random.default_rng(7), 300, grid)
    plain = states[np.abs(states[:, 0, 0, 0]) > 1e-6]
    power = np.abs(np.fft.fft2(plain[..., 2], axes=(1, 2))) ** 2
    i, j = np.meshgrid(np.fft.fftfreq(32, 1 / 32), np.fft.fftfreq(32, 1 / 32), indexing="ij")
    inside = (np.abs(i) <= 4) & (np.abs(j) <= 4) & (i * j != 0)
    assert inside.sum() == 64
    outside = ~inside & ((i != 0) | (j != 0))
    assert power[:, outside].max() < 1e-20 * power.max()
    share = (power[:, inside] / power[:, inside].sum(axis=1, keepdims=True)).mean(axis=0)
    expected = 1.0 / np.hypot(i, j)[inside]
    np.testing.assert_allclose(share, expected / expected.sum(), rtol=0.35)


def test_the_files_of_the_line_begin_with_such_states(pdebench: Path) -> None:
    import h5py

    with h5py.File(pdebench / "1D_CFD_Rand_Eta0.1_Zeta0.1_periodic_Train.hdf5", "r") as file:
        for name, low, high in (("density", 1.0, 10.0), ("pressure", 10.0, 100.0)):
            values = file[name][:, 0].astype(np.float64)
            for drawn in (values.min(axis=1), np.ptp(values, axis=1)):
                assert ((drawn >= low) & (drawn <= high)).all()


def test_the_files_of_the_square_begin_with_such_waves(pdebench: Path) -> None:
    """No wave is longer than both of its phases allow, base and contrast are within their ranges, M sets the speed."""
    import h5py

    with h5py.File(pdebench / "2D_CFD_Rand_M0.1_Eta0.1_Zeta0.1_periodic_128_Train.hdf5", "r") as file:
        vx, vy, density, pressure = (file[field.name][0, 0].astype(np.float64) for field in SQUARE.fields)
    base, temperature = density.mean(), pressure.mean() / density.mean()
    assert 0.1 < base < 10.0
    assert 0.1 < temperature < 10.0
    for values in (density, pressure):
        assert 0.01 < np.abs(values / values.mean() - 1.0).mean() < 0.2
    assert np.hypot(vx, vy).mean() == pytest.approx(0.1 * np.sqrt(GAMMA * temperature), rel=1e-6)
    scaled = [np.abs(np.fft.fft2(v)[1:5, 1:5]) * np.hypot(*np.mgrid[1:5, 1:5]) ** 0.5 for v in (vx, vy)]
    largest = np.sort(np.concatenate(scaled).ravel())
    # Of 32 random pairs of phases the longest few come within a percent of twice the amplitude.
    assert largest[-1] == pytest.approx(largest[-4], rel=0.02)
