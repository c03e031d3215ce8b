"""One row of any source of trajectories."""

from typing import TYPE_CHECKING

from ups_server.pde.state import Trajectory

if TYPE_CHECKING:
    from ups_server.data.source import TrajectorySource


def trajectory_of(source: "TrajectorySource", index: int) -> Trajectory:
    """Row `index` with all that is needed to read it."""
    static = source.read_static([index])
    return Trajectory(
        source.family,
        source.read([index])[0],
        source.times,
        source.grid,
        source.boundary,
        dict(zip(source.coefficient_names, source.coefficients[index].tolist(), strict=True)),
        None if static is None else static[0],
    )
