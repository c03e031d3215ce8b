"""The equations of the trained families as models of lead times know them: terms in words, scales, conserved means."""

from ups_server.model.lead_config import EquationCard, ScalesCard, TermCard
from ups_server.pde.equation import TERMS

GAS = (
    TermCard(text="compressible flow of an ideal gas", rate=False),
    TermCard(text="shear viscosity", coefficient="eta"),
    TermCard(text="bulk viscosity", coefficient="zeta"),
)
ANY = tuple(
    TermCard(text=f"{name.replace('_', ' ')}: {term.words}", coefficient=name, optional=True)
    for name, term in TERMS.items()
)
"""Every term an equation in symbols may have; the sign and size of its coefficient say the rest."""
INVERSE_PI = 0.3183098861837907

EQUATIONS: dict[str, EquationCard] = {
    "advection": EquationCard(
        terms=(TermCard(text="transport to the right at constant speed", coefficient="beta"),),
        scales=ScalesCard(kind="amplitude"),
        conserved="means",
    ),
    "burgers": EquationCard(
        terms=(
            TermCard(text="transport of the quantity by itself", rate=False),
            TermCard(text="diffusion", coefficient="nu", factor=INVERSE_PI),
        ),
        scales=ScalesCard(kind="velocity"),
        conserved="means",
    ),
    "diffusion_sorption": EquationCard(
        terms=(TermCard(text="diffusion, held back by sorption to the ground", factor=5e-4),),
        scales=ScalesCard(kind="level", level=(0.25, 0, 0, 0), unit=(0.25, 1, 1, 1), speed=0.002),
    ),
    "compressible_ns_1d": EquationCard(terms=GAS, scales=ScalesCard(kind="gas"), conserved="gas"),
    "compressible_ns_2d": EquationCard(terms=GAS, scales=ScalesCard(kind="gas"), conserved="gas"),
    "shallow_water": EquationCard(
        terms=(TermCard(text="shallow water over a flat bed, driven by gravity", factor=0.2),),
        scales=ScalesCard(kind="level", level=(1.0, 0, 0, 0), unit=(0.15, 1, 1, 1), speed=1.0),
    ),
    "evolution_1d": EquationCard(terms=ANY, scales=ScalesCard(kind="level", level=(0.0, 0, 0, 0), unit=(1.0, 1, 1, 1))),
    "incompressible_ns_2d": EquationCard(
        terms=(
            TermCard(text="incompressible flow that carries particles", rate=False),
            TermCard(text="shear viscosity", coefficient="nu"),
            TermCard(text="a force on the particles", rate=False),
        ),
        scales=ScalesCard(kind="stirred"),
        solenoidal=True,
    ),
}
"""By family."""
