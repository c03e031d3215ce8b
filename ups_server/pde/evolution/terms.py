"""The terms of which evolution equations in one dimension are made.

    u_t = sum_k c_k T_k(u) + f(x)    on a periodic box

Every T_k is a sum of pieces ``factor d^m/dx^m (u^p)``. A piece with p = 1 is linear: in Fourier space it multiplies
mode k by ``factor (i k)^m``. The others are computed point by point and differentiated in Fourier space.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Spectrum = NDArray[np.complex128]


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
