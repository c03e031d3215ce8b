"""A trajectory thinned to what a picture can show."""

import numpy as np

from ups_server.data.source import TrajectorySource
from ups_server.errors import UserError
from ups_server.pde.state import Trajectory

FRAMES = 101
POINTS = {1: 1024, 2: 256}
"""At most, per axis, by dimensions."""


def preview(source: TrajectorySource, row: int) -> Trajectory:
    """Row `row` of the source, thinned: large files cost little memory.

    At most `FRAMES` frames, evenly spaced, and every so many points.

    Raises:
        UserError: ``row_out_of_range``, or ``picture_not_available`` for 3-D states.
    """
    if source.grid.ndim not in POINTS:
        raise UserError("picture_not_available", "only 1-D and 2-D states can be drawn", got=f"{source.grid.ndim}-D")
    if not 0 <= row < source.n_trajectories:
        raise UserError(
            "row_out_of_range", f"there is no trajectory {row}", expected=f"0 to {source.n_trajectories - 1}"
        )
    count = len(source.times)
    frames = np.unique(np.linspace(0, count - 1, min(count, FRAMES)).round().astype(np.int64))
    stride = _stride(source.grid.n, POINTS[source.grid.ndim])
    static = source.read_static([row], stride)
    values = np.concatenate([source.read([row], [int(frame)], stride)[0] for frame in frames])
    return Trajectory(
        source.family,
        values,
        source.times[frames],
        source.grid.subsample(stride),
        source.boundary,
        dict(zip(source.coefficient_names, source.coefficients[row].tolist(), strict=True)),
        None if static is None else static[0],
    )


def _stride(n: tuple[int, ...], at_most: int) -> int:
    """The smallest stride that divides all of `n` and leaves at most `at_most` points."""
    wanted = (stride for stride in range(1, max(n) + 1) if max(n) // stride <= at_most)
    return next((stride for stride in wanted if all(points % stride == 0 for points in n)), 1)
