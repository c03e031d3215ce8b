"""Scores by hand, their invariances, Parseval's identity, and what degenerate targets do to them."""

import numpy as np
import pytest

from ups_server.pde import metrics
from ups_server.pde.grid import Array
from ups_server.pde.metrics import ErrorMoments, error_moments

SHAPES = [(3, 4, 32, 1), (2, 3, 24, 20, 2), (2, 2, 8, 6, 10, 3)]


def pair(shape: tuple[int, ...], seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    target = rng.normal(size=shape) + 0.5
    return target + 0.1 * rng.normal(size=shape), target


def norm(values: Array, axes: tuple[int, ...]) -> Array:
    root: Array = np.sqrt((values**2).sum(axis=axes))
    return root


def moments(shape: tuple[int, ...] = SHAPES[1]) -> ErrorMoments:
    return error_moments(*pair(shape))


def in_space(values: list[float]) -> Array:
    """One trajectory, one step, one field."""
    return np.array(values)[None, None, :, None]


def test_by_hand() -> None:
    m = error_moments(in_space([1.0, 2.0, 3.0, 8.0]), in_space([1.0, 2.0, 2.0, 4.0]))
    # e = (0, 0, 1, 4); target² sums to 25; its mean is 2.25 and its variance 25/4 - 2.25².
    assert metrics.rmse(m).item() == pytest.approx(np.sqrt(17 / 4))
    assert metrics.nrmse(m).item() == pytest.approx(np.sqrt(17 / 25))
    assert metrics.nrmse_per_field(m).item() == pytest.approx(np.sqrt(17 / 25))
    assert metrics.nrmse_trajectory(m).item() == pytest.approx(np.sqrt(17 / 25))
    assert metrics.vrmse(m).item() == pytest.approx(np.sqrt(17 / 4 / (25 / 4 - 2.25**2)))
    assert metrics.max_error(m).item() == 4
    assert metrics.conservation_rmse(m).item() == pytest.approx(5 / 4)
    assert metrics.boundary_rmse(m).item() == pytest.approx(np.sqrt((0 + 16) / 2))


def test_lumped_norm_adds_the_fields_and_the_field_norms_do_not() -> None:
    target = np.ones((1, 1, 10, 2)) * [3.0, 40.0]
    prediction = target + np.array([0.3, 0.0])
    m = error_moments(prediction, target)
    assert metrics.nrmse(m).item() == pytest.approx(0.3 / np.hypot(3, 40))
    np.testing.assert_allclose(metrics.nrmse_per_field(m), [[[0.1, 0.0]]])


def test_trajectory_norm_does_not_blow_up_where_the_target_decays() -> None:
    target = np.ones((1, 3, 8, 1)) * np.array([1.0, 1e-2, 1e-4])[:, None, None]
    m = error_moments(target + 0.01, target)
    np.testing.assert_allclose(metrics.nrmse(m)[0], [0.01, 1.0, 100.0])
    scale = np.sqrt((1 + 1e-4 + 1e-8) / 3)
    np.testing.assert_allclose(metrics.nrmse_trajectory(m), 0.01 / scale)
    np.testing.assert_allclose(metrics.nrmse_step_trajectory(m), np.full((1, 3), 0.01 / scale))
    np.testing.assert_allclose(metrics.nrmse_step_trajectory_per_field(m), np.full((1, 3, 1), 0.01 / scale))


def test_conservation_averages_over_trajectories_under_the_root() -> None:
    target = np.zeros((2, 1, 5, 1))
    prediction = target + np.array([3.0, -4.0])[:, None, None, None]
    m = error_moments(prediction, target)
    assert metrics.conservation_rmse(m).item() == pytest.approx(np.sqrt((9 + 16) / 2))


@pytest.mark.parametrize("shape", SHAPES)
def test_scores_agree_with_their_definitions(shape: tuple[int, ...]) -> None:
    prediction, target = pair(shape)
    m = error_moments(prediction, target)
    space = tuple(range(2, len(shape) - 1))
    error = prediction - target
    np.testing.assert_allclose(metrics.nrmse(m), norm(error, (*space, -1)) / norm(target, (*space, -1)))
    np.testing.assert_allclose(metrics.nrmse_per_field(m), norm(error, space) / norm(target, space))
    whole = (1, *space)
    np.testing.assert_allclose(metrics.nrmse_trajectory_per_field(m), norm(error, whole) / norm(target, whole))
    np.testing.assert_allclose(metrics.nrmse_trajectory(m), norm(error, (*whole, -1)) / norm(target, (*whole, -1)))
    points = int(np.prod(shape[2:-1]))
    sums = prediction.sum(axis=space) - target.sum(axis=space)
    np.testing.assert_allclose(metrics.conservation_rmse(m), np.sqrt((sums**2).mean(axis=0)) / points)
    np.testing.assert_allclose(metrics.max_error(m), np.abs(error).max(axis=(0, *space)))


@pytest.mark.parametrize("shape", SHAPES)
def test_perfect_prediction_scores_zero(shape: tuple[int, ...]) -> None:
    _, target = pair(shape)
    m = error_moments(target, target)
    scores = [metrics.nrmse(m), metrics.vrmse(m), metrics.rmse(m), metrics.max_error(m), metrics.conservation_rmse(m)]
    bands = metrics.fourier_rmse(m)
    scores += [metrics.boundary_rmse(m), bands[np.isfinite(bands)], metrics.skill(m, moments(shape))]
    assert all((score == 0).all() for score in scores)


@pytest.mark.parametrize("shape", SHAPES)
def test_predicting_the_spatial_mean_has_vrmse_one(shape: tuple[int, ...]) -> None:
    _, target = pair(shape)
    space = tuple(range(2, len(shape) - 1))
    m = error_moments(np.broadcast_to(target.mean(axis=space, keepdims=True), shape), target)
    np.testing.assert_allclose(metrics.vrmse(m), 1.0)


def test_relative_scores_do_not_depend_on_units() -> None:
    prediction, target = pair(SHAPES[1])
    one, other = error_moments(prediction, target), error_moments(1e-5 * prediction, 1e-5 * target)
    for score in (metrics.nrmse, metrics.nrmse_per_field, metrics.nrmse_trajectory, metrics.vrmse):
        np.testing.assert_allclose(score(one), score(other))
    np.testing.assert_allclose(metrics.rmse(other), 1e-5 * metrics.rmse(one))


def test_scores_do_not_depend_on_where_a_periodic_field_begins() -> None:
    prediction, target = pair(SHAPES[1])
    one = error_moments(prediction, target)
    rolled = error_moments(np.roll(prediction, (5, 3), (2, 3)), np.roll(target, (5, 3), (2, 3)))
    for score in (metrics.nrmse, metrics.vrmse, metrics.max_error, metrics.conservation_rmse, metrics.fourier_rmse):
        np.testing.assert_allclose(score(one), score(rolled), rtol=1e-9)


@pytest.mark.parametrize(("k", "band"), [(0, 0), (3, 0), (4, 1), (11, 1), (12, 2), (32, 2)])
def test_a_wave_is_seen_in_its_own_band_only(k: int, band: int) -> None:
    n = 64
    error = in_space((0.2 * np.cos(2 * np.pi * k * np.arange(n) / n)).tolist())
    found = metrics.fourier_rmse(error_moments(error, np.zeros_like(error)))[0, 0, 0]
    amplitude = 0.2 if k in (0, n // 2) else 0.1
    size = {0: 4, 1: 8, 2: n // 2 - 11}[band]
    expected = np.zeros(3)
    expected[band] = amplitude / np.sqrt(size)
    np.testing.assert_allclose(found, expected, atol=1e-14)


@pytest.mark.parametrize("direction", [(1, 0), (0, 1)])
def test_plane_waves_score_the_same_in_two_dimensions_as_in_one(direction: tuple[int, int]) -> None:
    n, k = 32, 5
    phase = 2 * np.pi * k * np.arange(n) / n
    line = np.cos(phase)[None, None, :, None]
    plane = np.cos(direction[0] * phase[:, None] + direction[1] * phase[None, :])[None, None, :, :, None]
    one, two = (metrics.fourier_rmse(error_moments(wave, np.zeros_like(wave)))[0, 0, 0] for wave in (line, plane))
    np.testing.assert_allclose(two[1], one[1])


@pytest.mark.parametrize("shape", SHAPES)
def test_parseval(shape: tuple[int, ...]) -> None:
    """Counting each conjugate pair once, the shells hold the mean square up to the modes that are their own pair."""
    prediction, target = pair(shape)
    n = shape[2:-1]
    shells, weights = metrics._shells(n)
    space = tuple(range(2, len(shape) - 1))
    energy = np.abs(np.fft.fftn(prediction - target, axes=space, norm="forward")) ** 2
    flat = np.moveaxis(energy, -1, 2).reshape(*shape[:2], shape[-1], -1)
    own = weights == 1.0
    total = 2 * flat @ weights - flat[..., own].sum(axis=-1)
    m = error_moments(prediction, target)
    np.testing.assert_allclose(total, m.squared_error)
    bands = metrics.fourier_rmse(m) ** 2
    sizes = [np.unique(shells[(shells >= low) & (shells <= (high or shells.max()))]).size for low, high in BANDS]
    np.testing.assert_allclose(np.nansum(bands * sizes, axis=-1), flat @ weights)


BANDS = list(metrics.BANDS.values())


def test_a_band_the_grid_cannot_hold_is_nan() -> None:
    m = error_moments(*pair((2, 3, 16, 1)))
    assert np.isnan(metrics.fourier_rmse(m)[..., 2]).all()
    assert np.isfinite(metrics.fourier_rmse(m)[..., :2]).all()


def test_boundary_cells_in_two_dimensions() -> None:
    target = np.zeros((1, 1, 4, 5, 1))
    edge = target.copy()
    edge[0, 0, 0, 2], edge[0, 0, 2, 2] = 2.0, 7.0
    assert metrics.boundary_rmse(error_moments(edge, target)).item() == pytest.approx(np.sqrt(4 / 14))


def test_skill_is_per_trajectory_and_field_over_all_steps() -> None:
    target = np.zeros((2, 3, 4, 2))
    ours = error_moments(target + np.array([0.1, 0.5]), target)
    theirs = error_moments(target + np.array([[[[1.0, 2.0]]], [[[2.0, 1.0]]]]), target)
    np.testing.assert_allclose(metrics.skill(ours, theirs), [[0.1, 0.25], [0.05, 0.5]])


def test_skill_against_itself_is_exactly_one() -> None:
    m = moments()
    assert (metrics.skill(m, m) == 1).all()


def test_a_field_that_stands_still_has_no_skill() -> None:
    target = np.ones((1, 3, 4, 1))
    perfect, wrong = error_moments(target, target), error_moments(target + 1, target)
    assert np.isnan(metrics.skill(wrong, perfect)).all()


def test_zero_targets_leave_the_error_absolute() -> None:
    target = np.zeros((1, 2, 4, 1))
    m = error_moments(target + 0.25, target)
    for score in (metrics.nrmse, metrics.nrmse_per_field, metrics.nrmse_trajectory, metrics.vrmse):
        np.testing.assert_allclose(score(m), 0.25)


def test_one_vanished_step_is_measured_against_the_floor() -> None:
    target = np.ones((1, 2, 4, 1))
    target[:, 1] = 0
    m = error_moments(target + 1e-9, target)
    scale = np.sqrt(0.5)
    np.testing.assert_allclose(metrics.nrmse(m)[0, 1], 1e-9 / (metrics.FLOOR * scale), rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_divergence_gives_non_finite_scores_and_no_exception(bad: float) -> None:
    prediction, target = pair((2, 3, 16, 2))
    prediction[1, 2, 5, 0] = bad
    m = error_moments(prediction, target)
    assert not m.finite
    assert np.isfinite(metrics.nrmse(m)[0]).all()
    assert not np.isfinite(metrics.nrmse(m)[1, 2])
    assert metrics.skill(m, moments((2, 3, 16, 2)))[1, 0] == np.inf
    assert np.isfinite(metrics.skill(m, moments((2, 3, 16, 2)))[1, 1])


def test_batches_concatenate_to_the_whole() -> None:
    prediction, target = pair((5, 3, 12, 2))
    whole = error_moments(prediction, target)
    parts = [error_moments(prediction[rows], target[rows]) for rows in (slice(0, 2), slice(2, 5))]
    joined = metrics.concatenate(parts)
    np.testing.assert_array_equal(joined.squared_error, whole.squared_error)
    np.testing.assert_array_equal(metrics.conservation_rmse(joined), metrics.conservation_rmse(whole))
    np.testing.assert_array_equal(joined.band_squared_error, whole.band_squared_error)


def test_float32_input_is_reduced_in_float64() -> None:
    target = np.full((1, 1, 1000, 1), 1e4, dtype=np.float32)
    prediction = np.nextafter(target, np.float32(2e4))
    m = error_moments(prediction, target)
    assert m.squared_error.dtype == np.float64
    assert metrics.rmse(m).item() == pytest.approx(float(prediction[0, 0, 0, 0]) - 1e4, rel=1e-12)


@pytest.mark.parametrize("shape", [(3, 4, 1), (2, 3, 4, 5)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="are not both"):
        error_moments(np.zeros(shape), np.zeros((2, 3, 4, 6)))
