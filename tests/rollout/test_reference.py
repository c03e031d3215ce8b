"""What errors are measured against: right to what it says of itself, or it says that it is not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.rollout.planning import observed, planned, write_card
from ups_server.catalog import Catalog
from ups_server.pde import Grid, family
from ups_server.rollout.plan import Plan, plan
from ups_server.rollout.reference import Reference, ResolutionLevel, compared, comparison_flags
from ups_server.settings import Settings
from ups_server.specs import RolloutRequest


def independent(todo: Plan, factor: int, seed: int) -> np.ndarray:
    """In one go on an odd number of times the points: (1, T, X..., C) of a drawn state, at those asked for."""
    equation, n = todo.family, todo.grid.n
    grid = Grid(tuple(factor * points for points in n), equation.extent)
    states = equation.sample_initial(np.random.default_rng(seed), 1, grid)
    coefficients = {name: np.array([value]) for name, value in todo.coefficients.items()}
    states = equation.fit_initial(states, coefficients)
    times = np.arange(todo.n_frames) * todo.dt * todo.request.save_every
    every = (slice(None), slice(None), *(slice(factor // 2, None, factor) for _ in n))
    return equation.solve(states, times.astype(np.float64), grid, coefficients)[every]


def reported(todo: Plan) -> dict[str, Any]:
    """What an answer by persistence says of its reference."""
    found: dict[str, Any] = observed(todo)[1].attributes()["reference"]
    return found


def first_level(todo: Plan) -> ResolutionLevel:
    level = Reference(todo, [todo.states(todo.initial)] * todo.n_frames, 1e9).next_level()
    assert level is not None
    return level


def reference_frames(todo: Plan) -> np.ndarray:
    reference = observed(todo)[1].reference
    assert reference is not None
    return np.stack(reference.frames, axis=1)


def distance(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.linalg.norm((found - truth)[:, 1:]) / np.linalg.norm(truth[:, 1:]))


@pytest.mark.parametrize("seed", [100, 101, 1, 3, 17, 29])
def test_shocks_on_128_points_are_right(tmp_path: Path, seed: int) -> None:
    """Rectified and windowed states among them."""
    todo = planned(
        tmp_path, model="persistence", coefficients={"nu": 0.001}, grid={"n": [128]}, n_steps=10, reference=True,
        initial_condition={"sample": {"seed": seed}},
    )  # fmt: skip
    assert distance(reference_frames(todo), independent(todo, 9, seed)) < 2e-3


@pytest.mark.parametrize(
    ("name", "n", "steps", "factor"),
    [
        ("advection", 64, 3, 17),
        ("diffusion_sorption", 64, 2, 17),
        ("diffusion_reaction_1d", 64, 2, 9),
        ("compressible_ns_1d", 64, 2, 15),
        pytest.param("shallow_water", 32, 4, 9, marks=pytest.mark.slow),
        pytest.param("compressible_ns_2d", 24, 1, 5, marks=pytest.mark.slow),
    ],
)
def test_it_is_as_near_as_it_says(tmp_path: Path, name: str, n: int, steps: int, factor: int) -> None:
    ndim = family(name).ndim
    todo = planned(
        tmp_path, model="persistence", family=name, grid={"n": [n] * ndim}, n_steps=steps, reference=True,
        initial_condition={"sample": {"seed": 4}},
    )  # fmt: skip
    found = reported(todo)
    assert found["settled"] is True
    assert found["complete"]
    assert max(found["points"]) >= 2 * family(name).reference_points
    assert distance(reference_frames(todo), independent(todo, factor, 4)) < max(3 * found["error"], 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "nu"), [(7, 0.001), (1, 0.001), (1, 0.002)])
def test_the_true_error_of_the_shipped_model_is_true(seed: int, nu: float) -> None:
    document = {
        "model": "ups-mini", "family": "burgers", "coefficients": {"nu": nu}, "grid": {"n": [128]}, "n_steps": 20,
        "initial_condition": {"sample": {"seed": seed}}, "reference": True,
    }  # fmt: skip
    todo = plan(RolloutRequest.from_json(json.dumps(document)), Catalog(), Settings())
    frames, observation = observed(todo)
    predicted = np.stack(frames, axis=1)
    true = distance(predicted, independent(todo, 9, seed))
    assert 0.95 < observation.attributes()["reference"]["nrmse_trajectory"] / true < 1.05


def test_a_state_that_was_given_is_interpolated(tmp_path: Path) -> None:
    x = (np.arange(32) + 0.5) / 32
    wave = {"values": (1.0 + np.sin(2 * np.pi * x)).tolist()}
    todo = planned(tmp_path, model="persistence", initial_condition=wave, reference=True)
    found, level = reported(todo), first_level(todo)
    assert found["start"] == "the given state, interpolated"
    assert found["points"] == [2048]
    assert found["error"] < 1e-6
    fine = level.spec.problem.grid.axes[0]
    np.testing.assert_allclose(level.initial[0, :, 0], 1.0 + np.sin(2 * np.pi * fine), atol=1e-6)


def test_a_sample_is_drawn_again(tmp_path: Path) -> None:
    todo = planned(tmp_path, model="persistence", reference=True, initial_condition={"sample": {"seed": 3, "count": 2}})
    found, level = reported(todo), first_level(todo)
    assert "same sample" in found["start"]
    assert np.shape(found["error"]) == (2,)
    drawn = family("burgers").sample_initial(np.random.default_rng(3), 2, level.spec.problem.grid)
    np.testing.assert_allclose(level.initial, drawn, atol=1e-6)
    np.testing.assert_allclose(level.initial[(slice(None), *level.places)], todo.initial, atol=1e-6)


@pytest.mark.parametrize("name", ["diffusion_reaction_2d", "incompressible_ns_2d"])
def test_an_equation_of_its_grid_is_solved_there(tmp_path: Path, name: str) -> None:
    todo = planned(tmp_path, model="persistence", family=name, grid={"n": [16, 16]}, n_steps=2, reference=True)
    found = reported(todo)
    assert (found["points"], found["error"], found["settled"], found["complete"]) == ([16, 16], None, None, True)
    assert family(name).grid_bound in found["accuracy"]


def test_without_the_time_to_agree_it_says_so(tmp_path: Path) -> None:
    """And does not blame the model: what is reported has a flag that says how far it can be trusted."""
    write_card(tmp_path)
    todo = planned(tmp_path, reference=True, n_steps=2)
    frames = [todo.states(todo.initial)] * 3
    reference = Reference(todo, frames, budget=1e9)
    for shift in (0.0, 0.5):
        level = reference.next_level()
        assert level is not None
        for _ in frames[1:]:
            reference.add(level.initial + np.float32(shift))
    reference.budget = 0.0
    assert reference.next_level() is None
    found = compared(todo, frames, reference, 1.0)[0]
    assert found.settled is False
    assert "too far to tell" in found.accuracy
    assert "would have taken" in found.accuracy
    assert found.error > 0.1
    assert comparison_flags(found)[0].code == "reference_not_settled"


def test_a_finer_grid_that_fails_leaves_the_coarser_one(tmp_path: Path) -> None:
    write_card(tmp_path)
    todo = planned(tmp_path, reference=True, n_steps=2)
    frames = [todo.states(todo.initial)] * 3
    reference = Reference(todo, frames, budget=1e9)
    for _ in range(2):
        level = reference.next_level()
        assert level is not None
        reference.add(level.initial)
        if len(reference.levels) == 1:
            reference.add(level.initial)
    reference.give_up("the solver took too long")
    found = compared(todo, frames, reference, 1.0)[0]
    assert (found.complete, found.settled, len(found.nrmse)) == (True, False, 3)
    assert "not known: the solver took too long" in found.accuracy


def test_it_goes_no_further_than_the_rollout(tmp_path: Path) -> None:
    write_card(tmp_path)
    todo = planned(tmp_path, reference=True, n_steps=9)
    alone = Reference(todo, [todo.states(todo.initial)], budget=1e9)
    alone.end()
    assert alone.next_level() is None
    assert compared(todo, alone.predictions, alone, 1.0)[0].nrmse == [0.0]
    reference = Reference(todo, [todo.states(todo.initial)] * 3, budget=1e9)
    reference.end()
    level = reference.next_level()
    assert level is not None
    assert reference.add(level.initial)
    assert not reference.add(level.initial)


def test_beside_a_rollout_two_resolutions_need_no_errors_of_it(tmp_path: Path) -> None:
    write_card(tmp_path)
    todo = planned(tmp_path, reference=True, n_steps=2)
    frames = [todo.states(todo.initial)]
    reference = Reference(todo, frames, budget=1e9)
    for _ in range(2):
        assert not reference.undecided
        level = reference.next_level()
        assert level is not None
        assert reference.add(level.initial)
        assert not reference.add(level.initial), "as many frames as were planned"
        level.close()
    assert reference.undecided
    frames += frames
    reference.end()
    found = compared(todo, frames, reference, 1.0)[0]
    assert (found.complete, found.error, len(found.nrmse)) == (True, pytest.approx(0.0, abs=1e-6), 2)
    assert reference.levels[-1].seconds is None, "it was measured over more frames than there are"


def test_what_it_waits_for_is_not_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_card(tmp_path)
    todo = planned(tmp_path, reference=True, n_steps=2)
    clock = [0.0]
    monkeypatch.setattr("ups_server.rollout.reference.time.monotonic", lambda: clock[0])
    reference = Reference(todo, [todo.states(todo.initial)] * 3, budget=60.0)
    level = reference.next_level()
    assert level is not None
    clock[0] = 2.0
    level.close()
    clock[0] = 1000.0
    assert reference.remaining == 58.0
