"""Batches of reference solutions of random equations: coefficients that are drawn together, again where it blows up."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ups_server.data.draw import Draw
from ups_server.data.simulate import COEFFICIENTS, INITIAL, STATIC, Batch, generator
from ups_server.errors import UserError
from ups_server.pde.family import RAND, Family
from ups_server.pde.grid import Grid

ATTEMPTS = 10
"""Draws of a row's coefficients until its solution stays within bounds."""
LARGEST = 50.0
"""Of the values of such a solution."""


def draws_together(family: Family, draw: Mapping[str, Draw | float]) -> bool:
    """Is no draw given, and does the family draw its coefficients together?"""
    return not draw and family.sample_coefficients(np.random.default_rng(0)) is not None


def solve_together(family: Family, rows: Sequence[int], seed: int, grid: Grid, times: NDArray[np.float64]) -> Batch:
    """The trajectories of `rows`, each with coefficients of `Family.sample_coefficients`.

    Raises:
        UserError: ``solver_diverged`` where `ATTEMPTS` draws of a row came to nothing.
    """
    found = [_row(family, row, seed, grid, 0) for row in rows]
    values = _bounded(family, found, grid, times)
    for attempt in range(1, ATTEMPTS):
        bad = np.flatnonzero(~(np.abs(values) < LARGEST).all(axis=tuple(range(1, values.ndim))))
        if not len(bad):
            break
        for index in bad.tolist():
            found[index] = _row(family, rows[index], seed, grid, attempt)
        values[bad] = _bounded(family, [found[index] for index in bad.tolist()], grid, times)
    if not np.isfinite(values).all():
        raise UserError("solver_diverged", f"no bounded solution of {family.id} was found", got=list(rows))
    statics = [static for _, _, static in found if static is not None]
    table = np.stack([coefficients for coefficients, _, _ in found])
    return Batch(values.astype(np.float32), table, np.concatenate(statics).astype(np.float32) if statics else None)


_Row = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64] | None]
"""Coefficients (K,), initial state (1, X..., C), static fields (1, X..., S)."""


def _row(family: Family, row: int, seed: int, grid: Grid, attempt: int) -> _Row:
    drawn = family.sample_coefficients(np.random.default_rng([seed, COEFFICIENTS, row, attempt])) or {}
    coefficients = np.array([drawn.get(entry.name, 0.0) for entry in family.coefficients])
    own = {entry.name: coefficients[[place]] for place, entry in enumerate(family.coefficients)}
    initial = family.draw_initial(generator(seed, INITIAL, row), 1, grid, own, RAND)
    return coefficients, initial, family.draw_static(generator(seed, STATIC, row), 1, grid, RAND)


def _bounded(family: Family, found: Sequence[_Row], grid: Grid, times: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, T, X..., C); not a number where the solver refuses, row by row if it has to be."""
    table = np.stack([coefficients for coefficients, _, _ in found])
    columns = {entry.name: table[:, place] for place, entry in enumerate(family.coefficients)}
    statics = [static for _, _, static in found if static is not None]
    initial = np.concatenate([state for _, state, _ in found])
    try:
        return family.solve(initial, times, grid, columns, np.concatenate(statics) if statics else None)
    except UserError as error:
        if error.code != "not_resolved":
            raise
    if len(found) > 1:
        return np.concatenate([_bounded(family, [one], grid, times) for one in found])
    return np.full((1, len(times), *initial.shape[1:]), np.nan)
