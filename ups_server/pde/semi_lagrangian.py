"""Semi-Lagrangian advection: the value at a point is that upstream, interpolated linearly between its neighbours.

It neither creates new extremes nor becomes unstable, whatever the step, and is exact where fields are linear. Over a
step of Courant number c = |v| dt / dx it diffuses like a viscosity |v| dx (1 - c) / 2 for c < 1.

Source: Staniforth and Cote, Mon. Weather Rev. 119 (1991) 2206.
"""

import numpy as np

from ups_server.pde.family import Array
from ups_server.pde.ring import Ring


def upstream(ring: Ring, field: Array, x: Array, y: Array) -> Array:
    """What stands `x` and `y` cells upstream, at each point of the core; nothing lies beyond the ring.

    Args:
        field: flat, with values on the ring.
        x: over the core: the way that is walked back along x, in cells.
        y: the same along y.
    """
    if _within_one_cell(x) and _within_one_cell(y):
        return _neighbouring(ring, field, x, y)
    return _anywhere(ring, field, x, y)


def _within_one_cell(way: Array) -> bool:
    return bool(way.max() <= 1.0 and way.min() >= -1.0)


def _neighbouring(ring: Ring, field: Array, x: Array, y: Array) -> Array:
    """Where every way ends between a point and its neighbours: no table of positions."""
    rise = field[1:] - field[:-1]
    below, above = np.maximum(y, 0.0), np.minimum(y, 0.0)
    scratch = np.empty_like(x)
    lines = []
    for i in (-1, 0, 1):
        line = below * ring.near(rise, i, -1)
        line += np.multiply(above, ring.near(rise, i), out=scratch)
        lines.append(np.subtract(ring.near(field, i), line, out=line))
    before, here, after = lines
    before -= here
    before *= np.maximum(x, 0.0, out=scratch)
    after -= here
    after *= np.minimum(x, 0.0, out=scratch)
    here += before
    here -= after
    return here


def _anywhere(ring: Ring, field: Array, x: Array, y: Array) -> Array:
    from scipy.ndimage import map_coordinates

    n, m = ring.shape[1:]
    row, across, along = np.unravel_index(np.arange(field.size)[ring.core], ring.shape)
    place = [np.clip(across - x, 0.0, n - 1.0), np.clip(along - y, 0.0, m - 1.0)]
    found = np.empty_like(x)
    for index, values in enumerate(ring.box(field)):
        here = row == index
        found[here] = map_coordinates(values, [axis[here] for axis in place], order=1, mode="nearest", prefilter=False)
    return found
