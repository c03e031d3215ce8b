"""Heat in a ring.

    u_t = kappa u_xx    on [0, 1], periodic

Shapes: states (N, X, 1). Waves decay, the shortest first; the mean is conserved and no value leaves the extremes of
the start.
"""

import numpy as np

from ups_server.pde import BoundaryCondition, BoundaryKind, Coefficient, Family, Field, Grid
from ups_server.pde.grid import Array, Numbers
from ups_server.pde.random_fields import SCALAR
from ups_server.pde.solution import Exact, Solution


class Heat(Family):
    id = "heat_1d"
    name = "1D Heat Equation"
    equation = "u_t = kappa u_xx"
    fields = (Field("u", slot=0, description="temperature"),)
    coefficients = (Coefficient("kappa", "kappa", "diffusivity", default=0.01, domain=(0.0, np.inf), length_power=-2),)
    extent = ((0.0, 1.0),)
    boundary = BoundaryCondition.uniform(BoundaryKind.PERIODIC, 1)
    dt = 0.05
    frame_dt = 0.05
    t_final = 1.0
    n = 128
    odd = True
    reflections = ((1,),)
    conserved = ("u",)
    keeps_extremes = "maximum principle: values stay between the extremes of the start"

    def sample_initial(self, rng: np.random.Generator, count: int, grid: Grid) -> Array:
        return SCALAR.sample(rng, count, grid)[..., None]

    def begin(self, initial: Array, grid: Grid, coefficients: Numbers, static: Array | None = None) -> Solution:
        """Exact for the trigonometric interpolant: each wave decays by itself."""
        n, kappa = grid.n[0], coefficients["kappa"][:, None]
        wave = 2.0 * np.pi / grid.length[0] * np.arange(n // 2 + 1)
        spectrum = np.fft.rfft(initial[..., 0], axis=-1)

        def at(elapsed: float) -> Array:
            return np.fft.irfft(spectrum * np.exp(-kappa * elapsed * wave**2), n=n, axis=-1)[..., None]

        return Exact(initial, at)
