"""Equations that have a family of their own here: its solver and its models know more of it than of a sum of terms."""

import math
from dataclasses import dataclass

from ups_server.pde.evolution.equation import EXACT, Equation

EVOLUTION = "evolution_1d"


@dataclass(frozen=True)
class Recognised:
    """The family of an equation, and its coefficients there."""

    family: str
    coefficients: dict[str, float]


def recognise(equation: Equation) -> Recognised:
    """Burgers' equation, transport alone, diffusion with logistic growth; every other one is a sum of terms.

    Burgers' viscosity is pi times the coefficient of u_xx, as PDEBench defines it.
    """
    terms = dict(equation.coefficients)
    match tuple(terms):
        case ("transport",):
            return Recognised("advection", {"beta": -terms["transport"]})
        case ("self_advection", "diffusion") if math.isclose(terms["self_advection"], -1.0, rel_tol=EXACT):
            if terms["diffusion"] > 0.0:
                return Recognised("burgers", {"nu": math.pi * terms["diffusion"]})
        case ("diffusion", "logistic") if terms["diffusion"] > 0.0:
            return Recognised("diffusion_reaction_1d", {"nu": terms["diffusion"], "rho": terms["logistic"]})
    return Recognised(EVOLUTION, terms)
