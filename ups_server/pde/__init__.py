"""What a problem is: grids, boundary conditions, states, trajectories, equations and metrics. Imports no torch."""

# The first import of a subpackage binds its name here: it comes first, so that `families` ends as the function.
import ups_server.pde.families  # noqa: F401
from ups_server.pde.family import Coefficient, Family, Field
from ups_server.pde.grid import BoundaryCondition, BoundaryKind, Grid, State, Trajectory
from ups_server.pde.registry import families, family

__all__ = [
    "BoundaryCondition",
    "BoundaryKind",
    "Coefficient",
    "Family",
    "Field",
    "Grid",
    "State",
    "Trajectory",
    "families",
    "family",
]
