"""Linear advection.

    u_t + beta u_x = 0    on [0, 1], periodic

Shapes: states (N, X, 1), trajectories (N, T, X, 1). A state travels to the right at speed beta and keeps its form for
ever: nothing decays, every norm is constant, and the whole error of a solver is in the phase of its waves and in the
edges of windowed states. PDEBench has beta in {0.1, 0.2, 0.4, 0.7, 1, 2, 4, 7}.

The solver multiplies each Fourier coefficient by exp(-i k beta t): exact for the trigonometric interpolant of the
given state, at any time, with no steps in between.

Source: Takamoto et al., PDEBench (2022), D.1. PDEBench's own files carry 0.3 % of numerical dissipation.
"""

import numpy as np

from ups_server.pde.family import Coefficient, Family, Field
from ups_server.pde.grid import Array, BoundaryCondition, BoundaryKind, Grid, Numbers
from ups_server.pde.random_fields import SCALAR
from ups_server.pde.solution import Exact, Solution


class Advection(Family):
    id = "advection"
    name = "1D Advection Equation"
    equation = "u_t + beta u_x = 0"
    fields = (Field("u", slot=0, description="advected quantity"),)
    coefficients = (
        Coefficient("beta", "Beta", "advection speed", default=0.4, length_power=-1, aliases=("advection_speed",)),
    )
    extent = ((0.0, 1.0),)
    boundary = BoundaryCondition.uniform(BoundaryKind.PERIODIC, 1)
    dt = 0.05
    frame_dt = 0.01
    t_final = 2.0
    n = 1024
    reference_points = 1024
    odd = True
    conserved = ("u",)
    keeps_extremes = "a state that is carried along keeps its extremes"

    def sample_initial(self, rng: np.random.Generator, count: int, grid: Grid) -> Array:
        return SCALAR.sample(rng, count, grid)[..., None]

    def begin(self, initial: Array, grid: Grid, coefficients: Numbers, static: Array | None = None) -> Solution:
        n, beta = grid.n[0], coefficients["beta"][:, None]
        wave_number = 2.0 * np.pi / grid.length[0] * np.arange(n // 2 + 1)
        spectrum = np.fft.rfft(initial[..., 0], axis=-1)

        def at(elapsed: float) -> Array:
            return np.fft.irfft(spectrum * np.exp(-1j * wave_number * beta * elapsed), n=n, axis=-1)[..., None]

        return Exact(initial, at)
