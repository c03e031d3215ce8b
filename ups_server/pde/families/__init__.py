"""The equations, one file each. A new family is a new file and one line here."""

from ups_server.pde.families.advection import Advection
from ups_server.pde.families.burgers import Burgers
from ups_server.pde.families.compressible_ns_1d import CompressibleNs1D
from ups_server.pde.families.compressible_ns_2d import CompressibleNs2D
from ups_server.pde.families.darcy import Darcy
from ups_server.pde.families.diffusion_reaction_1d import DiffusionReaction1D
from ups_server.pde.families.diffusion_reaction_2d import DiffusionReaction2D
from ups_server.pde.families.diffusion_sorption import DiffusionSorption
from ups_server.pde.families.evolution_1d import Evolution1D
from ups_server.pde.families.incompressible_ns_2d import IncompressibleNs2D
from ups_server.pde.families.shallow_water import ShallowWater
from ups_server.pde.family import Family

FAMILIES: tuple[Family, ...] = (
    Advection(),
    Burgers(),
    DiffusionSorption(),
    DiffusionReaction1D(),
    CompressibleNs1D(),
    ShallowWater(),
    CompressibleNs2D(),
    IncompressibleNs2D(),
    DiffusionReaction2D(),
    Darcy(),
    Evolution1D(),
)
