"""An equation in other units: what is drawn from a trajectory solves the equation that comes with it."""

import numpy as np
import pytest

from ups_server.data.windows import Triples
from ups_server.pde import Grid, family
from ups_server.pde.equation import TERMS
from ups_server.train.units import drawn_size, in_other_units

EQUATIONS = (
    {"transport": 0.7, "diffusion": 0.01, "growth": 0.5},
    {"self_advection": -0.6, "diffusion": 0.02, "quadratic": -0.8},
    {"dispersion": 3e-4, "biharmonic": -3e-6, "bistable": 1.5, "diffusion": 0.005},
    {"transport": -0.4, "logistic": 1.2, "forcing": 0.5, "diffusion": 0.01},
    {"cubic": -1.1, "diffusion": 0.01, "forcing": -0.7},
)


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_in_other_units_a_solution_is_a_solution(offset: float) -> None:
    evolution = family("evolution_1d")
    grid = Grid((64,), evolution.extent, (offset,))
    rng = np.random.default_rng(3)
    rows = {name: np.array([own.get(name, 0.0) for own in EQUATIONS]) for name in TERMS}
    initial = evolution.fit_initial(evolution.sample_initial(rng, len(EQUATIONS), grid), rows)
    static = evolution.sample_static(rng, len(EQUATIONS), grid)
    assert static is not None
    times = np.array([0.0, 0.1, 0.25])
    states = evolution.solve(initial, times, grid, rows, static)
    triples = Triples(
        evolution.id, states.astype(np.float32), np.tile(times, (len(EQUATIONS), 1)),
        np.stack(list(rows.values()), axis=1), static.astype(np.float32), grid,
    )  # fmt: skip
    for _ in range(3):
        changed = in_other_units(rng, triples, list(rows), longest=0.3)
        assert np.diff(changed.times).max() <= 0.3 + 1e-9
        assert changed.static is not None
        for row in range(len(EQUATIONS)):
            own = {name: changed.coefficients[row, [column]] for column, name in enumerate(rows)}
            again = evolution.solve(
                changed.states[row, :1].astype(np.float64), changed.times[row], grid, own,
                changed.static[[row]].astype(np.float64),
            )  # fmt: skip
            np.testing.assert_allclose(again[0], changed.states[row], atol=3e-4)
    assert not np.allclose(changed.coefficients, triples.coefficients)


def test_terms_of_several_powers_keep_their_size() -> None:
    rng = np.random.default_rng(0)
    logistic = {drawn_size(rng, [TERMS["logistic"], TERMS["diffusion"]]) for _ in range(20)}
    bistable = {drawn_size(rng, [TERMS["bistable"]]) for _ in range(20)}
    free = {drawn_size(rng, [TERMS["quadratic"], TERMS["forcing"]]) for _ in range(20)}
    assert (logistic, bistable) == ({1.0}, {-1.0, 1.0})
    assert len(free) == 20
