"""Forcing f(x) as a formula: what an equation in symbols says of it, evaluated at the points of a grid."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

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
