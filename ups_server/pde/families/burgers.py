"""Burgers' equation, with PDEBench's viscosity, and Cole and Hopf's solution of it.

    u_t + (u^2 / 2)_x = (nu / pi) u_xx    on [0, 1], periodic

Shapes: states (N, X, 1), trajectories (N, T, X, 1). Slopes that fall steepen into shocks of width ~ nu / (pi jump)
within t ~ 0.1; shocks merge and the state decays like 1/t to its mean, which is conserved. With nu >= 0.1 viscosity
wins at once and no shock forms. PDEBench has nu in {0.001, 0.002, 0.004, 0.01, 0.02, 0.04, 0.1, 0.2, 0.4, 1, 2, 4}.
The equation keeps its form under x -> -x, u -> -u.

The solution (`ColeHopf`) is exact for the trigonometric interpolant of the given state, to rounding, at any time, with
no steps in between, whatever the grid. With mu = nu / pi, in the frame that moves with the mean c,

    u = c - 2 mu phi_x / phi,    phi_t = mu phi_xx,    phi(y, 0) = exp(-Psi(y) / 2 mu)

where Psi is the integral of u(y, 0) - c. Where phi spans few powers of e, heat is applied to its Fourier coefficients.
Elsewhere they would lose all their digits, and the heat kernel is integrated in space:

    u(x, t) = c + mean of (x - c t - y) / t,    with weights exp(-F / 2 mu),    F(y) = Psi(y) + (x - c t - y)^2 / 2 t

The weights are sums of bells no narrower than sigma = sqrt(2 mu / (1 / t + max u_y)), for which the trapezoidal rule
with 0.85 sigma for its spacing errs by 2 exp(-2 pi^2 / 0.85^2), 3e-12; waves of Psi that are shorter than a bell shift
its spectrum by their own wave number, and make the spacing finer by as much. The ratio of the weights of two y grows
with x towards the larger one, so that what counts for a block of points lies between what counts for its first and for
its last.

Sources: Takamoto et al., PDEBench (2022), D.2; Cole, Quart. Appl. Math. 9 (1951) 225; Hopf, Comm. Pure Appl. Math. 3
(1950) 201.
"""

import math

import numpy as np

from ups_server.errors import UserError
from ups_server.pde.family import Coefficient, Family, Field
from ups_server.pde.grid import Array, BoundaryCondition, BoundaryKind, Grid, Numbers
from ups_server.pde.random_fields import SCALAR
from ups_server.pde.solution import Exact, Solution

SPECTRAL_RANGE = 12.0
"""Largest logarithm of max phi / min phi for Fourier coefficients: of sixteen digits, eleven are left."""
NEGLIGIBLE = 32.0
"""Weights below exp(-32) of the largest are left out."""
MAX_POINTS = 2**18
"""Most points of a period that are integrated over."""
BLOCK = 64
"""Points of the answer that share what they integrate over."""
SPACING = 0.85
"""Of the points that are integrated over, in units of the narrowest bell."""
SMOOTH = 1e-6
"""Amplitude up to which a wave of Psi / 2 mu is no part of the form of a bell."""


class ColeHopf:
    """One state u (X,) of a box of this length, under viscosity mu."""

    def __init__(self, u: Array, length: float, mu: float) -> None:
        self.n, self.length, self.mu = len(u), length, mu
        spectrum = np.fft.rfft(u, norm="forward")
        if self.n % 2 == 0:
            spectrum[-1] *= 0.5  # half of it belongs to the wave of the opposite sign
        self.mean = float(spectrum[0].real)
        wave = 2j * np.pi / length * np.arange(len(spectrum))
        spectrum[0] = 0.0
        self._potential = spectrum / np.where(wave == 0.0, 1.0, wave)
        fine = 4 * self.n
        self._steepest = max(0.0, float(np.fft.irfft(wave * spectrum, n=fine, norm="forward").max()))
        self._fastest = float(np.abs(np.fft.irfft(spectrum, n=fine, norm="forward")).max())
        self._depth = float(np.ptp(np.fft.irfft(self._potential, n=fine, norm="forward")))
        self._rough = int(np.flatnonzero(np.abs(self._potential) >= 2.0 * mu * SMOOTH).max(initial=0))
        self._points(math.inf)

    def at(self, elapsed: float) -> Array:
        """u (X,) a positive time later."""
        if self._depth <= 2.0 * self.mu * SPECTRAL_RANGE:
            return self._spectral(elapsed)
        return self._integrated(elapsed)

    def _points(self, elapsed: float) -> float:
        """Least number of points to a period that are close enough for the narrowest bell.

        Raises:
            UserError: ``viscosity_too_small``.
        """
        narrowest = math.sqrt(2.0 * self.mu / max(1.0 / elapsed + self._steepest, 1e-300))
        needed = self.length / (SPACING * narrowest) + self._rough
        if not needed <= MAX_POINTS:
            raise UserError(
                "viscosity_too_small",
                "the shocks of this state are too thin for the reference solver",
                got=f"nu = {self.mu * math.pi:.3g}, max u_x = {self._steepest:.3g}, t = {elapsed:.3g}",
                expected=f"L (max u_x + 1 / t)^(1/2) <= {SPACING * MAX_POINTS:.0f} (2 nu / pi)^(1/2)",
                hint="raise nu or start from a smoother state",
            )
        return needed

    def _potential_at(self, least: float) -> Array:
        """Psi at `least` points of a period or more, evenly spaced, the first of the given ones among them."""
        # Every so many-th of points that hold all waves.
        points = 2 * self.n * max(1, math.ceil(least / (2 * self.n)))
        every = max(stride for stride in range(1, max(1, int(points / least)) + 1) if points % stride == 0)
        return np.fft.irfft(self._potential, n=points, norm="forward")[::every]

    def _spectral(self, elapsed: float) -> Array:
        points = 4 * self.n * max(1, math.ceil(self._points(math.inf) / self.n))
        phi = np.fft.rfft(np.exp(np.fft.irfft(self._potential, n=points, norm="forward") * (-0.5 / self.mu)))
        wave = 2.0 * np.pi / self.length * np.arange(len(phi))
        phi *= np.exp(-self.mu * elapsed * wave**2 - 1j * wave * self.mean * elapsed)
        every = points // self.n
        slope = np.fft.irfft(1j * wave * phi, n=points)[::every]
        result: Array = self.mean - 2.0 * self.mu * slope / np.fft.irfft(phi, n=points)[::every]
        return result

    def _integrated(self, elapsed: float) -> Array:
        potential = self._potential_at(self._points(elapsed))
        points = len(potential)
        h, significant = self.length / points, 2.0 * self.mu * NEGLIGIBLE
        x = np.arange(self.n) * (points / self.n) - self.mean * elapsed / h  # in units of h
        # No further: there F has risen from its value at y = x by more than what is significant.
        drop = elapsed * self._fastest
        reach = min(
            math.sqrt(2.0 * elapsed * (self._depth + significant)),
            drop + math.sqrt(drop**2 + 2.0 * elapsed * significant),
        )
        beyond = math.ceil(reach / h) + 1
        quadratic = 0.5 * h * h / elapsed
        distance = np.empty(self.n)
        for first in range(0, self.n, BLOCK):
            here = math.floor(x[first])
            block = x[first : first + BLOCK] - here
            y = np.arange(-beyond, math.ceil(block[-1]) + beyond + 1)
            psi = potential[(y + here) % points]
            left, right = (psi + quadratic * (edge - y) ** 2 for edge in (block[0], block[-1]))
            low = int(np.argmax(left <= left.min() + significant))
            high = len(y) - int(np.argmax(right[::-1] <= right.min() + significant))
            y, psi = y[low:high].astype(np.float64), psi[low:high]
            exponent = np.multiply.outer(block * (quadratic / self.mu), y)
            exponent -= (psi + quadratic * y**2) * (0.5 / self.mu)
            exponent -= exponent.max(axis=1, keepdims=True)
            weight = np.exp(exponent, out=exponent)
            distance[first : first + BLOCK] = block - (weight @ y) / weight.sum(axis=1)
        result: Array = self.mean + distance * (h / elapsed)
        return result


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
    keeps_extremes = "maximum principle: values stay between the extremes of the start"

    def sample_initial(self, rng: np.random.Generator, count: int, grid: Grid) -> Array:
        return SCALAR.sample(rng, count, grid)[..., None]

    def begin(self, initial: Array, grid: Grid, coefficients: Numbers, static: Array | None = None) -> Solution:
        """The reference solution.

        Raises:
            UserError: ``viscosity_too_small`` where a shock is too thin to be integrated over.
        """
        rows = [
            ColeHopf(state, grid.length[0], float(nu) / np.pi)
            for state, nu in zip(initial[..., 0], coefficients["nu"], strict=True)
        ]
        return Exact(initial, lambda elapsed: np.stack([row.at(elapsed) for row in rows])[..., None])
