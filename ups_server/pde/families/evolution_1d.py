"""Evolution equations of chosen terms: the family of every equation that is written in symbols or words.

    u_t = a u_x + b u u_x + c u_xx + d u_xxx + e u_xxxx + r(u) + s f(x)    on [0, 1], periodic

Shapes: states (N, X, 1), trajectories (N, T, X, 1), forcing f (N, X, 1). Each coefficient multiplies its term as
`ups_server.pde.evolution.terms` writes it, sign included: transport to the right with speed 2 is transport = -2, a
decay with rate 3 is decay = -3. Coefficients left out are zero. The highest even order has to be dissipative.
"""

from collections.abc import Mapping

import numpy as np

from ups_server.errors import UserError
from ups_server.pde.boundary import BoundaryCondition, BoundaryKind
from ups_server.pde.evolution.combinations import draw_training_coefficients
from ups_server.pde.evolution.equation import ill_posed
from ups_server.pde.evolution.solver import evolution_solution
from ups_server.pde.evolution.states import positive_states, sample_states
from ups_server.pde.evolution.terms import TERMS, Term
from ups_server.pde.family import Array, Coefficient, Family, Field
from ups_server.pde.grid import Grid
from ups_server.pde.solution import Solution


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

    def fit_initial(self, initial: Array, coefficients: Mapping[str, Array]) -> Array:
        """Positive states where the reaction is logistic or loses u^2: a negative one would fall without bound."""
        falls = (coefficients["logistic"] > 0.0) | (coefficients["quadratic"] < 0.0)
        return np.where(falls[:, None, None], positive_states(initial[..., 0])[..., None], initial)

    def sample_static(self, rng: np.random.Generator, count: int, grid: Grid) -> Array:
        """Forcing drawn like states."""
        return sample_states(rng, count, grid)[..., None]

    def begin(
        self, initial: Array, grid: Grid, coefficients: Mapping[str, Array], static: Array | None = None
    ) -> Solution:
        """The reference solution.

        Raises:
            UserError: ``ill_posed``, ``not_resolved``.
        """
        for row in range(len(initial)):
            if (found := ill_posed({name: float(values[row]) for name, values in coefficients.items()})) is not None:
                raise found
        forcing = None if static is None else static[..., 0]
        return evolution_solution(initial[..., 0], grid.length[0], coefficients, forcing)
