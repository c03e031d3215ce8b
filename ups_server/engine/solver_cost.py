"""What a rollout by the numerical solver costs, before it begins: steps of the solver, times its points.

Every family states how fast its signals are, where the steps of its solver follow from that. Imports no torch.
"""

import math

from ups_server.engine.engine import RolloutSpec
from ups_server.errors import UserError
from ups_server.pde import family
from ups_server.settings import Settings

SOLVER = "numerical"
POINT_STEPS_PER_S = 1e6
"""Steps of a point that a core makes in a second; measured with compressible flow on 64 x 64 points."""
WORKING_COPIES = 30
"""Of one state in float64, while the solver makes a step."""


def step_seconds(spec: RolloutSpec, rows: int) -> float:
    """Seconds, roughly, from one state of a rollout to the next, of all its `rows` trajectories."""
    problem = spec.problem
    steps = family(problem.family).signal_speed * max(problem.grid.n) * problem.dt
    return rows * math.prod(problem.grid.n) * max(1.0, steps) / POINT_STEPS_PER_S


def check_cost(spec: RolloutSpec, rows: int, settings: Settings, share: float = 1.0) -> None:
    """Refuses what would take the solver too long or too much memory.

    Args:
        share: of `max_solver_s` that it may take.

    Raises:
        UserError: ``too_much_work``, ``grid_too_large``.
    """
    if spec.model != SOLVER:
        return
    values = math.prod(spec.problem.grid.n) * len(family(spec.problem.family).fields)
    size = 8 * values * WORKING_COPIES
    if size > settings.step_memory_bytes:
        raise UserError(
            "grid_too_large",
            "the numerical solver takes more memory on this grid than the engine may use",
            got=f"about {size} bytes",
            expected=f"at most {settings.step_memory_bytes} bytes",
            hint="use a coarser grid, or raise UPS_STEP_MEMORY_BYTES",
        )
    seconds = spec.n_steps * step_seconds(spec, rows)
    allowed = share * settings.max_solver_s
    if seconds > allowed:
        raise UserError(
            "too_much_work",
            "the numerical solver would take too long for this rollout",
            got=f"about {seconds:.0f} s",
            expected=f"at most {allowed:.0f} s",
            hint="use a coarser grid, fewer states or fewer steps; asynchronous rollouts may take longer",
        )
