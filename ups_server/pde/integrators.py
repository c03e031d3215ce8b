"""Integrators of stiff equations, both of fourth order: exponential differencing, and Rosenbrock for any Jacobian.

**ETDRK4**, exponential time differencing:  v' = L v + N(v),  L diagonal (as in Fourier space) and constant in time.
The linear part is integrated exactly, so that only the non-linear part limits the step.

**RODAS**, a linearly implicit Runge-Kutta method:  u' = f(u). Every stage solves one linear system with the Jacobian at
the step's start: no iteration. It is L-stable, and its last stage is an estimate of the error.

Sources: Cox and Matthews, J. Comput. Phys. 176 (2002) 430; Kassam and Trefethen, SIAM J. Sci. Comput. 26 (2005) 1214
(coefficients by contour integrals, free of cancellation near L = 0); Hairer and Wanner, Solving Ordinary Differential
Equations II (1996), IV.7 and IV.10.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ups_server.pde.grid import Array

Spectrum = NDArray[np.complex128]

CONTOUR_POINTS = 16
"""Enough for rounding error: the trapezoidal rule on the unit circle misses terms of order 1 / (points + 3)!."""


@dataclass(frozen=True)
class ETDRK4:
    """Coefficients of one step of size `step`, each of the shape of the linear part."""

    step: float
    full: Spectrum
    half: Spectrum
    stage: Spectrum
    first: Spectrum
    middle: Spectrum
    last: Spectrum

    @classmethod
    def prepare(cls, linear: Spectrum, step: float) -> "ETDRK4":
        """Coefficients for a linear part of any shape."""
        z = linear * step
        phi_half, first, middle, last = (np.zeros_like(z) for _ in range(4))
        for point in np.exp(2j * np.pi * (np.arange(CONTOUR_POINTS) + 0.5) / CONTOUR_POINTS):
            w = z + point
            growth, cube = np.exp(w), w**-3
            phi_half += np.expm1(0.5 * w) / w
            first += (-4.0 - w + growth * (4.0 + w * (w - 3.0))) * cube
            middle += (2.0 + w + growth * (w - 2.0)) * cube
            last += (-4.0 - w * (w + 3.0) + growth * (4.0 - w)) * cube
        scale = step / CONTOUR_POINTS
        return cls(
            step, np.exp(z), np.exp(0.5 * z), scale * phi_half, scale * first, 2.0 * scale * middle, scale * last
        )

    def advance(self, v: Spectrum, nonlinear: Callable[[Spectrum], Spectrum]) -> Spectrum:
        """v one step later."""
        n_v = nonlinear(v)
        propagated = self.half * v
        a = propagated + self.stage * n_v
        n_a = nonlinear(a)
        n_b = nonlinear(propagated + self.stage * n_a)
        n_c = nonlinear(self.half * a + self.stage * (2.0 * n_b - n_v))
        return self.full * v + self.first * n_v + self.middle * (n_a + n_b) + self.last * n_c


RODAS_GAMMA = 0.25
RODAS_STATE = (
    (),
    (1.544,),
    (0.9466785280815826, 0.2557011698983284),
    (3.314825187068521, 2.896124015972201, 0.9986419139977817),
    (1.221224509226641, 6.019134481288629, 12.53708332932087, -0.6878860361058950),
)
"""How much of each earlier stage is added to the state of a stage; the sixth adds the fifth to the fifth's."""
RODAS_RATE = (
    (),
    (-5.6688,),
    (-2.430093356833875, -0.2063599157091915),
    (-0.1073529058151375, -9.594562251023355, -20.47028614809616),
    (7.496443313967647, -10.24680431464352, -33.99990352819905, 11.70890893206160),
    (8.083246795921522, -7.981132988064893, -31.52159432874371, 16.31930543123136, -6.058818238834054),
)
"""The same of the right-hand side, over the step."""


def rodas_step(
    u: Array, step: float, rate: Callable[[Array], Array], solve: Callable[[Array], Array]
) -> tuple[Array, Array]:
    """u one step later, and an estimate of its error.

    Args:
        rate: f.
        solve: x of (1 / (`RODAS_GAMMA` step) - f'(u)) x = b.
    """
    stages: list[Array] = []
    at = u
    for number, shares in enumerate(RODAS_RATE):
        at = u + _sum(RODAS_STATE[number], stages) if number < len(RODAS_STATE) else at + stages[-1]
        stages.append(solve(rate(at) + _sum(shares, stages) / step))
    return at + stages[-1], stages[-1]


def _sum(shares: tuple[float, ...], stages: list[Array]) -> Array | float:
    total: Array | float = 0.0
    for share, stage in zip(shares, stages, strict=True):
        total = total + share * stage
    return total
