"""What one state of a batch holds is no matter of its neighbours: each goes, and ends, as it would alone."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from ups_server.errors import UserError
from ups_server.pde import Family, families, family
from ups_server.pde.grid import Array
from ups_server.pde.incompressible import incompressible_solution
from ups_server.pde.solution import Independent, Rows, Solution, Stepped
from ups_server.solvers.classical import Numerical, NumericalSession
from ups_server.solvers.limits import NOT_FINITE, Survivors
from ups_server.solvers.solver import Frames, Problem

COUNT, BAD, FRAMES = 5, 2, 3
LARGE = 1e38


def everywhere(value: float) -> Callable[[Frames], None]:
    def spoil(state: Frames) -> None:
        state[...] = value

    return spoil


def at_a_point(value: float) -> Callable[[Frames], None]:
    def spoil(state: Frames) -> None:
        state[(1,) * (state.ndim - 1)] = value

    return spoil


SPOILED: Mapping[str, Callable[[Frames], None]] = {
    "nan": everywhere(np.nan),
    "one nan": at_a_point(np.nan),
    "inf": everywhere(np.inf),
    "one -inf": at_a_point(-np.inf),
    "large": everywhere(LARGE),
    "one large": at_a_point(LARGE),
    "one -large": at_a_point(-LARGE),
    "zero": everywhere(0.0),
}


def drawn(entry: Family) -> tuple[Problem, Frames, Frames | None]:
    rng, grid = np.random.default_rng(3), entry.default_grid(32 if entry.ndim == 1 else 16)
    drawn_together = entry.sample_coefficients(rng)
    coefficients = entry.complete(drawn_together or {})
    each = {name: np.full(COUNT, value) for name, value in coefficients.items()}
    states = entry.fit_initial(entry.sample_initial(rng, COUNT, grid), each).astype(np.float32)
    static = entry.sample_static(rng, COUNT, grid)
    problem = Problem(entry.id, coefficients, grid, entry.boundary, entry.dt)
    return problem, states, None if static is None else static.astype(np.float32)


def run(problem: Problem, states: Frames, static: Frames | None, rows: slice = slice(None)) -> Array:
    session = Numerical().session(problem, states[rows], None if static is None else static[rows])
    return np.stack([session.step() for _ in range(FRAMES)], axis=1)


GOOD = [row for row in range(COUNT) if row != BAD]


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
@pytest.mark.parametrize("entry", families().values(), ids=families())
def test_a_bad_row_spoils_no_other(entry: Family, spoil: Callable[[Frames], None]) -> None:
    problem, states, static = drawn(entry)
    spoil((static if entry.t_final == 0.0 and static is not None else states)[BAD])
    together = run(problem, states, static)
    alone = np.concatenate([run(problem, states, static, slice(row, row + 1)) for row in GOOD])
    assert np.isfinite(alone).all()
    scale = np.abs(alone).max(axis=tuple(range(alone.ndim - 1)))
    # Some solvers share the steps of the hardest, within their accuracy.
    np.testing.assert_allclose(together[GOOD] / scale, alone / scale, rtol=0, atol=2e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, LARGE])
def test_rows_of_a_flow_share_memory_and_nothing_else(value: float) -> None:
    """To the bit, where what stands in a row is not seen from outside; the solver itself, nobody beside it."""
    entry = family("incompressible_ns_2d")
    problem, states, static = drawn(entry)
    states[BAD] = value
    nu = np.full(COUNT, 0.01)
    with np.errstate(all="ignore"):
        assert static is not None
        together = incompressible_solution(states.astype(np.float64), problem.grid, nu, static.astype(np.float64))
        found = together.advance(0.01)
    for row in GOOD:
        one = slice(row, row + 1)
        alone = incompressible_solution(states[one].astype(float), problem.grid, nu[one], static[one].astype(float))
        np.testing.assert_allclose(found[row], alone.advance(0.01)[0], rtol=0, atol=1e-12)


UNSOLVABLE: Mapping[str, tuple[dict[str, list[float]], float, str]] = {
    "burgers": ({"nu": [0.1, 0.1, 1e-11, 0.1, 0.1]}, 1.0, "the shocks of this state are too thin"),
    "diffusion_reaction_2d": ({}, 1e9, "the reaction of this state is too fast"),
    "shallow_water": ({}, -1.0, "the depth must be positive everywhere"),
    "compressible_ns_1d": ({}, -1.0, "density and pressure must be positive everywhere"),
}


def unsolvable(name: str, rows: list[int]) -> NumericalSession:
    coefficients, factor, _ = UNSOLVABLE[name]
    problem, states, _ = drawn(family(name))
    states[BAD] *= np.float32(factor)
    chosen = {key: [values[row] for row in rows] for key, values in coefficients.items()}
    session = Numerical().session(
        Problem(name, {**problem.coefficients, **chosen}, problem.grid, problem.boundary, problem.dt), states[rows]
    )
    assert isinstance(session, NumericalSession)
    return session


@pytest.mark.parametrize("name", UNSOLVABLE)
def test_what_cannot_be_solved_ends_by_itself_and_says_why(name: str) -> None:
    session, survivors = unsolvable(name, list(range(COUNT))), Survivors((), COUNT)
    first = session.step()
    assert np.isnan(first[BAD]).all()
    assert np.isfinite(first[GOOD]).all()
    (ended,) = survivors.check(1, first, why=session.why_ended())
    assert (ended.states, ended.reason) == ((BAD,), "not_finite")
    assert ended.words.startswith(f"{NOT_FINITE}: {UNSOLVABLE[name][2]}")
    assert np.isfinite(session.step()[GOOD]).all()


@pytest.mark.parametrize("name", UNSOLVABLE)
def test_where_nothing_can_be_solved_the_request_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=UNSOLVABLE[name][2]):
        unsolvable(name, [BAD, BAD]).step()


def test_each_reason_is_said_once() -> None:
    values = np.zeros((4, 3, 1), dtype=np.float32)
    values[1:] = np.nan
    found = Survivors((), 6).check(2, values, first=2, why={1: "a", 3: "a"})
    assert [(ended.states, ended.words) for ended in found] == [((3, 5), "a"), ((4,), NOT_FINITE)]


@pytest.mark.parametrize("masked", [np.nan, 0.0])
@pytest.mark.parametrize("name", ["evolution_1d", "diffusion_reaction_2d", "compressible_ns_1d", "burgers"])
def test_a_batch_that_lost_a_row_goes_on_elsewhere_to_the_same_bits(name: str, masked: float) -> None:
    problem, states, _ = drawn(family(name))
    states[BAD] = np.nan
    here, there = (Numerical().session(problem, states) for _ in range(2))
    assert isinstance(here, NumericalSession)
    assert isinstance(there, NumericalSession)
    here.step()
    saved = here.saved().copy()
    saved[BAD] = masked
    there.restore(1, saved)
    for _ in range(2):
        np.testing.assert_array_equal(there.step(), here.step())
    np.testing.assert_array_equal(there.saved(), here.saved())


class Fragile(Stepped):
    """v' = 1; breaks, all of it, where a value passes 2."""

    def __init__(self, initial: Array, error: Exception | None) -> None:
        super().__init__(initial)
        self.v, self.error = initial.copy(), error

    def _carried(self) -> list[Array]:
        return [self.v]

    def _advance(self, elapsed: float) -> Array:
        self.v = self.v + (elapsed - self.elapsed)
        if (self.v > 2.0).any():
            if self.error is not None:
                raise self.error
            return np.full_like(self.v, np.nan)
        return self.v


@pytest.mark.parametrize("error", [None, UserError("not_resolved", "too far"), ZeroDivisionError("broken")])
def test_rows_end_one_after_another(error: Exception | None) -> None:
    initial = np.array([0.0, 1.5, 0.9, 1.6, 0.1, 0.2])[:, None, None]

    def begin(rows: Rows) -> Solution:
        return Fragile(initial[rows], error)

    whole = Independent(initial, np.arange(6) != 5, begin)
    again = Independent(initial, np.arange(6) != 5, begin)
    expected = [[0.5, 2.0, 1.4, None, 0.6, None], [1.0, None, 1.9, None, 1.1, None], [1.5, None, None, None, 1.6, None]]
    for step, row in enumerate(expected, start=1):
        states = whole.advance(0.5 * step)
        np.testing.assert_allclose(states[:, 0, 0], np.array(row, dtype=float))
        if step < 3:
            again = Independent(initial, np.arange(6) != 5, begin)
            again.restore(0.5 * step, whole.saved())
    np.testing.assert_array_equal(again.advance(1.5), states)
    refusals = {1: 1.5, 2: 0.9, 3: 1.6} if error is not None else {}
    assert set(whole.refused) == set(refusals)


def test_what_breaks_on_everything_is_no_matter_of_a_row() -> None:
    initial = np.full((3, 1, 1), 3.0)
    whole = Independent(initial, np.full(3, True), lambda rows: Fragile(initial[rows], RuntimeError("a fault of ours")))
    with pytest.raises(RuntimeError, match="a fault of ours"):
        whole.advance(0.5)


def test_what_was_saved_otherwise_is_not_gone_on_from() -> None:
    initial = np.zeros((2, 1, 1))
    whole = Independent(initial, np.full(2, True), lambda rows: Fragile(initial[rows], None))
    with pytest.raises(ValueError, match="was not saved"):
        whole.restore(0.5, np.full((2, 2), 0.25))
