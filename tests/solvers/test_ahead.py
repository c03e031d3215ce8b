"""A longer time ahead: so many steps of a solver, or one call of one that takes any time."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from ups_server.errors import UserError
from ups_server.pde import family
from ups_server.solvers.ahead import Ahead, ahead
from ups_server.solvers.solver import Frames, Problem, Session


@dataclass
class Growing:
    """``u exp(dt)`` in every step."""

    own: float = 0.25
    asked: list[float] = field(default_factory=list)
    name = "growing"

    def dt(self, family_id: str) -> float:
        return self.own

    def session(self, problem: Problem, initial: Frames, static: Frames | None = None) -> Session:
        self.asked.append(problem.dt)
        return GrowingSession(initial, problem.dt)

    def one_step(self, problem: Problem, truth: Frames, static: Frames | None = None) -> Frames | None:
        return truth[:, :-1] * np.float32(np.exp(problem.dt))


@dataclass
class GrowingSession:
    state: Frames
    dt: float

    def step(self) -> Frames:
        self.state = self.state * np.float32(np.exp(self.dt))
        return self.state


class AtOnce(Growing):
    def horizon(self, family_id: str) -> float:
        return 0.6


def problem(dt: float) -> Problem:
    entry = family("burgers")
    return Problem(entry.id, entry.complete(None), entry.default_grid(8), entry.boundary, dt)


STATES = np.arange(1, 17, dtype=np.float32).reshape(2, 1, 8, 1)


@pytest.mark.parametrize(("solver", "calls"), [(Growing(), 4), (AtOnce(), 2), (Growing(own=1.0), 1)])
def test_the_last_state_is_reached_by_equal_steps(solver: Growing, calls: int) -> None:
    far = ahead(solver, "burgers", 1.0)
    assert isinstance(far, Ahead)
    assert (far.name, far.dt("burgers")) == ("growing", 1.0)
    session = far.session(problem(1.0), STATES[:, 0])
    np.testing.assert_allclose(session.step(), STATES[:, 0] * np.e, rtol=1e-5)
    np.testing.assert_allclose(session.step(), STATES[:, 0] * np.e**2, rtol=1e-5)
    assert solver.asked == [1.0 / calls]
    truth = np.concatenate([STATES, STATES], axis=1)
    found = far.one_step(problem(1.0), truth)
    assert found is not None
    np.testing.assert_allclose(found, STATES * np.e, rtol=1e-5)


def test_between_more_than_two_states_steps_are_not_repeated() -> None:
    truth = np.repeat(STATES, 3, axis=1)
    assert ahead(Growing(), "burgers", 1.0).one_step(problem(1.0), truth) is None
    found = ahead(Growing(own=1.0), "burgers", 1.0).one_step(problem(1.0), truth)
    assert found is not None
    assert found.shape == (2, 2, 8, 1)


def test_what_steps_do_not_reach_is_refused() -> None:
    for dt in (0.3, 0.1):
        with pytest.raises(UserError) as caught:
            ahead(Growing(), "burgers", dt)
        assert caught.value.code == "dt_mismatch"
