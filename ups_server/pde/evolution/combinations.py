"""Random evolution equations: which sets of terms make a problem, what of them training never sees, coefficients.

A set of one to four terms makes a problem where waves stay bounded and shocks are held back: self-advection needs
something that smooths or disperses, growth against nothing stays a linear problem, u^2 is a loss unless a bistable
reaction limits it, and u^3 is a loss. Diffusion is negative now and then, where u_xxxx and self-advection hold it back.

Held out of training: every set with the term `cubic`; `HELD_OUT_SETS` others, chosen once by their names; diffusion
with logistic growth alone (a family of its own, held out); Burgers' equation and transport alone with the coefficients
that the families hold out.
"""

import hashlib
import math
from functools import cache
from itertools import combinations

import numpy as np

from ups_server.pde.evolution.terms import TERMS

Set = frozenset[str]

UNSEEN_TERM = "cubic"
HELD_OUT_SETS = 48
MOST_TERMS = 4
ALWAYS_HELD_OUT: Set = frozenset({"diffusion", "logistic"})
BURGERS: Set = frozenset({"self_advection", "diffusion"})

SMOOTHING: Set = frozenset({"diffusion", "biharmonic", "dispersion"})
REACTIONS: Set = frozenset({"growth", "decay", "logistic", "bistable", "quadratic", "cubic"})
EXCLUSIVE: tuple[Set, ...] = (
    frozenset({"growth", "decay"}),
    frozenset({"logistic", "growth"}),
    frozenset({"logistic", "bistable"}),
    frozenset({"logistic", "quadratic"}),
    frozenset({"bistable", "growth"}),
    frozenset({"bistable", "cubic"}),
)
"""Pairs that are one term written twice, or that drive each other out of every range."""
UNSTABLE = 0.15
"""Share of the sets with self-advection, diffusion and u_xxxx whose diffusion is negative."""
FASTEST_GROWTH = (3.0, 20.0)
"""Rate of the fastest growing wave there, D^2 / 4 B."""
TRIES = 1000


@cache
def all_sets() -> tuple[Set, ...]:
    """Every set of one to four terms that makes a problem, in a fixed order."""
    found = [frozenset(names) for size in range(1, MOST_TERMS + 1) for names in combinations(TERMS, size)]
    return tuple(names for names in found if _makes_a_problem(names))


def _makes_a_problem(names: Set) -> bool:
    if any(pair <= names for pair in EXCLUSIVE) or len(names & REACTIONS) > 2:
        return False
    if "self_advection" in names and not names & SMOOTHING:
        return False
    # A source that nothing takes away, or a reaction alone, is no problem in space.
    return names != {"forcing"} and not ("forcing" in names and "growth" in names)


@cache
def held_out_sets() -> frozenset[Set]:
    """Of those without the unseen term, the sets that training never sees."""
    seen = [names for names in all_sets() if UNSEEN_TERM not in names and len(names) > 1]
    chosen = sorted(seen, key=lambda names: hashlib.sha256(" ".join(sorted(names)).encode()).hexdigest())
    return frozenset({*chosen[:HELD_OUT_SETS], ALWAYS_HELD_OUT} - {BURGERS})


@cache
def training_sets() -> tuple[Set, ...]:
    return tuple(names for names in all_sets() if UNSEEN_TERM not in names and names not in held_out_sets())


def unseen_coefficients(names: Set, coefficients: dict[str, float]) -> bool:
    """Does a trained set have coefficients that are kept for tests?"""
    if names == BURGERS and math.isclose(coefficients["self_advection"], -1.0):
        nu = math.pi * coefficients["diffusion"]
        return nu >= 0.8 or 0.003 <= nu <= 0.006
    return names == {"transport"} and 0.6 <= abs(coefficients["transport"]) <= 0.8


def draw_coefficients(rng: np.random.Generator, names: Set) -> dict[str, float]:
    """Coefficients of every term of a set: logarithmically uniform in the term's range, signs as they make sense."""
    found = {name: _signed(rng, name, names) for name in TERMS if name in names}
    if {"self_advection", "diffusion", "biharmonic"} <= names and rng.random() < UNSTABLE:
        rate = math.exp(rng.uniform(*np.log(FASTEST_GROWTH)))
        found["biharmonic"] = -math.exp(rng.uniform(math.log(1e-6), math.log(1e-5)))
        found["diffusion"] = -math.sqrt(4.0 * rate * -found["biharmonic"])
    return found


def draw_training_coefficients(rng: np.random.Generator) -> dict[str, float]:
    """A random set that training may see, and its coefficients; sets of every size are as frequent."""
    sizes = [[names for names in training_sets() if len(names) == size] for size in range(1, MOST_TERMS + 1)]
    for _ in range(TRIES):
        few = sizes[rng.integers(len(sizes))]
        names = few[rng.integers(len(few))]
        found = draw_coefficients(rng, names)
        if not unseen_coefficients(names, found):
            return found
    raise RuntimeError("no equation that training may see was drawn")


def _signed(rng: np.random.Generator, name: str, names: Set) -> float:
    low, high = TERMS[name].magnitude
    size = math.exp(rng.uniform(math.log(low), math.log(high)))
    signs = TERMS[name].signs
    if name == "diffusion":
        signs = (1,)
    elif name in ("biharmonic", "cubic"):
        signs = (-1,)
    elif name == "quadratic":
        signs = (-1, 1) if names & {"bistable", "cubic"} else (-1,)
    return float(size * signs[rng.integers(len(signs))])
