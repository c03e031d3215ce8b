"""Compressible flow in boxes that waves leave, against exact solutions: Riemann problems, outgoing waves, streams."""

import numpy as np
import pytest
from scipy.optimize import brentq

from ups_server.errors import UserError
from ups_server.pde import BoundaryCondition, BoundaryKind, Grid, family
from ups_server.pde.gas import GAMMA
from ups_server.pde.grid import Array

G = GAMMA
OPEN = BoundaryCondition.uniform(BoundaryKind.OUTFLOW, 1)
OPEN_SQUARE = BoundaryCondition.uniform(BoundaryKind.OUTFLOW, 2)
CHANNEL = BoundaryCondition(((BoundaryKind.PERIODIC,) * 2, (BoundaryKind.OUTFLOW,) * 2))
LINE, SQUARE = family("compressible_ns_1d"), family("compressible_ns_2d")


def still(count: int, viscosity: float = 0.0) -> dict[str, Array]:
    return {"M": np.full(count, 0.1), "eta": np.full(count, viscosity), "zeta": np.full(count, viscosity)}


def riemann(left: Array, right: Array, xi: Array) -> Array:
    """Velocity, density, pressure (X, 3) at xi = x / t of two uniform gases side by side; each (3,)."""

    def change(p: float, side: Array) -> float:
        """Of the velocity, across the wave on that side, up to its sign."""
        _, rho, p_side = side
        if p > p_side:
            return float((p - p_side) * np.sqrt(2.0 / rho / ((G + 1.0) * p + (G - 1.0) * p_side)))
        sound = np.sqrt(G * p_side / rho)
        return float(2.0 * sound / (G - 1.0) * ((p / p_side) ** ((G - 1.0) / (2.0 * G)) - 1.0))

    p = brentq(lambda q: change(q, left) + change(q, right) + right[0] - left[0], 1e-9, 1e5)
    v = left[0] - change(p, left)

    def beside(side: Array, direction: float, xi: Array) -> Array:
        """The state between that side and the contact, at `xi` from it, in its own direction."""
        u, rho, p_side = direction * side[0], side[1], side[2]
        star, sound = direction * v, np.sqrt(G * p_side / rho)
        if p > p_side:
            ratio = (G - 1.0) / (G + 1.0)
            inner = rho * (p / p_side + ratio) / (ratio * p / p_side + 1.0)
            head = tail = u + sound * np.sqrt((G + 1.0) / (2.0 * G) * p / p_side + (G - 1.0) / (2.0 * G))
        else:
            inner = rho * (p / p_side) ** (1.0 / G)
            head, tail = u + sound, star + np.sqrt(G * p / inner)
        local = 2.0 / (G + 1.0) - (G - 1.0) / ((G + 1.0) * sound) * (u - xi)
        fan = np.stack(
            [
                2.0 / (G + 1.0) * (-sound + 0.5 * (G - 1.0) * u + xi),
                rho * np.abs(local) ** (2.0 / (G - 1.0)),
                p_side * np.abs(local) ** (2.0 * G / (G - 1.0)),
            ],
            axis=-1,
        )
        states = np.where((xi < head)[:, None], fan, [u, rho, p_side])
        states = np.where((xi < tail)[:, None], [star, inner, p], states)
        result: Array = states * [direction, 1.0, 1.0]
        return result

    result: Array = np.where((xi < v)[:, None], beside(left, -1.0, -xi), beside(right, 1.0, xi))
    return result


SOD = np.array([0.0, 1.0, 1.0]), np.array([0.0, 0.125, 0.1])


def test_the_exact_solution_is_sods() -> None:
    """Star values of Sod's tube with gamma 5/3, from its Rankine-Hugoniot and isentropic relations."""
    states = riemann(*SOD, np.array([-2.0, 0.5, 1.2, 3.0]))
    np.testing.assert_allclose(states[[0, 3]], SOD)
    v, behind_fan, p = states[1]
    assert behind_fan == pytest.approx(p ** (1.0 / G))
    assert v == pytest.approx(2.0 * np.sqrt(G) / (G - 1.0) * (1.0 - p ** ((G - 1.0) / (2.0 * G))))
    behind_shock, ratio = states[2, 1], (G - 1.0) / (G + 1.0)
    assert behind_shock == pytest.approx(0.125 * (p / 0.1 + ratio) / (ratio * p / 0.1 + 1.0))


@pytest.mark.parametrize("wraps", [True, False])
def test_sod(wraps: bool) -> None:
    """Between zero gradients, and mirrored to be periodic."""
    errors = []
    for n in (512, 1024, 2048):
        grid = Grid((n,), ((-1.0, 1.0),))
        x = grid.axes[0]
        start = np.where((np.abs(x) < 0.5 if wraps else x < 0.5)[:, None], *SOD)[None]
        entry = LINE if wraps else LINE.under(OPEN)
        final = entry.begin(start, grid, still(1)).advance(0.2)[0]
        right = x > 0.0
        errors.append(float(np.abs(final[right] - riemann(*SOD, (x[right] - 0.5) / 0.2)).mean()))
        if wraps:
            np.testing.assert_allclose(final[~right][::-1] * [-1.0, 1.0, 1.0], final[right], atol=1e-10)
        else:
            assert np.abs(final[:10] - SOD[0]).max() < 1e-12
    # Shocks are of first order in the mean, contacts of a little less.
    assert errors[0] < 4e-3
    assert np.log2(errors[0] / errors[2]) / 2.0 > 0.75


def test_the_gases_of_sampled_shocks_converge_to_their_riemann_problems() -> None:
    """Side by side at one place, where the sampled quantities each have one of their own."""
    entry, time = LINE.under(OPEN), 0.05
    drawn = entry.draw_initial(np.random.default_rng(5), 4, entry.default_grid(), still(4), "shock")
    errors = []
    for n in (512, 2048):
        grid = entry.default_grid(n)
        start = np.where(grid.axes[0][:, None] < 0.0, drawn[:, :1], drawn[:, -1:])
        final = entry.begin(start, grid, still(4)).advance(time)
        exact = np.stack([riemann(state[0], state[-1], grid.axes[0] / time) for state in drawn])
        errors.append((np.abs(final - exact).mean(axis=1) / np.abs(exact).mean(axis=1)).max(axis=1))
    coarse, fine = errors
    assert (fine < 5e-3).all()
    assert np.median(coarse / fine) > 2.5


def test_sampled_shocks_have_the_stated_ranges_and_places() -> None:
    from scipy import stats

    entry = LINE.under(OPEN)
    grid = entry.default_grid()
    states = entry.draw_initial(np.random.default_rng(1), 2000, grid, still(2000), "shock")
    for field, (low, high) in enumerate(((np.exp(-0.5), np.exp(0.5)), (1.0, 10.0), (10.0, 100.0))):
        left, right = states[:, 0, field], states[:, -1, field]
        place = grid.positions[0][(states[:, :, field] == left[:, None]).sum(axis=1) - 1]
        for drawn in (left, right):
            assert stats.kstest(np.log(drawn), stats.uniform(np.log(low), np.log(high / low)).cdf).pvalue > 0.01
        # The value on the right and the place of the jump are one random number.
        np.testing.assert_allclose(place, 0.25 + 0.5 * np.log(right / low) / np.log(high / low), atol=2.0 / 1024)


def outgoing(x: Array, amplitude: float, direction: float) -> Array:
    """An isentropic wave (X, 3) that runs one way through a gas of p = rho = 1 at rest."""
    velocity = amplitude * np.exp(-(((x - 0.5) / 0.07) ** 2))
    local = 1.0 + 0.5 * (G - 1.0) * velocity / np.sqrt(G)
    return np.stack([direction * velocity, local ** (2.0 / (G - 1.0)), local ** (2.0 * G / (G - 1.0))], axis=-1)


@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_a_wave_leaves_the_line(direction: float) -> None:
    """Less than a thousandth of it comes back, without friction, whose stress is zero at the ends."""
    grid = Grid((512,), ((0.0, 1.0),))
    start = outgoing(grid.axes[0], 0.1, direction)
    whole = np.abs(start - [0.0, 1.0, 1.0]).max(axis=0)
    entry = LINE.under(OPEN)
    left = entry.begin(start[None], grid, still(1)).advance(1.0)[0] - [0.0, 1.0, 1.0]
    assert (np.abs(left).max(axis=0) < 1e-3 * whole).all()
    kept = LINE.begin(start[None], grid, still(1)).advance(1.0)[0] - [0.0, 1.0, 1.0]
    assert (np.abs(kept).max(axis=0) > 0.5 * whole).all()


@pytest.mark.parametrize("axis", [0, 1])
def test_a_wave_leaves_the_square_as_it_leaves_the_line(axis: int) -> None:
    grid = Grid((64, 64), ((0.0, 1.0),) * 2)
    line = outgoing(grid.axes[axis], 0.1, 1.0)
    start = np.stack([line[:, 0], np.zeros(64), line[:, 1], line[:, 2]], axis=-1)
    start = start if axis == 0 else start[:, [1, 0, 2, 3]]
    plane = np.repeat(np.expand_dims(start, 1 - axis), 64, axis=1 - axis)
    entry = SQUARE.under(OPEN_SQUARE if axis == 0 else CHANNEL)
    end = entry.begin(plane[None], grid, still(1)).advance(1.0)[0]
    assert np.abs(end - [0.0, 0.0, 1.0, 1.0]).max() < 1e-3
    assert np.ptp(end, axis=1 - axis).max() < 1e-12


def test_gas_that_streams_through_streams_on() -> None:
    """Faster and slower than sound, with friction: a uniform stream is a solution."""
    for speed in (0.5, 3.0):
        start = np.broadcast_to([speed, 1.0, 1.0], (1, 64, 3))
        end = LINE.under(OPEN).begin(start, LINE.default_grid(64), still(1, 0.1)).advance(0.1)
        np.testing.assert_allclose(end, start, atol=1e-12)


@pytest.mark.parametrize(("n", "stride", "first"), [(96, 1, 0), (640, 8, 0), (640, 8, 5)])
def test_coarse_states_between_zero_gradients_are_solved_as_fine_ones(n: int, stride: int, first: int) -> None:
    """The cells that a coarse grid is solved on end where the box does, wherever its points are."""
    entry = LINE.under(OPEN)
    grid = entry.default_grid(n).subsample(stride, first)
    fine = entry.default_grid(1024)

    def bell(x: Array) -> Array:
        return np.stack([0.3 * np.exp(-(x**2) * 8.0), 1.0 + 0.5 * np.exp(-(x**2) * 8.0), 2.0 + 0.0 * x], axis=-1)[None]

    exact = entry.begin(bell(fine.axes[0]), fine, still(1)).advance(0.5)[0]
    end = entry.begin(bell(grid.axes[0]), grid, still(1)).advance(0.5)[0]
    expected = np.stack([np.interp(grid.axes[0], fine.axes[0], column) for column in exact.T], axis=-1)
    np.testing.assert_allclose(end, expected, atol=3e-3)


def test_refined_jumps_have_no_new_extremes() -> None:
    entry = LINE.under(OPEN)
    grid = entry.default_grid(64)
    start = entry.draw_initial(np.random.default_rng(3), 3, grid, still(3), "shock")
    soon = entry.begin(start, grid, still(3)).advance(1e-6)
    assert (soon >= start.min(axis=1, keepdims=True) - 1e-3).all()
    assert (soon <= start.max(axis=1, keepdims=True) + 1e-3).all()


def test_streams_roll_up_as_fast_as_theory_says() -> None:
    """Ripples of a face between streams of one density grow like cosh(k t) (Kelvin and Helmholtz), M << 1."""
    entry = SQUARE.under(CHANNEL)
    grid = Grid((64, 64), entry.extent)
    x, y = (axis for axis in grid.axes)
    face = 0.5 + 0.01 * np.sin(2.0 * np.pi * x)[:, None]
    below = np.clip((face - y) * 64 + 0.5, 0.0, 1.0)
    start = np.stack(
        [2.0 * below - 1.0, 0.0 * below, 1.0 + 0.0 * below, np.full_like(below, 1.0 / G / 0.3**2)], axis=-1
    )
    solution = entry.begin(start[None], grid, still(1))
    speeds = [np.sqrt(np.square(solution.advance(t)[0, ..., 1]).mean()) for t in (0.15, 0.35)]
    k = 2.0 * np.pi
    assert speeds[1] / speeds[0] == pytest.approx(np.sinh(0.35 * k) / np.sinh(0.15 * k), rel=0.35)


def test_sampled_streams_and_turbulence_are_as_stated() -> None:
    count, mach = 60, np.linspace(0.1, 1.0, 60)
    coefficients = still(count) | {"M": mach}
    grid = SQUARE.default_grid(128)
    streams = SQUARE.under(CHANNEL).draw_initial(np.random.default_rng(2), count, grid, coefficients, "kh")
    turbulence = SQUARE.draw_initial(np.random.default_rng(2), count, grid, coefficients, "turb")
    for states in (streams, turbulence):
        np.testing.assert_allclose(states[..., 3], (1.0 / (G * mach**2))[:, None, None] + 0.0 * states[..., 3])
    low, high = streams[:, 0, 0, 2], streams[:, 0, -1, 2]
    np.testing.assert_allclose(0.5 * (low + high), 1.0)
    assert ((high / low > 0.5) & (high / low < 2.0)).all()
    assert np.ptp(high / low) > 1.0
    np.testing.assert_array_equal(streams[:, :, 0, :2], np.broadcast_to([1.0, 0.0], (count, 128, 2)))
    np.testing.assert_array_equal(streams[:, :, -1, 0], -1.0)
    heights = (0.5 * (streams[..., 0] + 1.0)).mean(axis=2) - 0.5
    found = np.abs(np.fft.rfft(heights, axis=1, norm="forward"))
    assert set(found.argmax(axis=1)) == {1, 2, 3}
    np.testing.assert_allclose(2.0 * found.max(axis=1), 0.005, rtol=0.05)

    np.testing.assert_array_equal(turbulence[..., 2], 1.0)
    np.testing.assert_allclose(np.hypot(turbulence[..., 0], turbulence[..., 1]).mean(axis=(1, 2)), 1.0)
    waves = np.fft.fft2(turbulence[..., :2], axes=(1, 2))
    numbers = np.fft.fftfreq(128, 1.0 / 128.0)
    i, j = np.meshgrid(numbers, numbers, indexing="ij")
    along = np.abs(waves[..., 0] * i + waves[..., 1] * j) ** 2 / np.maximum(i**2 + j**2, 1.0)
    compressive = along.sum(axis=(1, 2)) / (np.abs(waves) ** 2).sum(axis=(1, 2, 3))
    assert 0.03 < compressive.mean() < 0.08


@pytest.mark.parametrize(
    ("name", "boundary", "kind"), [("compressible_ns_2d", CHANNEL, "kh"), ("compressible_ns_1d", OPEN, "shock")]
)
def test_kinds_are_the_same_functions_on_every_grid(name: str, boundary: BoundaryCondition, kind: str) -> None:
    entry = family(name).under(boundary)
    fine, coarse = (
        entry.draw_initial(np.random.default_rng(7), 3, entry.default_grid(n), still(3), kind) for n in (256, 32)
    )
    averages = fine.reshape(3, *(32, 8) * entry.ndim, -1).mean(axis=tuple(range(2, 2 * entry.ndim + 1, 2)))
    assert np.abs(averages - coarse).mean() < 0.02 * np.abs(coarse).mean()


def test_kinds_and_boundaries_that_do_not_go_together_are_refused() -> None:
    rng, grid = np.random.default_rng(0), LINE.default_grid(32)
    for call, code in (
        (lambda: LINE.draw_initial(rng, 1, grid, still(1), "shock"), "boundary_not_supported"),
        (lambda: LINE.draw_initial(rng, 1, grid, still(1), "kh"), "unknown_initial_kind"),
        (lambda: LINE.under(BoundaryCondition.uniform(BoundaryKind.NO_SLIP, 1)), "boundary_not_supported"),
        (lambda: family("burgers").under(OPEN), "boundary_not_supported"),
    ):
        with pytest.raises(UserError) as caught:
            call()
        assert caught.value.code == code


def test_an_open_box_conserves_nothing_and_keeps_only_symmetries_of_its_own() -> None:
    opened = SQUARE.under(CHANNEL)
    assert SQUARE.under(SQUARE.boundary) is SQUARE
    assert opened.under(SQUARE.boundary).conserved == ()
    assert opened.conserved == ()
    assert opened.exchange == ()
    assert opened.conserved_means(np.ones((2, 8, 8, 4))) == {}
    assert SQUARE.under(OPEN_SQUARE).exchange == SQUARE.exchange
    assert SQUARE.conserved == ("density",)
