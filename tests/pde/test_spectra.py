"""Power spectra against plane waves, Parseval's identity and symmetries."""

import numpy as np
import pytest

from ups_server.pde import BoundaryCondition, BoundaryKind
from ups_server.pde.metrics import power_spectrum

PERIODIC, WALL = BoundaryKind.PERIODIC, BoundaryKind.NO_FLUX
SIDES = [(PERIODIC,), (WALL,), (PERIODIC, PERIODIC), (WALL, PERIODIC), (WALL, WALL), (PERIODIC, WALL, PERIODIC)]


def box(*kinds: BoundaryKind) -> BoundaryCondition:
    return BoundaryCondition(tuple((kind, kind) for kind in kinds))


@pytest.mark.parametrize("kinds", SIDES)
def test_parseval(kinds: tuple[BoundaryKind, ...]) -> None:
    values = np.random.default_rng(0).normal(size=(2, 3, *(12, 9, 8)[: len(kinds)], 2)) + 0.5
    spectrum = power_spectrum(values, box(*kinds))
    assert spectrum.shape[:2] == (2, 3)
    space = tuple(range(2, values.ndim - 1))
    np.testing.assert_allclose(spectrum.sum(axis=2), (values**2).mean(axis=space))
    if WALL not in kinds:
        np.testing.assert_allclose(spectrum[:, :, 1:].sum(axis=2), values.var(axis=space))


@pytest.mark.parametrize("k", [0, 1, 5, 15])
def test_a_sine_has_half_its_squared_amplitude_at_its_wave_number(k: int) -> None:
    n, amplitude = 64, 0.3
    x = (np.arange(n) + 0.5) / n
    wave = amplitude * np.cos(2 * np.pi * k * x)
    spectrum = power_spectrum(wave[None, None, :, None], box(PERIODIC))[0, 0, :, 0]
    expected = np.zeros(n // 2 + 1)
    expected[k] = amplitude**2 * (0.5 if k else 1.0)
    np.testing.assert_allclose(spectrum, expected, atol=1e-15)


@pytest.mark.parametrize(("half_waves", "shell"), [(2, 1), (3, 1), (8, 4)])
def test_a_cosine_between_walls_is_one_mode(half_waves: int, shell: int) -> None:
    n = 32
    x = (np.arange(n) + 0.5) / n
    wave = np.cos(np.pi * half_waves * x)
    spectrum = power_spectrum(wave[None, None, :, None], box(WALL))[0, 0, :, 0]
    expected = np.zeros(len(spectrum))
    expected[shell] = 0.5
    np.testing.assert_allclose(spectrum, expected, atol=1e-15)


def test_a_ramp_between_walls_falls_faster_than_with_a_jump() -> None:
    """A jump falls like k^-2, a kink like k^-4."""
    n = 256
    ramp = ((np.arange(n) + 0.5) / n)[None, None, :, None]
    kink, jump = (power_spectrum(ramp, box(kind))[0, 0, :, 0] for kind in (WALL, PERIODIC))
    # Half a wave and its odd multiples.
    assert kink[8] / kink[4] == pytest.approx((4.5 / 8.5) ** 4, rel=0.02)
    assert jump[8] / jump[4] == pytest.approx(2.0**-2, rel=0.02)


def test_plane_waves_are_gathered_by_the_length_of_their_wave_vector() -> None:
    n = 32
    x, y = np.meshgrid(*((np.arange(n) / n,) * 2), indexing="ij")
    wave = np.sin(2 * np.pi * (3 * x + 4 * y))
    spectrum = power_spectrum(wave[None, None, ..., None], box(PERIODIC, PERIODIC))[0, 0, :, 0]
    assert spectrum[5] == pytest.approx(0.5)
    assert spectrum.sum() == pytest.approx(0.5)


def test_turning_shifting_and_mirroring_change_nothing() -> None:
    values = np.random.default_rng(1).normal(size=(1, 2, 16, 16, 1))
    boundary = box(PERIODIC, PERIODIC)
    spectrum = power_spectrum(values, boundary)
    for moved in (values.swapaxes(2, 3), np.roll(values, (3, 5), (2, 3)), np.flip(values, 2)):
        np.testing.assert_allclose(power_spectrum(moved, boundary), spectrum, atol=1e-14)
