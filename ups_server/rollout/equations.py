"""Requests that write their equation out, and those that give times: the same request by family, steps and dt."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ups_server.errors import UserError
from ups_server.language.reader import terms_of
from ups_server.pde import Grid
from ups_server.pde.equation import Equation, recognise
from ups_server.pde.grammar import parse_equation
from ups_server.solvers.solver import Frames

UNIFORM = 1e-6
"""Largest deviation of a time from an even spacing, in units of the spacing."""


@dataclass(frozen=True)
class WrittenEquation:
    """The equation of a request that writes it out, in the units of its box."""

    equation: Equation

    @classmethod
    def of(cls, text: str, coefficients: Mapping[str, float]) -> "WrittenEquation":
        """Reads an equation in symbols, and values of its names.

        Raises:
            UserError: those of `parse_equation` and `Equation.check`.
        """
        equation = parse_equation(text, dict(coefficients))
        equation.check()
        return cls(equation)

    def known(self) -> dict[str, Any]:
        """The family that solves it, and its coefficients."""
        found = recognise(self.equation)
        return {"family": found.family, "coefficients": found.coefficients}

    def attributes(self) -> dict[str, Any]:
        """What an answer says about it."""
        return {
            "equation": str(self.equation),
            "terms": [term.model_dump(mode="json") for term in terms_of(self.equation)],
        }

    def forcing(self, grid: Grid, count: int) -> Frames:
        """f(x) as static field (B, X, 1) at the points of the request's grid; zero where there is none.

        Raises:
            UserError: ``invalid_equation`` where it is not finite.
        """
        (x,) = grid.axes
        formula = self.equation.forcing
        values = np.zeros_like(x) if formula is None else formula.at(x)
        if not np.isfinite(values).all():
            raise UserError(
                "invalid_equation",
                f"f(x) = {formula} is not finite everywhere on the box",
                got=f"x = {x[~np.isfinite(values)][0]:g}",
                expected="a function that is finite at every point of the grid",
            )
        return np.repeat(values.astype(np.float32)[None, :, None], count, axis=0)


def steps_of(times: tuple[float, ...], longest: float) -> dict[str, Any]:
    """n_steps, dt and save_every that give these times after the initial condition; a step is at most `longest`.

    Raises:
        UserError: ``times_not_uniform``.
    """
    later = np.array(times[1:] if times[0] == 0.0 else times)
    spacing = float(later[0]) if len(later) else 0.0
    even = spacing * np.arange(1, len(later) + 1)
    if not len(later) or spacing <= 0.0 or np.abs(later - even).max() > UNIFORM * spacing:
        raise UserError(
            "times_not_uniform",
            "times have to be evenly spaced from the initial condition at 0 on",
            got=list(times[:8]),
            expected="dt, 2 dt, 3 dt, …, with or without 0 before them",
        )
    parts = max(1, math.ceil(spacing / longest - UNIFORM)) if longest else 1
    return {"n_steps": len(later) * parts, "dt": spacing / parts, "save_every": parts}
