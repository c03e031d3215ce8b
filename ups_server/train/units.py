"""Changes of units of evolution equations: each trajectory of one is a trajectory of many others.

Where u(x, t) solves ``u_t = sum_k c_k d^j_k (u^p_k) / dx^j_k + s f(x)``, so do

    u(x, a t)      with  a c_k, a s
    u(-x, t)       with  (-1)^j_k c_k, f(-x)
    m u(x, t)      with  m^(1 - p_k) c_k, m s

A term of several powers, such as u - u^3, allows only an m that keeps their ratio: 1, or -1 where all are odd.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ups_server.data.windows import Triples
from ups_server.pde.equation import TERMS, Term

SLOWEST, FASTEST = 0.5, 1.5
"""Of a."""
LARGEST = 1.4
"""Of m, and of 1 / m."""


def in_other_units(rng: np.random.Generator, triples: Triples, names: Sequence[str], longest: float) -> Triples:
    """The same triples of a periodic line, each in units of its own.

    Args:
        names: of the terms, as the coefficients stand.
        longest: lead time, which no change exceeds.
    """
    terms = [TERMS[name] for name in names]
    coefficients, times = triples.coefficients.copy(), triples.times.copy()
    states = triples.states.copy()
    static = None if triples.static is None else triples.static.copy()
    for row, own in enumerate(coefficients):
        slowest = max(SLOWEST, float(np.diff(times[row]).max()) / longest)
        pace = math.exp(rng.uniform(math.log(slowest), math.log(max(FASTEST, slowest))))
        times[row] /= pace
        own *= pace
        if rng.random() < 0.5:
            own *= [(-1.0) ** term.order for term in terms]
            states[row] = mirrored(states[row], triples.grid.offset[0])
            if static is not None:
                static[row] = mirrored(static[row], triples.grid.offset[0])
        size = drawn_size(rng, [term for term, value in zip(terms, own, strict=True) if value])
        own *= [size ** (1 - power(term)) for term in terms]
        states[row] *= size
    return replace(triples, coefficients=coefficients, times=times, states=states, static=static)


def drawn_size(rng: np.random.Generator, terms: Sequence[Term]) -> float:
    """A factor m of states that leaves every one of these terms itself."""
    sign, size = rng.choice([-1.0, 1.0]), math.exp(rng.uniform(-math.log(LARGEST), math.log(LARGEST)))
    powers = [{piece.power for piece in term.pieces} for term in terms]
    mixed = [own for own in powers if len(own) > 1]
    if any(p % 2 == 0 for own in mixed for p in own):
        return 1.0
    return float(sign if mixed else sign * size)


def power(term: Term) -> int:
    """Of u: zero for the forcing, one for terms of several powers, which m leaves as they are."""
    powers = {piece.power for piece in term.pieces}
    if len(powers) == 1:
        return powers.pop()
    return 1 if powers else 0


def mirrored(values: NDArray[np.float32], offset: float) -> NDArray[np.float32]:
    """Values (..., X, C) of a periodic line at -x; points lie on themselves for an offset of 0 or 1/2."""
    flipped = np.flip(values, axis=-2)
    return np.roll(flipped, 1, axis=-2) if offset == 0 else flipped
