"""An evolution equation in its canonical form: which terms it has, with which coefficients."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ups_server.errors import UserError
from ups_server.pde.evolution.forcing import Formula
from ups_server.pde.evolution.terms import TERMS

EXACT = 1e-9
"""Coefficients that differ by less, relative to their size, are taken for equal."""


@dataclass(frozen=True)
class Equation:
    """``u_t = sum_k c_k T_k(u) + f(x)``.

    Attributes:
        coefficients: (name of the term, c_k) in the order of the library, none of them zero.
        forcing: f(x); None where there is none.
    """

    coefficients: tuple[tuple[str, float], ...]
    forcing: Formula | None = None

    @classmethod
    def of(cls, coefficients: Mapping[str, float], forcing: Formula | None = None) -> "Equation":
        """The canonical form: what is proportional to u, u^2 and u^3 is written in one way only.

        ``r u - r u^2`` with r > 0 is logistic, ``r u - r u^3`` bistable; else the powers stand by themselves, growth
        or decay by their sign. Forcing in `coefficients` is left to `forcing`.
        """
        powers = {1: 0.0, 2: 0.0, 3: 0.0}
        found: dict[str, float] = {}
        for name, value in coefficients.items():
            term = TERMS[name]
            if term.order or not term.pieces:
                found[name] = value
                continue
            for piece in term.pieces:
                powers[piece.power] += value * piece.factor
        found.pop("forcing", None)
        size = sum(abs(value) for value in powers.values())
        first, second, third = (0.0 if abs(value) <= EXACT * size else value for value in powers.values())
        if first > 0.0 and third == 0.0 and math.isclose(first, -second, rel_tol=EXACT):
            found["logistic"] = first
        elif first > 0.0 and second == 0.0 and math.isclose(first, -third, rel_tol=EXACT):
            found["bistable"] = first
        else:
            found |= {"growth" if first > 0.0 else "decay": first, "quadratic": second, "cubic": third}
        if forcing is not None:
            found["forcing"] = 1.0
        return cls(tuple((name, found[name]) for name in TERMS if found.get(name)), forcing)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.coefficients)

    def __getitem__(self, name: str) -> float:
        return dict(self.coefficients).get(name, 0.0)

    def check(self) -> None:
        """Raises UserError ``ill_posed`` where the shortest waves would grow without bound."""
        if (found := ill_posed(dict(self.coefficients))) is not None:
            raise found

    def on_unit_box(self, length: float) -> "Equation":
        """The same equation in units of a box of this length; f(x) stays the function of x that it was."""
        scaled = [(name, value * length ** -TERMS[name].order) for name, value in self.coefficients]
        return Equation(tuple(scaled), self.forcing)

    def __str__(self) -> str:
        """As it is written: ``u_t = -u*u_x + 0.01*u_xx``."""
        text = ""
        for name, value in self.coefficients:
            if name == "forcing":
                continue
            sign = ("-" if value < 0.0 else "") if not text else (" - " if value < 0.0 else " + ")
            size = f"{abs(value):.12g}"
            text += sign + ("" if size == "1" else f"{size}*") + TERMS[name].symbol
        if self.forcing is not None:
            text = f"{text} + {_summand(self.forcing)}" if text else str(self.forcing)
        return f"u_t = {text or '0'}"


def _summand(forcing: Formula) -> str:
    """In brackets where a leading minus would follow another sign."""
    text = str(forcing)
    return f"({text})" if text.startswith("-") else text


def ill_posed(coefficients: Mapping[str, float]) -> UserError | None:
    """What is wrong where the highest even order does not damp; `coefficients` by name of the term."""
    fourth, second = coefficients.get("biharmonic", 0.0), coefficients.get("diffusion", 0.0)
    if fourth > 0.0:
        return UserError(
            "ill_posed",
            "the shortest waves would grow without bound: u_xxxx needs a negative coefficient",
            got={"biharmonic": fourth},
            expected="c < 0 in c*u_xxxx",
        )
    if fourth == 0.0 and second < 0.0:
        return UserError(
            "ill_posed",
            "the shortest waves would grow without bound: u_xx needs a positive coefficient, or a u_xxxx that damps",
            got={"diffusion": second},
            expected="c > 0 in c*u_xx, or c < 0 in c*u_xxxx",
        )
    return None
