"""From coordinates in a file to a grid and times of the family."""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ups_server.errors import UserError
from ups_server.pde.family import Family
from ups_server.pde.grid import BoundaryKind, Grid

SPACING_TOLERANCE = 0.02
"""How far a coordinate may lie from its place on the uniform axis, in spacings: float32 rounds coordinates."""
OFFSET_TOLERANCE = 1e-3
MAX_STRIDE = 512


def grid_of(family: Family, axes: list[NDArray[np.float64]], names: list[str]) -> Grid:
    """The grid with the given coordinates per axis; its extent is the family's.

    A file may be an integer-stride subsample of a cell-centred grid: its first point then lies closer to the edge
    than half its own spacing, and the grid's offset says so.

    Raises:
        UserError: ``wrong_axis``: not uniform, or not over the family's extent.
    """
    offsets = [
        _offset(axis, low, high, name, sides)
        for axis, (low, high), name, sides in zip(axes, family.extent, names, family.boundary.sides, strict=True)
    ]
    return Grid(tuple(len(axis) for axis in axes), family.extent, tuple(offsets))


def times_of(coordinates: NDArray[np.float64], frames: int, name: str) -> NDArray[np.float64]:
    """The times of `frames` frames; published files carry one time too many.

    Raises:
        UserError: ``wrong_axis``.
    """
    if len(coordinates) not in (frames, frames + 1):
        raise UserError(
            "wrong_axis", f"{name} does not fit the frames", got=len(coordinates), expected=f"{frames} or {frames + 1}"
        )
    times = coordinates[:frames]
    if frames > 1 and (np.diff(times) <= 0).any():
        raise UserError("wrong_axis", f"{name} does not increase")
    return _unrounded(times)


def _unrounded(times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Equally spaced times as they were before a file rounded them to float32."""
    if len(times) < 2:
        return times
    spacing = float(f"{(times[-1] - times[0]) / (len(times) - 1):.6g}")
    uniform = times[0] + spacing * np.arange(len(times), dtype=np.float64)
    return uniform if np.allclose(times, uniform, rtol=1e-6, atol=1e-4 * spacing) else times


def _offset(
    axis: NDArray[np.float64], low: float, high: float, name: str, sides: tuple[BoundaryKind, BoundaryKind]
) -> float:
    """Position of the first point in units of the spacing."""
    if len(axis) < 2:
        raise UserError("wrong_axis", f"{name} has fewer than two points", got=len(axis))
    spacing = (high - low) / len(axis)
    offset = (axis[0] - low) / spacing
    uniform = axis[0] + spacing * np.arange(len(axis))
    if np.abs(axis - uniform).max() > SPACING_TOLERANCE * spacing or not -OFFSET_TOLERANCE < offset < 1:
        _refuse_nodes(axis, low, high, name, sides)
        raise UserError(
            "wrong_axis",
            f"{name} is not a uniform axis over the family's extent",
            got=f"{len(axis)} points from {axis[0]:g} to {axis[-1]:g}",
            expected=f"spacing {spacing:g} on [{low:g}, {high:g}]",
            hint="one of the two ends is to be left out" if np.allclose(axis[[0, -1]], [low, high]) else None,
        )
    return _snapped(float(offset))


def _refuse_nodes(
    axis: NDArray[np.float64], low: float, high: float, name: str, sides: tuple[BoundaryKind, BoundaryKind]
) -> None:
    """Raises UserError ``wrong_axis`` where the points are nodes from one end of the extent to the other."""
    nodes = np.linspace(low, high, len(axis))
    if np.abs(axis - nodes).max() > SPACING_TOLERANCE * (nodes[1] - nodes[0]):
        return
    got = f"{len(axis)} points from {axis[0]:g} to {axis[-1]:g}"
    if BoundaryKind.PERIODIC in sides:
        raise UserError(
            "wrong_axis",
            f"{name} holds both ends of a periodic axis: its last point repeats the first",
            got=got,
            expected=f"{len(axis) - 1} points, the last one left out",
            hint="leave the last point out of the coordinates and of the values",
        )
    raise UserError(
        "wrong_axis",
        f"{name} holds both ends of the axis",
        got=got,
        expected=f"{len(axis) - 1} cell centres",
        hint="interpolate the values to the middle between neighbours",
    )


def _snapped(offset: float) -> float:
    """The offset (first + 1/2) / stride of an integer-stride subsample nearest to a rounded one."""
    fraction = Fraction(offset).limit_denominator(2 * MAX_STRIDE)
    return float(fraction) if abs(float(fraction) - offset) < OFFSET_TOLERANCE / MAX_STRIDE else max(offset, 0.0)
