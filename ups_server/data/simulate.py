"""Batches of reference solutions, reproducible row by row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ups_server.data.draw import CoefficientDraw
from ups_server.errors import UserError
from ups_server.pde.family import Family
from ups_server.pde.grid import Grid

INITIAL, COEFFICIENTS, STATIC = range(3)
"""Streams of random numbers: coefficients never change the initial states, which files share row by row."""


@dataclass(frozen=True)
class Batch:
    """Solved rows: values (n, T, X..., C), coefficients (n, K) in the family's order, static (n, X..., S) or None."""

    values: NDArray[np.float32]
    coefficients: NDArray[np.float64]
    static: NDArray[np.float32] | None


def generator(seed: int, stream: int, row: int) -> np.random.Generator:
    """The random numbers of one row: the same whatever the batch size or the number of rows."""
    return np.random.default_rng([seed, stream, row])


def complete_draws(family: Family, draws: Mapping[str, CoefficientDraw | float]) -> dict[str, CoefficientDraw]:
    """One draw a coefficient, in the family's order; those not given stay at their default.

    Raises:
        UserError: ``unknown_coefficient`` or ``coefficient_out_of_domain``.
    """
    given = {
        name: draw if isinstance(draw, CoefficientDraw) else CoefficientDraw.fixed(float(draw))
        for name, draw in draws.items()
    }
    for values in (
        {name: draw.low for name, draw in given.items()},
        {name: draw.high for name, draw in given.items()},
        *({name: value} for name, draw in given.items() for value in draw.also),
    ):
        family.complete(values)
    spelling = {alias.lower(): c.name for c in family.coefficients for alias in (c.name, *c.aliases)}
    named = {spelling[name.lower()]: draw for name, draw in given.items()}
    return {c.name: named.get(c.name, CoefficientDraw.fixed(c.default)) for c in family.coefficients}


def frame_times(family: Family, frame_dt: float | None = None, t_final: float | None = None) -> NDArray[np.float64]:
    """Times of the frames to keep; one for steady families.

    Raises:
        UserError: ``dt_mismatch`` where t_final is no multiple of frame_dt.
    """
    if family.t_final == 0.0:
        return np.zeros(1)
    step = family.frame_dt if frame_dt is None else frame_dt
    end = family.t_final if t_final is None else t_final
    steps = round(end / step) if step > 0 else 0
    if steps < 1 or abs(steps * step - end) > 1e-9 * end:
        raise UserError("dt_mismatch", "the final time must be a multiple of the frame spacing", got=(end, step))
    return np.arange(steps + 1, dtype=np.float64) * step


def solve_rows(
    family: Family,
    draws: Mapping[str, CoefficientDraw],
    rows: Sequence[int],
    seed: int,
    grid: Grid,
    times: NDArray[np.float64],
) -> Batch:
    """Draw and solve the trajectories of `rows` together.

    Raises:
        UserError: ``solver_diverged`` where a solution is not finite.
    """
    initial = np.concatenate([family.sample_initial(generator(seed, INITIAL, row), 1, grid) for row in rows])
    fixed = [family.sample_static(generator(seed, STATIC, row), 1, grid) for row in rows]
    static = np.concatenate([part for part in fixed if part is not None]) if family.static_fields else None
    table = draw_table(draws, seed, rows)
    coefficients = {name: table[:, column] for column, name in enumerate(draws)}
    values = family.solve(family.fit_initial(initial, coefficients), times, grid, coefficients, static)
    finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    if not finite.all():
        bad = int(np.flatnonzero(~finite)[0])
        raise UserError(
            "solver_diverged",
            f"the reference solution of {family.id} is not finite in row {rows[bad]}",
            got={name: float(column[bad]) for name, column in coefficients.items()},
        )
    return Batch(values.astype(np.float32), table, None if static is None else static.astype(np.float32))


def draw_table(draws: Mapping[str, CoefficientDraw], seed: int, rows: Sequence[int]) -> NDArray[np.float64]:
    """The coefficients (n, K) of `rows`."""
    table = []
    for row in rows:
        rng = generator(seed, COEFFICIENTS, row)
        table.append([float(draw.sample(rng, 1)[0]) for draw in draws.values()])
    return np.array(table, dtype=np.float64).reshape(len(rows), len(draws))
