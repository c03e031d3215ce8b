"""Batches of reference solutions, reproducible row by row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ups_server.data.draw import CoefficientDraw, Draw, SameAs, pick_kind
from ups_server.errors import UserError
from ups_server.pde.family import RAND, Family
from ups_server.pde.grid import Grid

INITIAL, COEFFICIENTS, STATIC, KIND = range(4)
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


def complete_draws(family: Family, draws: Mapping[str, Draw | float]) -> dict[str, Draw]:
    """One draw a coefficient, in the family's order; those not given stay at their default.

    Raises:
        UserError: ``unknown_coefficient``, ``coefficient_out_of_domain``, or ``invalid_draw`` for one that is the same
            as no drawn one.
    """
    spelling = {alias.lower(): c.name for c in family.coefficients for alias in (c.name, *c.aliases)}
    drawn: dict[str, CoefficientDraw] = {}
    same: dict[str, SameAs] = {}
    for name, draw in zip(family.named(dict.fromkeys(draws, 0.0)), draws.values(), strict=True):
        if isinstance(draw, SameAs):
            same[name] = SameAs(same_as=spelling.get(draw.same_as.lower(), draw.same_as))
        else:
            drawn[name] = draw if isinstance(draw, CoefficientDraw) else CoefficientDraw.fixed(float(draw))
    for name, draw in same.items():
        if draw.same_as not in drawn:
            raise UserError("invalid_draw", f"{name} is to be the same as no drawn coefficient", got=draw.same_as)
    sources = drawn | {name: drawn[draw.same_as] for name, draw in same.items()}
    for name, source in sources.items():
        for value in (source.low, source.high, *source.also):
            family.complete({name: value})
    chosen: dict[str, Draw] = {c.name: CoefficientDraw.fixed(c.default) for c in family.coefficients}
    return chosen | drawn | same


def complete_kinds(family: Family, kinds: Mapping[str, float]) -> dict[str, float]:
    """The kinds of initial states that have a share, the usual one where none is given.

    Raises:
        UserError: ``invalid_draw`` for shares that are negative or add up to nothing, and those of
            `Family.initial_kind`.
    """
    for name in kinds:
        family.initial_kind(name)
    given = dict(kinds or {RAND: 1.0})
    if not (min(given.values()) >= 0.0 and 0.0 < sum(given.values()) < np.inf):
        raise UserError("invalid_draw", "the shares of kinds must be positive numbers", got=given)
    return {name: share for name, share in given.items() if share > 0.0}


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
    draws: Mapping[str, Draw],
    rows: Sequence[int],
    seed: int,
    grid: Grid,
    times: NDArray[np.float64],
    kinds: Mapping[str, float] = MappingProxyType({RAND: 1.0}),
) -> Batch:
    """Draw and solve the trajectories of `rows` together.

    Args:
        kinds: of initial states, with their shares.

    Raises:
        UserError: ``solver_diverged`` where a solution is not finite.
    """
    table = draw_table(draws, seed, rows)
    coefficients = {name: table[:, column] for column, name in enumerate(draws)}
    initial, fixed = [], []
    for index, row in enumerate(rows):
        kind = pick_kind(generator(seed, KIND, row), kinds)
        own = {name: column[index : index + 1] for name, column in coefficients.items()}
        initial.append(family.draw_initial(generator(seed, INITIAL, row), 1, grid, own, kind))
        fixed.append(family.draw_static(generator(seed, STATIC, row), 1, grid, kind))
    static = np.concatenate([part for part in fixed if part is not None]) if family.static_fields else None
    values = family.solve(np.concatenate(initial), times, grid, coefficients, static)
    finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    if not finite.all():
        bad = int(np.flatnonzero(~finite)[0])
        raise UserError(
            "solver_diverged",
            f"the reference solution of {family.id} is not finite in row {rows[bad]}",
            got={name: float(column[bad]) for name, column in coefficients.items()},
        )
    return Batch(values.astype(np.float32), table, None if static is None else static.astype(np.float32))


def draw_table(draws: Mapping[str, Draw], seed: int, rows: Sequence[int]) -> NDArray[np.float64]:
    """The coefficients (n, K) of `rows`."""
    table = []
    for row in rows:
        rng = generator(seed, COEFFICIENTS, row)
        drawn = {
            name: float(draw.sample(rng, 1)[0]) for name, draw in draws.items() if isinstance(draw, CoefficientDraw)
        }
        table.append([drawn[draw.same_as if isinstance(draw, SameAs) else name] for name, draw in draws.items()])
    return np.array(table, dtype=np.float64).reshape(len(rows), len(draws))
