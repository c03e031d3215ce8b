"""Bounds of every family hold for its own solutions, exactly but for what a solver and a grid leave out."""

import numpy as np
import pytest

from ups_server.pde import BoundaryCondition, BoundaryKind, Grid, families, family
from ups_server.pde.bounds import SLACK, exceeds, measured
from ups_server.pde.family import Family
from ups_server.pde.grid import Array

SHARE = 0.02
"""Of a bound's scale, what a reference solution between its grid points may be beyond."""
UNBOUNDED = {"evolution_1d"}
"""Some of its equations have bounds, such as diffusion alone; no bound holds for all of them."""
COEFFICIENTS = {
    "advection": {"beta": 0.7},
    "burgers": {"nu": 0.01},
    "diffusion_reaction_1d": {"nu": 0.5, "rho": 10.0},
    "diffusion_reaction_2d": {"k": -2.0},
    "darcy": {"beta": -3.0},
}


def solved(entry: Family, n: int, count: int = 3) -> tuple[Array, Array | None, dict[str, Array]]:
    """Solutions (N, T, X..., C) up to twice the family's horizon, static fields, coefficients; shorter of a gas."""
    grid, rng = Grid((n,) * entry.ndim, entry.extent), np.random.default_rng(11)
    initial, static = entry.sample_initial(rng, count, grid), entry.sample_static(rng, count, grid)
    values = entry.complete(COEFFICIENTS.get(entry.id))
    coefficients = {name: np.full(count, value) for name, value in values.items()}
    end = 0.3 if entry.id.startswith("compressible") else 2.0 * entry.t_final or 1.0
    times = np.linspace(0.0, end if entry.ndim == 1 else min(end, 1.0), 6)
    return entry.solve(initial, times, grid, coefficients, static), static, coefficients


@pytest.mark.parametrize("name", sorted(families()))
def test_a_solution_stays_within_its_bounds(name: str) -> None:
    entry = family(name)
    solution, static, coefficients = solved(entry, 128 if entry.ndim == 1 else 16)
    bounds = entry.bounds(solution[:, 0], coefficients, static)
    assert {field for field, quantity in enumerate(entry.fields) if quantity.positive} <= {b.field for b in bounds}
    assert bool(bounds) == (name not in UNBOUNDED)
    for bound in bounds:
        for frame in range(1, solution.shape[1]):
            found = measured(bound.measure, solution[:, frame, ..., bound.field])
            room = SHARE * bound.scale * (-1.0 if bound.measure == "least" else 1.0)
            assert not exceeds(bound.measure, found, bound.limit + room).any(), (bound, frame, found)


def test_the_invariant_square_is_one() -> None:
    """On every side of |u|, |v| <= a the reaction of Fitzhugh and Nagumo points inwards or along it."""
    entry = family("diffusion_reaction_2d")
    for sink in (0.0, 5e-3, -0.4, 30.0):
        (low, high, *_) = entry.bounds(np.zeros((1, 4, 4, 2)), {"k": np.array([sink])})
        a = float(high.limit[0])
        assert float(low.limit[0]) == -a
        side = np.linspace(-a, a, 101)
        assert (a - a**3 - sink - side <= 1e-12).all()
        assert (-a + a**3 - sink - side >= -1e-12).all()


def test_states_outside_the_invariant_range_have_no_lower_bound() -> None:
    entry = family("diffusion_reaction_1d")
    initial = np.array([[0.0, 0.5], [-0.1, 2.0]])[..., None]
    low, high = entry.bounds(initial, {})
    assert low.limit.tolist() == [0.0, -np.inf]
    assert high.limit.tolist() == [1.0, 2.0]


def test_a_gas_bounds_pressure_by_its_energy() -> None:
    """(gamma - 1)(p / (gamma - 1) + rho v^2 / 2) with gamma = 5/3."""
    state = np.array([[[2.0, 3.0, 5.0], [-1.0, 1.0, 4.0]]])
    bounds = {(bound.field, bound.measure): bound for bound in family("compressible_ns_1d").bounds(state, {})}
    assert bounds[2, "mean"].limit[0] == pytest.approx(4.5 + (2 / 3) * (6.0 + 0.5) / 2)
    assert bounds[1, "mean"].limit[0] == pytest.approx(2.0)
    assert bounds[1, "least"].limit[0] == bounds[2, "least"].limit[0] == 0.0
    leaking = family("compressible_ns_1d").under(BoundaryCondition.uniform(BoundaryKind.OUTFLOW, 1))
    assert {bound.measure for bound in leaking.bounds(state, {})} == {"least"}


def test_a_step_that_is_moved_as_a_sum_of_waves_stays_within_the_slack() -> None:
    """Gibbs: the worst overshoot of a sampled step is 14 % of its height."""
    entry, n = family("advection"), 64
    grid = Grid((n,), entry.extent)
    step = np.where(np.arange(n) < n // 2, 1.0, 0.0)[None, :, None]
    coefficients = {"beta": np.array([1.0])}
    solution = entry.solve(step, np.array([0.0, 0.5 / n]), grid, coefficients)
    low, high = entry.bounds(step, coefficients)
    over = measured("greatest", solution[:, 1, :, 0]) - high.limit
    assert 0.1 < over[0] / high.scale[0] < SLACK
    assert (low.limit[0], high.limit[0]) == (0.0, 1.0)
