"""Between two frames a solver keeps all it knows: stepped, in one go and gone on elsewhere, it is one solution."""

from dataclasses import replace

import numpy as np
import pytest

from ups_server.pde import Family, families
from ups_server.pde.grid import Array
from ups_server.pde.solution import Exact, Grouped, Solution, Stepped, whole_steps
from ups_server.solvers.classical import Numerical
from ups_server.solvers.solver import Problem

ALL = pytest.mark.parametrize("entry", families().values(), ids=families())
OWN = {"diffusion_sorption": 1024, "compressible_ns_1d": 512, "compressible_ns_2d": 64}
"""Least points an axis that a solver works on, where it has such."""


def drawn(entry: Family, n: int, count: int = 2) -> tuple[Problem, Array, Array | None]:
    rng, grid = np.random.default_rng(7), entry.default_grid(n)
    states, static = entry.sample_initial(rng, count, grid), entry.sample_static(rng, count, grid)
    return Problem(entry.id, entry.complete({}), grid, entry.boundary, entry.dt), states, static


def begun(problem: Problem, states: Array, static: Array | None) -> Solution:
    entry = families()[problem.family]
    return entry.begin(states, problem.grid, problem.coefficient_arrays(len(states)), static)


@ALL
@pytest.mark.parametrize("share", [0.25, 1.0, 1.5], ids="{}n".format)
@pytest.mark.parametrize("dt", [0.4, 1.0, pytest.param(2.0, marks=pytest.mark.slow)], ids="{}dt".format)
def test_stepped_is_one_shot(entry: Family, share: float, dt: float) -> None:
    """To rounding where both show the same times; to the solver's accuracy where one does not stop in between."""
    problem, states, static = drawn(entry, int(share * OWN.get(entry.id, 64 if entry.ndim == 1 else 32)), count=1)
    problem = replace(problem, dt=dt * entry.dt)
    given, fixed = states.astype(np.float32), None if static is None else static.astype(np.float32)
    session = Numerical().session(problem, given, fixed)
    frames = np.stack([session.step() for _ in range(2)], axis=1)
    exact, still = given.astype(np.float64), None if fixed is None else fixed.astype(np.float64)
    coefficients = problem.coefficient_arrays(1)
    times = np.arange(3, dtype=np.float64) * problem.dt
    whole = entry.solve(exact, times, problem.grid, coefficients, still)
    np.testing.assert_array_equal(frames, whole[:, 1:].astype(np.float32))
    last = entry.solve(exact, times[[0, 2]], problem.grid, coefficients, still)[:, 1]
    space = tuple(range(last.ndim - 1))
    gap, size = (np.sqrt(np.square(values).mean(axis=space)) for values in (frames[:, 1] - last, last))
    assert (gap <= 3e-3 * size).all()


@ALL
def test_another_solution_goes_on_to_the_same_bits(entry: Family) -> None:
    problem, states, static = drawn(entry, 40 if entry.ndim == 1 else 20, count=3)
    whole, again = begun(problem, states, static), begun(problem, states, static)
    whole.advance(0.4 * entry.dt)
    again.restore(0.4 * entry.dt, whole.saved().copy())
    for elapsed in (0.6, 1.0, 1.5):
        np.testing.assert_array_equal(again.advance(elapsed * entry.dt), whole.advance(elapsed * entry.dt))
    np.testing.assert_array_equal(again.saved(), whole.saved())


class Falling(Stepped):
    """v' = -1, h' = v: the velocity is no field. Written along the last axis."""

    def __init__(self, initial: Array) -> None:
        super().__init__(initial)
        self.h, self.v = initial[:, 0].T.copy(), np.zeros((1, len(initial)))

    def _carried(self) -> list[Array]:
        return [self.h.T, self.v.T]

    def _advance(self, elapsed: float) -> Array:
        interval = elapsed - self.elapsed
        self.h = self.h + interval * (self.v - 0.5 * interval)
        self.v = self.v - interval
        return self.h.T[:, None]


def test_groups_go_their_own_ways() -> None:
    initial = np.arange(5.0)[:, None, None]
    groups = [np.array([3, 1]), np.array([0]), np.array([2, 4])]

    def begin(rows: np.ndarray) -> Solution:
        return Falling(initial[rows]) if rows[0] != 0 else Exact(initial[rows], lambda elapsed: initial[rows] + elapsed)

    whole, again = Grouped(initial, groups, begin), Grouped(initial, groups, begin)
    assert (whole.advance(0.0) == initial).all()
    whole.advance(1.0)
    again.restore(1.0, whole.saved())
    expected = np.array([2.0, 1.0 - 2.0, 2.0 - 2.0, 3.0 - 2.0, 4.0 - 2.0])
    for solution in (whole, again):
        np.testing.assert_allclose(solution.advance(2.0)[:, 0, 0], expected)


@pytest.mark.parametrize("elapsed", [1.0, 0.5, 0.0, np.nan])
def test_there_is_no_way_back(elapsed: float) -> None:
    solution = Exact(np.zeros((1, 2, 1)), lambda elapsed: np.full((1, 2, 1), elapsed))
    solution.advance(1.0)
    with pytest.raises(ValueError, match="was asked for"):
        solution.advance(elapsed)


def test_rounding_is_no_step() -> None:
    assert whole_steps(3 * 0.1, 0.1) == (3, 0.0)
    assert whole_steps(0.3 - 1e-12, 0.1) == (3, 0.0)
    whole, rest = whole_steps(0.35, 0.1)
    assert whole == 3
    assert rest == pytest.approx(0.05)
