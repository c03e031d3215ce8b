"""Evolution equations in one dimension: a sum of terms of one library and a forcing, in one canonical form.

    u_t = sum_k c_k T_k(u) + f(x)    on a periodic box

Every T_k is a sum of pieces ``factor d^m/dx^m (u^p)``. A piece with p = 1 is linear: in Fourier space it multiplies
mode k by ``factor (i k)^m``. The others are computed point by point and differentiated in Fourier space. The forcing is
a formula, evaluated at the points of a grid.

Some equations have a family of their own (`recognise`): its solver and its models know more of it than of a sum of
terms.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ups_server.errors import UserError
from ups_server.pde.grid import Array
from ups_server.pde.integrators import Spectrum


@dataclass(frozen=True)
class Piece:
    """``factor d^derivative/dx^derivative (u^power)``."""

    derivative: int
    power: int
    factor: float = 1.0


@dataclass(frozen=True)
class Term:
    """One T_k.

    Attributes:
        symbol: T_k as a reader writes it.
        words: what it does, for c_k of the usual sign.
        pieces: T_k itself; empty for the forcing, which is a function of x alone.
        signs: the signs of c_k that make sense.
        magnitude: (low, high) of abs(c_k) on a box of length 1 that training covers.
    """

    name: str
    symbol: str
    words: str
    pieces: tuple[Piece, ...]
    signs: tuple[int, ...]
    magnitude: tuple[float, float]

    @property
    def order(self) -> int:
        """Of the highest derivative."""
        return max((piece.derivative for piece in self.pieces), default=0)

    @property
    def linear(self) -> bool:
        """Is T_k linear in u?"""
        return all(piece.power == 1 for piece in self.pieces)

    def linear_symbol(self, wave_number: NDArray[np.float64]) -> Spectrum:
        """What multiplies each mode: the linear pieces of T_k in Fourier space, shape of `wave_number`."""
        symbol = np.zeros(wave_number.shape, dtype=np.complex128)
        for piece in self.pieces:
            if piece.power == 1:
                symbol += piece.factor * (1j * wave_number) ** piece.derivative
        return symbol


BOTH, POSITIVE, NEGATIVE = (-1, 1), (1,), (-1,)

TERMS: dict[str, Term] = {
    term.name: term
    for term in (
        Term("transport", "u_x", "u is carried along at a constant speed", (Piece(1, 1),), BOTH, (0.1, 2.0)),
        Term(
            "self_advection",
            "u*u_x",
            "u carries itself along: larger values move faster and steepen",
            (Piece(1, 2, 0.5),),
            BOTH,
            (0.1, 1.0),
        ),
        Term("diffusion", "u_xx", "u spreads and is smoothed", (Piece(2, 1),), BOTH, (1e-3, 0.05)),
        Term("dispersion", "u_xxx", "waves of different length travel apart", (Piece(3, 1),), BOTH, (1e-5, 5e-4)),
        Term(
            "biharmonic", "u_xxxx", "the finest ripples of u are damped very fast", (Piece(4, 1),), BOTH, (1e-7, 1e-5)
        ),
        Term("growth", "u", "u grows in proportion to itself", (Piece(0, 1),), POSITIVE, (0.1, 3.0)),
        Term("decay", "u", "u dies away in proportion to itself", (Piece(0, 1),), NEGATIVE, (0.1, 3.0)),
        Term(
            "logistic",
            "u*(1 - u)",
            "u grows until it saturates at one",
            (Piece(0, 1), Piece(0, 2, -1.0)),
            POSITIVE,
            (0.5, 5.0),
        ),
        Term(
            "bistable",
            "(u - u^3)",
            "u falls into one of two stable states, minus one and one",
            (Piece(0, 1), Piece(0, 3, -1.0)),
            POSITIVE,
            (0.5, 5.0),
        ),
        Term("quadratic", "u^2", "a reaction with the square of u", (Piece(0, 2),), BOTH, (0.5, 5.0)),
        Term("cubic", "u^3", "a reaction with the cube of u", (Piece(0, 3),), BOTH, (0.5, 5.0)),
        Term("forcing", "f(x)", "a source that is fixed in space and time", (), BOTH, (0.1, 2.0)),
    )
}
"""Every term by name, in the order in which an equation is written."""


FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
    "exp": np.exp,
    "sqrt": np.sqrt,
}
"""Functions of x that a formula may use."""

OPERATIONS: dict[str, Callable[[Array, Array], Array]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "^": np.power,
}

RANK = {"+": 1, "-": 1, "*": 2, "/": 2, "^": 3}


@dataclass(frozen=True)
class Formula:
    """A function of x: x itself (`x`), a number, a function of a formula, or an operation on two.

    Attributes:
        head: `x`, the digits of a number, the name of a function, or the sign of an operation.
        parts: what it is applied to.
    """

    head: str
    parts: tuple["Formula", ...] = ()

    @classmethod
    def number(cls, value: float) -> "Formula":
        return cls(f"{value:.12g}")

    @property
    def constant(self) -> bool:
        """Is it the same everywhere?"""
        return self.head != "x" and all(part.constant for part in self.parts)

    @property
    def value(self) -> float:
        """Of a constant."""
        return float(self.at(np.zeros(1))[0])

    def plus(self, other: "Formula | None") -> "Formula":
        """The sum; numbers are added up."""
        if other is None:
            return self
        whole = Formula("+", (self, other))
        return Formula.number(whole.value) if whole.constant else whole

    def times(self, other: "Formula") -> "Formula":
        """The product; numbers come first and are multiplied out."""
        left, right = (other, self) if other.constant else (self, other)
        if left.constant and right.constant:
            return Formula.number(left.value * right.value)
        if left.constant and right.head == "*" and right.parts[0].constant:
            left, right = left.times(right.parts[0]), right.parts[1]
        if left.constant and left.value in (0.0, 1.0):
            return right if left.value else Formula.number(0.0)
        return Formula("*", (left, right))

    def at(self, x: Array) -> Array:
        """Values (X,) at the points x (X,); not finite where the formula is not."""
        with np.errstate(all="ignore"):
            return np.asarray(self._value(x), dtype=np.float64)

    def _value(self, x: Array) -> Array:
        values = [part._value(x) for part in self.parts]
        if self.head == "x":
            return x
        if self.head in FUNCTIONS:
            return FUNCTIONS[self.head](*values)
        if self.head in OPERATIONS and values:
            return OPERATIONS[self.head](*values)
        return np.full_like(x, float(self.head))

    def __str__(self) -> str:
        if self.head in FUNCTIONS:
            return f"{self.head}({self.parts[0]})"
        if not self.parts:
            return self.head
        left, right = self.parts
        before = f"({left})" if left._rank < self._rank or left.head.startswith("-") else str(left)
        # An operand on the right binds as tightly only where the operation is associative.
        loose = right._rank < self._rank or (right._rank == self._rank and self.head in "-/^")
        after = f"({right})" if loose or right.head.startswith("-") else str(right)
        return f"{before} {self.head} {after}" if self._rank == 1 else f"{before}{self.head}{after}"

    @property
    def _rank(self) -> int:
        return RANK[self.head] if len(self.parts) == 2 else 4


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
