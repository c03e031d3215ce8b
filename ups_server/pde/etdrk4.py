"""Exponential time differencing, fourth-order Runge-Kutta, for stiff equations that are diagonal in Fourier space.

    v' = L v + N(v),    L diagonal and constant in time

The linear part is integrated exactly, so that only the non-linear part limits the step.

Sources: Cox and Matthews, J. Comput. Phys. 176 (2002) 430; Kassam and Trefethen, SIAM J. Sci. Comput. 26 (2005) 1214
(coefficients by contour integrals, free of cancellation near L = 0).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
