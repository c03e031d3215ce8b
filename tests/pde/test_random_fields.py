"""Gaussian random fields against their spectrum."""

import numpy as np

from ups_server.pde.grid import Array
from ups_server.pde.random_fields import bell, draw_waves, falling, sum_waves


def points(n: int) -> Array:
    return np.arange(n) / n


def test_fields_have_zero_mean_and_unit_mean_square() -> None:
    waves = draw_waves(np.random.default_rng(0), 2, falling(31, 0.4, 1.0))
    fields = sum_waves(waves, points(64), points(64))
    np.testing.assert_allclose(fields.mean(axis=(1, 2)), 0.0, atol=1e-14)
    assert np.isclose((fields**2).mean(), 1.0)
    assert abs((fields[0] ** 2).mean() - 1.0) > 1e-3  # of the two together, not of each


def test_fields_are_the_same_function_on_every_grid() -> None:
    waves = draw_waves(np.random.default_rng(1), 1, falling(31, 0.4, 1.0))
    fine, coarse = (sum_waves(waves, points(n), points(2 * n)) for n in (64, 16))
    np.testing.assert_allclose(fine[:, ::4, ::4], coarse, atol=1e-13)


def test_the_spectrum_is_a_power_with_a_lower_end() -> None:
    mode = np.arange(-31, 32)
    square = mode[:, None] ** 2 + mode**2
    rng = np.random.default_rng(2)
    for scale, smoothness, lowest in ((0.4, 1.0, 1), (0.15, 3.0, 5)):
        power = np.mean(
            [np.abs(draw_waves(rng, 1, falling(31, scale, smoothness))[0]) ** 2 for _ in range(400)], axis=0
        )
        assert (power[square < lowest] == 0.0).all()
        levelled = power * np.maximum(square, 1.0) ** (2.0 * smoothness)
        means = [levelled[(square >= low) & (square < high)].mean() for low, high in ((9, 40), (40, 200), (200, 900))]
        np.testing.assert_allclose(means, means[0], rtol=0.1)


def test_a_bell_of_weights_is_a_bell_of_correlation() -> None:
    rng, length, x = np.random.default_rng(3), 0.1, points(32)
    weight = bell(12, length)
    square = np.mean([np.abs(draw_waves(rng, 1, weight)[0]) ** 2 for _ in range(2000)], axis=0)
    correlation = sum_waves((square / square.sum() + 0j)[None], x[:9], x[:1])[0, :, 0]
    np.testing.assert_allclose(correlation, np.exp(-0.5 * (x[:9] / length) ** 2), atol=0.03)
