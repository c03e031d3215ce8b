"""Velocity on the faces between the cells of a box with walls (Harlow and Welch's staggered grid).

Along its own axis, of X cells, a component has X - 1 inner faces; on the two walls it is zero. The mean of the two
faces of a cell is the value at its centre. Faces to centres loses nothing: in sine waves sin(k pi x), k < X, it is the
factor cos(k pi / 2X), so centres that come from faces give them back to rounding, amplified by at most 2X / pi.
"""

import numpy as np

from ups_server.pde.family import Array
from ups_server.pde.grid import Grid


def to_faces(centred: Array, axis: int) -> Array:
    """Values on the inner faces along `axis` whose means over each cell are nearest to `centred` (least squares)."""
    from scipy.fft import dst, idst

    n = centred.shape[axis]
    waves = np.moveaxis(dst(centred, 2, axis=axis), axis, -1)[..., :-1]
    waves /= np.cos(0.5 * np.pi * np.arange(1, n) / n)
    result: Array = np.moveaxis(idst(waves, 1, axis=-1), -1, axis)
    return result


def to_centres(u: Array, v: Array) -> Array:
    """Velocity (N, X, Y, 2) in the cells, from components on their inner faces (N, X - 1, Y) and (N, X, Y - 1)."""
    count, m, n = len(u), u.shape[2], v.shape[1]
    centred = np.zeros((count, n, m, 2))
    centred[:, :-1, :, 0] += u
    centred[:, 1:, :, 0] += u
    centred[:, :, :-1, 1] += v
    centred[:, :, 1:, 1] += v
    centred *= 0.5
    return centred


class PressureSolver:
    """Solves lap p = d on the cells between walls that let nothing through, for the five-point Laplacian.

    Directly, in cosine waves along each axis: the Laplacian is diagonal in them.
    """

    def __init__(self, grid: Grid) -> None:
        waves = [np.pad(cosine_waves(n), ((0, 0), (1, 1))) for n in grid.n]
        self._x, self._y = waves
        along_x, along_y = (
            -4.0 * np.sin(0.5 * np.pi / n * np.arange(n)) ** 2 / spacing**2
            for n, spacing in zip(grid.n, grid.spacing, strict=True)
        )
        eigenvalue = along_x[:, None] + along_y
        # p is known up to a constant; its mean is zero, and d has none between walls.
        eigenvalue[0, 0] = np.inf
        self._inverse = 1.0 / eigenvalue

    def solve(self, divergence: Array) -> Array:
        """p (N, X + 2, Y + 2) for d (N, X + 2, Y + 2), both with a ring of points that does not count."""
        amplitude = self._x @ divergence @ self._y.T
        amplitude *= self._inverse
        result: Array = self._x.T @ amplitude @ self._y
        return result


def cosine_waves(n: int) -> Array:
    """Rows: orthonormal cosine waves (n, n) at cell centres between walls, constant first."""
    mode, cell = np.arange(n), np.arange(n) + 0.5
    waves: Array = np.sqrt(2.0 / n) * np.cos(np.pi / n * mode[:, None] * cell)
    waves[0] = np.sqrt(1.0 / n)
    return waves


def sine_waves(n: int) -> Array:
    """Orthonormal sine waves (n, n), symmetric, of n points between two where they vanish."""
    point = np.arange(1, n + 1)
    result: Array = np.sqrt(2.0 / (n + 1)) * np.sin(np.pi / (n + 1) * np.outer(point, point))
    return result
