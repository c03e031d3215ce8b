"""RODAS: a linearly implicit Runge-Kutta method of fourth order, for stiff autonomous equations u' = f(u).

Every stage solves one linear system with the Jacobian at the step's start: no iteration. It is L-stable, and its last
stage is an estimate of the error.

Source: Hairer and Wanner, Solving Ordinary Differential Equations II (1996), IV.7 and IV.10.
"""

from collections.abc import Callable

from ups_server.pde.solution import Array

GAMMA = 0.25
STATE = (
    (),
    (1.544,),
    (0.9466785280815826, 0.2557011698983284),
    (3.314825187068521, 2.896124015972201, 0.9986419139977817),
    (1.221224509226641, 6.019134481288629, 12.53708332932087, -0.6878860361058950),
)
"""How much of each earlier stage is added to the state of a stage; the sixth adds the fifth to the fifth's."""
RATE = (
    (),
    (-5.6688,),
    (-2.430093356833875, -0.2063599157091915),
    (-0.1073529058151375, -9.594562251023355, -20.47028614809616),
    (7.496443313967647, -10.24680431464352, -33.99990352819905, 11.70890893206160),
    (8.083246795921522, -7.981132988064893, -31.52159432874371, 16.31930543123136, -6.058818238834054),
)
"""The same of the right-hand side, over the step."""


def advance(
    u: Array, step: float, rate: Callable[[Array], Array], solve: Callable[[Array], Array]
) -> tuple[Array, Array]:
    """u one step later, and an estimate of its error.

    Args:
        rate: f.
        solve: x of (1 / (`GAMMA` step) - f'(u)) x = b.
    """
    stages: list[Array] = []
    at = u
    for number, shares in enumerate(RATE):
        at = u + _sum(STATE[number], stages) if number < len(STATE) else at + stages[-1]
        stages.append(solve(rate(at) + _sum(shares, stages) / step))
    return at + stages[-1], stages[-1]


def _sum(shares: tuple[float, ...], stages: list[Array]) -> Array | float:
    total: Array | float = 0.0
    for share, stage in zip(shares, stages, strict=True):
        total = total + share * stage
    return total
