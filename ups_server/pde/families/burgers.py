"""Burgers' equation, with PDEBench's viscosity.

    u_t + (u^2 / 2)_x = (nu / pi) u_xx    on [0, 1], periodic

Shapes: states (N, X, 1), trajectories (N, T, X, 1). Slopes that fall steepen into shocks of width ~ nu / (pi jump)
within t ~ 0.1; shocks merge and the state decays like 1/t to its mean, which is conserved. With nu >= 0.1 viscosity
wins at once and no shock forms. PDEBench has nu in {0.001, 0.002, 0.004, 0.01, 0.02, 0.04, 0.1, 0.2, 0.4, 1, 2, 4}.
The equation keeps its form under x -> -x, u -> -u.

The solution is Cole and Hopf's (see `ups_server.pde.cole_hopf`): exact for the trigonometric interpolant of the given
state, at any time, with no steps in between, whatever the grid.

Source: Takamoto et al., PDEBench (2022), D.2.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ups_server.pde.boundary import BoundaryCondition, BoundaryKind
from ups_server.pde.bounds import Bound, between, extremes
from ups_server.pde.cole_hopf import ColeHopf
from ups_server.pde.families.multi_sine import SCALAR
from ups_server.pde.family import Array, Coefficient, Family, Field
from ups_server.pde.grid import Grid
from ups_server.pde.solution import Exact, Solution


class Burgers(Family):
    id = "burgers"
    name = "1D Burgers' Equation"
    equation = "u_t + (u^2 / 2)_x = (nu / pi) u_xx"
    fields = (Field("u", slot=0, description="velocity", length_power=-1),)
    coefficients = (
        Coefficient(
            "nu",
            "Nu",
            "viscosity, divided by pi in the equation",
            default=0.001,
            domain=(0.0, np.inf),
            low_open=True,
            length_power=-2,
            aliases=("viscosity", "epsilon"),
        ),
    )
    extent = ((0.0, 1.0),)
    boundary = BoundaryCondition.uniform(BoundaryKind.PERIODIC, 1)
    dt = 0.05
    frame_dt = 0.01
    t_final = 2.0
    n = 1024
    reference_points = 1024
    reflections = ((-1,),)
    conserved = ("u",)

    def sample_initial(self, rng: np.random.Generator, count: int, grid: Grid) -> Array:
        return SCALAR.sample(rng, count, grid)[..., None]

    def bounds(
        self,
        initial: NDArray[np.floating],
        coefficients: Mapping[str, Array],
        static: NDArray[np.floating] | None = None,
    ) -> list[Bound]:
        """Maximum principle: values stay between the extremes of the start."""
        return between(0, *extremes(initial, 0), "maximum principle: values stay between the extremes of the start")

    def begin(
        self, initial: Array, grid: Grid, coefficients: Mapping[str, Array], static: Array | None = None
    ) -> Solution:
        """The reference solution.

        Raises:
            UserError: ``viscosity_too_small`` where a shock is too thin to be integrated over.
        """
        rows = [
            ColeHopf(state, grid.length[0], float(nu) / np.pi)
            for state, nu in zip(initial[..., 0], coefficients["nu"], strict=True)
        ]
        return Exact(initial, lambda elapsed: np.stack([row.at(elapsed) for row in rows])[..., None])
