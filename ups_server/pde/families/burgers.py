"""Burgers' equation, with PDEBench's viscosity.

    u_t + (u^2 / 2)_x = (nu / pi) u_xx    on [0, 1], periodic

Shapes: states (N, X, 1), trajectories (N, T, X, 1). Slopes that fall steepen into shocks of width ~ nu / (pi jump)
within t ~ 0.1; shocks merge and the state decays like 1/t to its mean, which is conserved. With nu >= 0.1 viscosity
wins at once and no shock forms. PDEBench has nu in {0.001, 0.002, 0.004, 0.01, 0.02, 0.04, 0.1, 0.2, 0.4, 1, 2, 4}.
The equation keeps its form under x -> -x, u -> -u.

The solver is pseudo-spectral: ETDRK4 in time with viscosity and the mean drift in the exact part, products on 3/2 as
many points so that they do not alias, steps by a Courant number on the fastest deviation from the mean, renewed as
the state decays. It works on at least `MIN_POINTS` points, and on more where shocks need them: a coarser state is
refined by Fourier interpolation, advanced there and read back at its own points, so that coarse states are solved as
well as fine ones.

Source: Takamoto et al., PDEBench (2022), D.2.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ups_server.errors import UserError
from ups_server.pde.boundary import BoundaryCondition, BoundaryKind
from ups_server.pde.etdrk4 import ETDRK4, Spectrum
from ups_server.pde.families.multi_sine import SCALAR
from ups_server.pde.family import Array, Coefficient, Family, Field
from ups_server.pde.grid import Grid

MIN_POINTS, MAX_POINTS = 1024, 16384
SHOCK_RESOLUTION = 2.5
"""Least 2 pi nu points / (max u - min u): the spectrum of a shock has fallen to about e^-2.5 at the last mode. The
trajectory is then right to 0.3 %, or better: the error falls like the spectrum."""
COURANT = 2.0
"""Largest k_max max|u - mean| step; ETDRK4 turns unstable near 2.8."""
RENEWAL = 64
"""Steps between two measurements of the speed."""
GROUP = 16
"""Trajectories advanced together: their spectra and coefficients fit a core's cache."""


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
    reflections = ((-1,),)
    conserved = ("u",)

    def sample_initial(self, rng: np.random.Generator, count: int, grid: Grid) -> Array:
        return SCALAR.sample(rng, count, grid)[..., None]

    def solve(
        self,
        initial: Array,
        times: Array,
        grid: Grid,
        coefficients: Mapping[str, Array],
        static: Array | None = None,
    ) -> Array:
        """The reference solution.

        Raises:
            UserError: ``viscosity_too_small`` where a shock could not be resolved on `MAX_POINTS` points.
        """
        u, nu, length = initial[..., 0], coefficients["nu"], grid.length[0]
        solution = np.empty((len(u), len(times), grid.n[0], 1))
        span = np.ptp(u, axis=1)
        refinement = _refinement(span / (nu / length), grid.n[0])
        for factor in np.unique(refinement):
            chosen = np.flatnonzero(refinement == factor)
            # Neighbours in speed share their steps.
            chosen = chosen[np.argsort(span[chosen])]
            for start in range(0, len(chosen), GROUP):
                rows = chosen[start : start + GROUP]
                solution[rows, ..., 0] = _solve_group(u[rows], times, length, nu[rows], int(factor))
        return solution


def _refinement(reynolds: Array, n: int) -> NDArray[np.int64]:
    """How many times more points each trajectory needs than the n it is given on."""
    coarsest = -(-MIN_POINTS // n)
    finest = max(coarsest, MAX_POINTS // n)
    needed = SHOCK_RESOLUTION * reynolds / (2.0 * np.pi)
    if (needed > finest * n).any():
        raise UserError(
            "viscosity_too_small",
            "the shocks of this state are too thin for the reference solver",
            got=f"(max u - min u) L / nu = {reynolds.max():.3g}",
            expected=f"at most {2.0 * np.pi * finest * n / SHOCK_RESOLUTION:.3g}",
            hint="raise nu or start from a smaller state",
        )
    doublings = np.ceil(np.log2(np.maximum(needed / (coarsest * n), 1.0)))
    return np.minimum(coarsest * 2 ** doublings.astype(np.int64), finest)


def _solve_group(u: Array, times: Array, length: float, nu: Array, refinement: int) -> Array:
    """Solution (G, T, X) from u (G, X) on `refinement` times as many points, all with the steps of the fastest."""
    n = u.shape[-1]
    points = refinement * n
    modes = points // 2
    products = 3 * modes
    wave_number = 2.0 * np.pi / length * np.arange(modes)
    spectrum = _low_modes(u, modes)
    # The exact part takes the drift with the mean, so that only deviations limit the step.
    mean = spectrum[:, :1].real.copy()
    spectrum[:, 0] = 0.0
    linear = -(nu[:, None] / np.pi) * wave_number**2 - 1j * wave_number * mean
    gradient = -0.5j * wave_number

    def flux(v: Spectrum) -> Spectrum:
        square = np.fft.irfft(v, n=products, axis=-1, norm="forward") ** 2
        return gradient * np.fft.rfft(square, axis=-1, norm="forward")[:, :modes]

    solution = np.empty((len(u), len(times), n))
    solution[:, 0] = u
    method = ETDRK4.prepare(linear, 0.0)
    for frame, interval in enumerate(np.diff(times), start=1):
        remaining = interval
        while remaining > 0.0:
            speed = np.abs(np.fft.irfft(spectrum, n=products, axis=-1, norm="forward")).max()
            count = max(1, math.ceil(wave_number[-1] * speed * remaining / COURANT))
            step = remaining / count
            if not math.isclose(step, method.step, rel_tol=1e-9):
                method = ETDRK4.prepare(linear, step)
            for _ in range(min(count, RENEWAL)):
                spectrum = method.advance(spectrum, flux)
            remaining = step * (count - RENEWAL) if count > RENEWAL else 0.0
        solution[:, frame] = np.fft.irfft(spectrum, n=points, axis=-1, norm="forward")[:, ::refinement] + mean
    return solution


def _low_modes(u: Array, modes: int) -> Spectrum:
    """Fourier coefficients 0 to modes - 1 of the trigonometric interpolant of u (G, X)."""
    n = u.shape[-1]
    given = np.fft.rfft(u, axis=-1, norm="forward")
    if n % 2 == 0:
        given[:, -1] *= 0.5
    spectrum = np.zeros((len(u), modes), dtype=np.complex128)
    shared = min(modes, given.shape[-1])
    spectrum[:, :shared] = given[:, :shared]
    return spectrum
