"""The super-resolution benchmark on an operator whose errors are known: the exact shift, and persistence."""

import pytest

from benchmarks import superres
from ups_server.pde import family
from ups_server.solvers.classical import Numerical, Persistence
from ups_server.solvers.solver import Solver


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(superres, "FINEST", {1: 128, 2: 32})
    monkeypatch.setattr(superres, "STEPS", {1: 3, 2: 2})


@pytest.mark.parametrize("solver", [Numerical(), Persistence()])
def test_exact_solver_is_exact_on_every_grid_and_loses_what_was_not_observed(solver: Solver) -> None:
    asked = superres.ask(solver, 32, family("advection"), {"beta": 0.4}, 2)
    assert [entry.points for entry in asked] == [(32,), (64,), (128,)]
    for entry in asked[1:]:
        errors = entry.answers
        assert errors["interpolated truth"].one_step > 0
        if isinstance(solver, Numerical):
            # A step of 0.02 boxes is no whole number of cells: the highest mode of a subsample is lost.
            assert errors["resolution-free"].one_step < 1e-3
            assert errors["observed coarsely"].one_step > errors["resolution-free"].one_step
            assert errors["interpolated"].one_step > errors["resolution-free"].one_step


def test_two_dimensions_are_asked_on_grids_that_are_not_square() -> None:
    asked = superres.ask(Persistence(), 16, family("shallow_water"), {}, 1)
    assert [entry.points for entry in asked] == [(16, 16), (32, 32), (32, 16), (16, 32)]
    assert all(entry.answers["resolution-free"].one_step > 0 for entry in asked)


def test_verdict_is_about_the_worst_grid() -> None:
    def errors(value: float) -> superres.Errors:
        return superres.Errors(value, value, {}, {})

    def asked(n: int, free: float, interpolated: float) -> superres.Asked:
        answers = {"resolution-free": errors(free), "observed coarsely": errors(free)}
        answers["interpolated"] = errors(interpolated)
        return superres.Asked("advection beta=1", (n,), (32,), answers)

    (line,) = superres.verdicts([asked(32, 1.0, 1.0), asked(64, 1.05, 2.0), asked(128, 1.08, 2.0)])
    assert "1.08x" in line
    assert "goal 1.1x: met" in line
    assert "can be the default" in line
    (worse,) = superres.verdicts([asked(32, 1.0, 1.0), asked(64, 2.5, 2.0), asked(128, 1.0, 2.0)])
    assert "NOT met" in worse
    assert "must NOT be the default" in worse
