"""Power spectra of fields on a box: how much of the mean square lies at each wave number.

Wave numbers are counted in cycles per box and gathered by the integer part of their length, as in `metrics`. Along a
periodic axis the transform is Fourier's. Along a bounded one the field is first continued by its mirror image, so that
no jump at the sides leaks into high wave numbers; half cycles then exist too.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ups_server.pde.boundary import BoundaryCondition

Array = NDArray[np.float64]


def power_spectrum(values: NDArray[np.floating], boundary: BoundaryCondition) -> Array:
    """Power (N, T, K, C) of values (N, T, X..., C) at wave numbers 0 to K - 1.

    The powers of a field add up to its mean square over the box (Parseval). A plane wave a sin(2 pi k x) has a^2 / 2
    at k; in a periodic box the power at 0 is the squared mean.
    """
    periodic = boundary.periodic
    extended = values.astype(np.float64)
    for axis, wraps in enumerate(periodic, start=2):
        if not wraps:
            extended = np.concatenate([extended, np.flip(extended, axis)], axis)
    space = tuple(range(2, values.ndim - 1))
    power = np.abs(np.fft.fftn(extended, axes=space, norm="forward")) ** 2
    shells = _shells([extended.shape[axis] for axis in space], periodic)
    flat = np.moveaxis(power, -1, 2).reshape(-1, shells.size)
    spectrum = np.array([np.bincount(shells, row, shells.max() + 1) for row in flat], dtype=np.float64)
    result: Array = np.moveaxis(spectrum.reshape(*values.shape[:2], values.shape[-1], -1), 2, -1)
    return result


def _shells(n: Sequence[int], periodic: Sequence[bool]) -> NDArray[np.int64]:
    """Integer part of |k| in cycles per box for each mode (points,); a mirrored axis has twice the box's length."""
    axes = [np.fft.fftfreq(points, (1.0 if wraps else 2.0) / points) for points, wraps in zip(n, periodic, strict=True)]
    radius = np.sqrt(sum(wave**2 for wave in np.meshgrid(*axes, indexing="ij")))
    shells: NDArray[np.int64] = np.floor(radius + 1e-9).astype(np.int64).ravel()
    return shells
