"""Evolution equations of chosen terms: the family of every equation that is written in symbols or words.

    u_t = a u_x + b u u_x + c u_xx + d u_xxx + e u_xxxx + r(u) + s f(x)    on [0, 1], periodic

Shapes: states (N, X, 1), trajectories (N, T, X, 1), forcing f (N, X, 1). Each coefficient multiplies its term as
`ups_server.pde.equation` writes it, sign included: transport to the right with speed 2 is transport = -2, a decay with
rate 3 is decay = -3. Coefficients left out are zero. The highest even order has to be dissipative.

**Equations that are drawn.** A set of one to four terms makes a problem where waves stay bounded and shocks are held
back: self-advection needs something that smooths or disperses, growth against nothing stays a linear problem, u^2 is a
loss unless a bistable reaction limits it, and u^3 is a loss. Diffusion is negative now and then, where u_xxxx and
self-advection hold it back.

Held out of training: every set with the term `cubic`; `HELD_OUT_SETS` others, chosen once by their names; diffusion
with logistic growth alone (a family of its own, held out); Burgers' equation and transport alone with the coefficients
that the families hold out.

**Initial states**, and forcing: four kinds in equal parts, all of order one and periodic.

    sines    sum of three waves of 1 to 6 periods, amplitudes U(-1, 1)
    steps    one or two plateaus with tanh edges 0.01 wide
    fronts   a plateau with tanh edges 0.03 to 0.1 wide
    bumps    one to three periodic bells, exp(-sin^2(pi (x - x_0)) / 2 w^2) with w in U(0.1, 0.4)

One row of random numbers makes one function: the same generator gives the same functions on every grid, and the first
rows of a larger count are the states of a smaller one.
"""

import hashlib
import math
from collections.abc import Mapping
from functools import cache
from itertools import combinations

import numpy as np

from ups_server.errors import UserError
from ups_server.pde.equation import TERMS, Term, ill_posed
from ups_server.pde.evolution import AGREEMENT, COARSER_AGREEMENT, evolution_solution
from ups_server.pde.family import Coefficient, Family, Field
from ups_server.pde.grid import Array, BoundaryCondition, BoundaryKind, Grid, Numbers
from ups_server.pde.solution import Solution

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
STEEPEST_FRONTS = 1.0
"""Largest rate of a bistable reaction that nothing smooths: its fronts become e^(rate t) times as steep."""
WIDEST_WAVES = 4e-4
"""Least dispersion over self-advection where nothing smooths: solitons are as wide as a grid can show."""
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
    if not names & {"diffusion", "biharmonic"}:
        if "bistable" in names:
            found["bistable"] = min(found["bistable"], STEEPEST_FRONTS)
        if {"self_advection", "dispersion"} <= names:
            least = WIDEST_WAVES * abs(found["self_advection"])
            found["dispersion"] = math.copysign(max(abs(found["dispersion"]), least), found["dispersion"])
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


KINDS = ("sines", "steps", "fronts", "bumps")
WAVES, MAX_PERIODS = 3, 6
STEP_EDGE, FRONT_EDGE = 0.01, (0.03, 0.1)
BELL_WIDTH = (0.1, 0.4)
BELLS = 3
DRAWS = 12


def sample_states(rng: np.random.Generator, count: int, grid: Grid) -> Array:
    """`count` states (N, X) at the points of a 1-D grid."""
    draws = rng.random((count, DRAWS))
    position = (grid.axes[0] - grid.extent[0][0]) / grid.length[0]
    return np.stack([_state(row, position) for row in draws]) if count else np.empty((0, *grid.n))


def positive_states(states: Array) -> Array:
    """States (N, X) mapped linearly onto [0.05, 1] where any of their values is outside of [0, 1.5]."""
    low, high = states.min(axis=1, keepdims=True), states.max(axis=1, keepdims=True)
    span = np.maximum(high - low, 1e-12)
    inside = (low >= 0.0) & (high <= 1.5)
    return np.where(inside, states, 0.05 + 0.95 * (states - low) / span)


def _state(draws: Array, x: Array) -> Array:
    """One function (X,) of uniform draws (DRAWS,); x (X,) in units of the box."""
    kind, shape, *rest = draws
    own = np.array(rest)
    match KINDS[int(kind * len(KINDS))]:
        case "sines":
            periods = 1 + np.floor(own[:WAVES] * MAX_PERIODS)
            phases, amplitudes = own[3:6, None], 2.0 * own[6:9, None] - 1.0
            waves: Array = (amplitudes * np.sin(2.0 * np.pi * (periods[:, None] * x + phases))).sum(axis=0)
            return waves
        case "steps":
            plateaus = 1 + int(shape * 2)
            return sum(
                (_plateau(x, own[4 * i : 4 * i + 3], STEP_EDGE) for i in range(plateaus)), start=np.zeros_like(x)
            )
        case "fronts":
            edge = FRONT_EDGE[0] + (FRONT_EDGE[1] - FRONT_EDGE[0]) * shape
            return _plateau(x, own[:3], edge)
        case _:
            bells = np.zeros_like(x)
            for centre, width, height in own[: 3 * (1 + int(shape * BELLS))].reshape(-1, 3):
                narrow = BELL_WIDTH[0] + (BELL_WIDTH[1] - BELL_WIDTH[0]) * width
                bells += _height(height) * np.exp(-(np.sin(np.pi * (x - centre)) ** 2) / (2.0 * narrow**2))
            return bells


def _plateau(x: Array, draws: Array, edge: float) -> Array:
    """A periodic plateau 0.2 to 0.6 wide, of uniform draws (3,) for its centre, width and height."""
    centre, half, height = draws
    distance = np.abs((x - centre + 0.5) % 1.0 - 0.5)
    plateau: Array = _height(height) * 0.5 * (1.0 - np.tanh((distance - 0.1 - 0.2 * half) / edge))
    return plateau


def _height(draw: float) -> float:
    """0.3 to 1, of either sign."""
    return (0.3 + 0.7 * abs(2.0 * draw - 1.0)) * (1.0 if draw >= 0.5 else -1.0)


def _coefficient(term: Term) -> Coefficient:
    low = -np.inf if -1 in term.signs else 0.0
    high = np.inf if 1 in term.signs else 0.0
    return Coefficient(
        term.name,
        term.name,
        f"what multiplies {term.symbol}: {term.words}",
        default=0.0,
        domain=(low, high),
        length_power=-term.order,
    )


class Evolution1D(Family):
    id = "evolution_1d"
    name = "1D Evolution Equation"
    equation = "u_t = sum_k c_k T_k(u) + f(x)"
    fields = (Field("u", slot=0, description="any scalar"),)
    coefficients = tuple(_coefficient(term) for term in TERMS.values())
    static_fields = (Field("f", slot=0, description="forcing, which the coefficient of that name multiplies"),)
    extent = ((0.0, 1.0),)
    boundary = BoundaryCondition.uniform(BoundaryKind.PERIODIC, 1)
    static_optional = True
    single_offered = True
    dt = 0.05
    frame_dt = 0.05
    t_final = 1.0
    n = 128

    def objection(self, coefficients: Mapping[str, float]) -> UserError | None:
        """``ill_posed``, where the shortest waves would grow without bound."""
        return ill_posed(coefficients)

    def sample_coefficients(self, rng: np.random.Generator) -> dict[str, float]:
        """A random equation of one to four terms that training may see."""
        return draw_training_coefficients(rng)

    def sample_initial(self, rng: np.random.Generator, count: int, grid: Grid) -> Array:
        return sample_states(rng, count, grid)[..., None]

    def fit_initial(self, initial: Array, coefficients: Numbers) -> Array:
        """Positive states where the reaction is logistic or loses u^2: a negative one would fall without bound."""
        falls = (coefficients["logistic"] > 0.0) | (coefficients["quadratic"] < 0.0)
        return np.where(falls[:, None, None], positive_states(initial[..., 0])[..., None], initial)

    def sample_static(self, rng: np.random.Generator, count: int, grid: Grid) -> Array:
        """Forcing drawn like states."""
        return sample_states(rng, count, grid)[..., None]

    def begin(self, initial: Array, grid: Grid, coefficients: Numbers, static: Array | None = None) -> Solution:
        """The reference solution.

        Raises:
            UserError: ``ill_posed``, ``not_resolved``.
        """
        for row in range(len(initial)):
            if (found := ill_posed({name: float(values[row]) for name, values in coefficients.items()})) is not None:
                raise found
        forcing = None if static is None else static[..., 0]
        agreement = COARSER_AGREEMENT if self.single else AGREEMENT
        return evolution_solution(initial[..., 0], grid.length[0], coefficients, forcing, agreement)
