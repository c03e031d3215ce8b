"""A trained model behind the solver interface."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.small_models import SMALL, card, make
from ups_server.errors import UserError
from ups_server.model.checkpoint import save_pretrained
from ups_server.pde import BoundaryCondition, BoundaryKind, Grid
from ups_server.pde.resampling import resample
from ups_server.solvers.neural import UPSSolver
from ups_server.solvers.registry import load
from ups_server.solvers.solver import Problem, rollout

PERIODIC = BoundaryCondition.uniform(BoundaryKind.PERIODIC, 1)


@pytest.fixture(scope="module")
def solver(language_model: Path) -> UPSSolver:
    return UPSSolver(make(SMALL.changed(families={"burgers": card()}), language_model))


@pytest.fixture(scope="module")
def finer(language_model: Path) -> UPSSolver:
    """The same weights; what has fewer than 60 points is stepped on more."""
    entry = card().model_copy(update={"points": 60})
    return UPSSolver(make(SMALL.changed(families={"burgers": entry}), language_model))


@pytest.fixture(scope="module")
def trained_fine(language_model: Path) -> UPSSolver:
    """The same weights, trained on 60 points: on what `finer` steps on."""
    entry = card()
    entry = entry.model_copy(update={"statistics": entry.statistics.model_copy(update={"n": 60})})
    return UPSSolver(make(SMALL.changed(families={"burgers": entry}), language_model))


def problem(nu: float | list[float] = 0.01, dt: float = 0.05, n: int = 32) -> Problem:
    return Problem("burgers", {"nu": nu}, Grid((n,), ((0.0, 1.0),)), PERIODIC, dt)


def states(count: int, n: int = 32) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    x = np.arange(n) / n
    return np.stack([np.sin(2 * np.pi * (x + k / 7)) for k in range(count)]).astype(np.float32)[..., None]


def test_rollout_agrees_with_one_step(solver: UPSSolver) -> None:
    initial = states(2)
    frames = np.stack([initial, *rollout(solver.session(problem(), initial), 3)], axis=1)
    again = solver.one_step(problem(), frames)
    assert again is not None
    np.testing.assert_allclose(again, frames[:, 1:], atol=1e-5)


def test_batched_equals_single(solver: UPSSolver) -> None:
    initial, nu = states(3), [0.001, 0.02, 0.4]
    together = list(rollout(solver.session(problem(nu), initial), 4))[-1]
    alone = [list(rollout(solver.session(problem(nu[i]), initial[i : i + 1]), 4))[-1] for i in range(3)]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-4)


def test_what_it_does_not_know_is_refused(solver: UPSSolver) -> None:
    with pytest.raises(UserError, match="not trained on heat"):
        solver.dt("heat")
    with pytest.raises(UserError, match="own dt"):
        solver.session(problem(dt=0.1), states(1))


def test_loads_from_a_folder(solver: UPSSolver, tmp_path: Path) -> None:
    save_pretrained(solver.model, tmp_path / "small")
    loaded = load(tmp_path / "small", device="cpu")
    initial = states(1)
    expected, got = (next(rollout(s.session(problem(), initial), 1)) for s in (solver, loaded))
    np.testing.assert_allclose(got, expected, atol=2e-2)


def test_a_model_that_reads_again_reads_the_state_it_reached(language_model: Path) -> None:
    config = SMALL.changed(families={"burgers": card()})
    once, again = (UPSSolver(make(config.changed(refresh=k), language_model)) for k in (0, 2))
    initial = states(2)
    rolled = [np.stack(list(rollout(s.session(problem(), initial), 4)), axis=1) for s in (once, again)]
    np.testing.assert_array_equal(rolled[0][:, :2], rolled[1][:, :2])
    assert np.abs(rolled[0][:, 2:] - rolled[1][:, 2:]).max() > 1e-6
    # Every two steps are a rollout of their own.
    parts = [initial, rolled[1][:, 1]]
    restarted = [np.stack(list(rollout(once.session(problem(), part), 2)), axis=1) for part in parts]
    np.testing.assert_allclose(np.concatenate(restarted, axis=1), rolled[1], atol=1e-5)
    frames = np.concatenate([initial[:, None], rolled[1]], axis=1)
    one_step = again.one_step(problem(), frames)
    assert one_step is not None
    np.testing.assert_allclose(one_step, rolled[1], atol=1e-5)


def test_a_coarse_periodic_state_is_stepped_on_a_finer_grid(trained_fine: UPSSolver, finer: UPSSolver) -> None:
    """A family with `points`: the rollout of the interpolated state, at the points that were asked for."""
    initial = np.random.default_rng(0).normal(size=(3, 32, 1)).astype(np.float32)
    fine = Grid((64,), ((0.0, 1.0),), (1.0,))
    spread = resample(initial, problem().grid, fine, PERIODIC)
    np.testing.assert_allclose(spread[:, ::2], initial, atol=1e-6)
    expected = [frame[:, ::2] for frame in rollout(trained_fine.session(replace(problem(), grid=fine), spread), 3)]
    got = list(rollout(finer.session(problem(), initial), 3))
    np.testing.assert_array_equal(got, expected)
    plain = list(rollout(trained_fine.session(problem(), initial), 3))
    assert np.abs(np.stack(plain) - np.stack(got)).max() > 1e-4

    one_step = finer.one_step(problem(), np.stack([initial, got[0]], axis=1))
    assert one_step is not None
    np.testing.assert_allclose(one_step[:, 0], got[0], atol=1e-6)

    session = finer.session(problem(), initial)
    parts = [next(rollout(part, 1)) for part in session.split(2)]
    np.testing.assert_allclose(np.concatenate(parts), got[0], atol=1e-5)

    batch = session.batch([finer.session(problem(), initial)])
    batch.launch([False])()
    (kept,) = batch.saved([True])()
    assert kept is not None
    later = finer.session(problem(), initial)
    later.restore(1, kept)
    np.testing.assert_allclose(later.step(), got[1], atol=1e-5)


def test_fine_states_and_bounded_boxes_are_stepped_as_they_are(trained_fine: UPSSolver, finer: UPSSolver) -> None:
    walls = BoundaryCondition.uniform(BoundaryKind.NO_FLUX, 1)
    for asked, n in ((problem(n=64), 64), (replace(problem(), boundary=walls), 32)):
        expected, got = (next(rollout(s.session(asked, states(2, n)), 1)) for s in (trained_fine, finer))
        np.testing.assert_array_equal(got, expected)
