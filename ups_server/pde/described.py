"""Problems that PDEBench publishes and this installation reads, checks, draws and converts, but does not solve.

A family of the registry takes precedence: once an equation has a solver, its description here is not used.
"""

from collections.abc import Mapping
from typing import NoReturn, final

import numpy as np

from ups_server.errors import UserError
from ups_server.pde import registry
from ups_server.pde.family import Coefficient, Family, Field
from ups_server.pde.grid import Array, BoundaryCondition, BoundaryKind, Grid
from ups_server.pde.solution import Solution

ETA = Coefficient("eta", "eta", "shear viscosity", 0.1, (0.0, float("inf")), aliases=("Eta",))
ZETA = Coefficient("zeta", "zeta", "bulk viscosity", 0.1, (0.0, float("inf")), aliases=("Zeta",))
MACH = Coefficient("M", "M", "Mach number of the initial velocity", 0.1, (0.0, float("inf")), low_open=True)


class DescribedFamily(Family):
    """A family without a solver."""

    @final
    def sample_initial(self, rng: np.random.Generator, count: int, grid: Grid) -> Array:
        """Raises UserError ``no_solver``."""
        self._refuse()

    @final
    def begin(
        self, initial: Array, grid: Grid, coefficients: Mapping[str, Array], static: Array | None = None
    ) -> Solution:
        """Raises UserError ``no_solver``."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise UserError(
            "no_solver",
            f"{self.id} has no solver here",
            got=self.id,
            expected=sorted(registry.families()),
            hint="give the initial state; its files can be read, checked and converted",
        )


class CompressibleNs3D(DescribedFamily):
    """Conservation of mass, momentum and energy of a viscous ideal gas, periodic box; no slot holds Vz."""

    id = "compressible_ns_3d"
    name = "3D Compressible Navier-Stokes Equation"
    equation = "r_t + div(r v) = 0, (r v)_t + div(r v v) + grad p = div sigma, E_t + div((E + p) v - v sigma) = 0"
    fields = (
        Field("Vx", slot=0, description="velocity along x"),
        Field("Vy", slot=1, description="velocity along y"),
        Field("Vz", slot=4, description="velocity along z"),
        Field("density", slot=2, description="mass density", positive=True),
        Field("pressure", slot=3, description="pressure", positive=True),
    )
    coefficients = (MACH, ETA, ZETA)
    extent = ((0.0, 1.0),) * 3
    boundary = BoundaryCondition.uniform(BoundaryKind.PERIODIC, 3)
    dt = 0.05
    frame_dt = 0.05
    t_final = 1.0
    n = 128
    conserved = ("density",)


DESCRIBED: tuple[Family, ...] = (CompressibleNs3D(),)


def reserved(family_id: str) -> bool:
    """Is this the id of an equation of this installation?"""
    return family_id in registry.families() or any(family_id == known.id for known in DESCRIBED)


def declare(entry: Family) -> None:
    """Make the equation of a user's file known to this process, in place of an earlier one of the same id.

    Raises:
        UserError: ``family_exists``: that id belongs to an equation of this installation.
    """
    if reserved(entry.id):
        raise UserError("family_exists", f"{entry.id} is a family of this installation", hint="choose another id")
    registry.declare(entry)


def described() -> dict[str, Family]:
    """All families that can be read, by id: those described here, those declared by users, the registered ones."""
    return {entry.id: entry for entry in DESCRIBED} | registry.declared() | registry.families()


def describe(family_id: str) -> Family:
    """What is known of a family, solved here or not.

    Raises:
        UserError: ``unknown_family``.
    """
    known = described()
    return known[family_id] if family_id in known else registry.family(family_id)
