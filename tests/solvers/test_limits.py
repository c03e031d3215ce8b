"""Where answers of a trained model end: its equation's bounds, and the training left by far. Imports no torch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.rollout.planning import observed, planned, write_card
from ups_server.catalog import Catalog, shipped_folder
from ups_server.pde.bounds import SLACK
from ups_server.rollout.plan import Plan, plan
from ups_server.settings import Settings
from ups_server.solvers.limits import SMALLEST, Ended, StateLimit, Survivors
from ups_server.solvers.solver import Frames
from ups_server.specs import RolloutRequest


def by_measure(todo: Plan) -> dict[tuple[str, str], tuple[float, ...]]:
    return {(limit.reason, limit.measure): limit.values for limit in todo.spec.limits}


def test_a_trained_model_has_limits_and_a_solver_none(tmp_path: Path) -> None:
    write_card(tmp_path)
    state = {"values": [-1.0, 2.0] * 16}
    found = by_measure(planned(tmp_path, initial_condition=state))
    assert found == {
        ("outside_bounds", "least"): (pytest.approx(-1.0 - 3.0 * SLACK),),
        ("outside_bounds", "greatest"): (pytest.approx(2.0 + 3.0 * SLACK),),
        ("outside_trained_range", "least"): (-9.0,),
        ("outside_trained_range", "greatest"): (9.0,),
    }
    assert planned(tmp_path, model="numerical", initial_condition=state).spec.limits == ()


def test_limits_are_those_of_each_state(tmp_path: Path) -> None:
    """Of a state beyond the training, its own range counts; a constant one may err by a share of the training's."""
    write_card(tmp_path)
    rows = [[-1.0, 1.0] * 16, [0.0, 12.0] * 16, [0.0] * 32]
    found = by_measure(planned(tmp_path, initial_condition={"values": rows}))
    slack = SLACK * SMALLEST * 6.0
    assert found["outside_bounds", "greatest"] == pytest.approx((1.0 + 2 * SLACK, 12.0 + 12 * SLACK, slack))
    assert found["outside_trained_range", "greatest"] == pytest.approx((9.0, 12.0 + 15.0, 9.0))


def test_a_rollout_in_this_process_ends_state_by_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Growing:
        def __init__(self, state: Frames) -> None:
            self.state = state

        def step(self) -> Frames:
            self.state = (self.state * np.array([1.0, 2.0, 1.1])[:, None, None]).astype(np.float32)
            return self.state

    class Solver:
        def session(self, problem: object, initial: Frames, static: object) -> Growing:
            return Growing(initial)

    monkeypatch.setattr("ups_server.engine.local.load", lambda source, device: Solver())
    write_card(tmp_path)
    todo = planned(tmp_path, initial_condition={"values": [[-1.0, 1.0] * 16] * 3}, n_steps=6)
    states, observation = observed(todo)
    frames = np.stack(states)
    assert frames.shape == (7, 3, 32, 1)
    assert np.isfinite(frames[:, 0]).all()
    assert np.isfinite(frames[:1, 1]).all()
    assert np.isnan(frames[1:, 1]).all()
    assert np.isnan(frames[4:, 2]).all(), "1.1^4 is beyond 1.4"
    assert np.isfinite(frames[:4, 2]).all()
    told = observation.attributes()
    flags = [flag for flag in told["flags"] if flag["code"] == "blow_up"]
    assert [(flag["step"], flag["states"], flag["reason"]) for flag in flags] == [
        (1, [1], "outside_bounds"),
        (4, [2], "outside_bounds"),
    ]
    assert flags[0]["limit"] == pytest.approx(-1.4)
    assert flags[0]["got"] == pytest.approx(-2.0)
    assert "u of state 1 left its bounds (maximum principle" in flags[0]["message"]
    assert [ending["states"] for ending in told["diagnostics"]["endings"]] == [[1], [2]]


def test_what_a_flag_tells_is_in_the_units_of_the_request(tmp_path: Path) -> None:
    write_card(tmp_path)
    todo = planned(tmp_path, grid={"extent": [[0.0, 2.0]]})
    event = Ended(2, (0,), (0,), "outside_bounds", "a bound", got=3.0, limit=1.5)
    assert todo.ended_flag(event).model_dump()["got"] == 6.0
    assert todo.ended_flag(event).model_dump()["limit"] == 3.0


def test_a_state_ends_once_for_the_first_reason() -> None:
    limits = [
        StateLimit(0, "greatest", (2.0,), "outside_bounds", "first"),
        StateLimit(1, "rms", (5.0, 1.0), "outside_trained_range", "second"),
    ]
    values = np.zeros((2, 8, 2), dtype=np.float32)
    values[1, :, 1] = -1.5
    kept = Survivors(limits, 2)
    assert kept.check(1, values[1:], first=0) == []
    assert kept.check(1, values) == [Ended(1, (1,), (1,), "outside_trained_range", "second", 1.5, 1.0)]
    values[:, 3, 0] = 9.0
    values[0, 2, 1] = np.inf
    assert kept.check(2, values) == [Ended(2, (1,), (0,))]
    assert not kept.alive.any()
    assert np.isnan(kept.masked(values)).all()


def ended(family: str, n_steps: int, **changes: object) -> tuple[Plan, Frames, list[dict[str, Any]]]:
    """Plan and frames of a default request to the shipped model, and the flags that say where its states end."""
    document = {"family": family, "n_steps": n_steps, "initial_condition": {"sample": {"seed": 0}}, **changes}
    todo = plan(RolloutRequest.model_validate(document, strict=False), Catalog(shipped=shipped_folder()), Settings())
    with np.errstate(all="ignore"):
        frames, observation = observed(todo)
    return todo, np.stack(frames), [flag for flag in observation.attributes()["flags"] if flag["code"] == "blow_up"]


@pytest.mark.slow
def test_no_answer_of_the_shipped_model_is_beyond_its_bounds() -> None:
    """Asked for what it was not trained on, it answered with densities of 1e10, and concentrations of 16."""
    many = {"sample": {"seed": 0, "count": 24}}
    _, frames, flags = ended("compressible_ns_1d", 20, coefficients={"eta": 0.4}, initial_condition=many)
    going = np.asarray(np.isfinite(frames).all(axis=(2, 3)))
    assert going.sum() == sum(flag["step"] * len(flag["states"]) for flag in flags) + 21 * going[-1].sum()
    mass = frames[..., 1].mean(2, dtype=np.float64)
    allowed = (1.0 + SLACK) * np.broadcast_to(mass[0], mass.shape)
    assert (mass[going] <= allowed[going] + 1e-6).all()
    todo, frames, flags = ended("diffusion_sorption", 500)
    codes = {flag.code: flag.model_dump() for flag in todo.flags}
    assert codes["horizon_beyond_training"]["distance"] == pytest.approx(24.0)
    assert frames.max() <= 1.0 + SLACK
    assert frames.min() >= -SLACK
    assert len(frames) == 501 or flags


@pytest.mark.slow
@pytest.mark.parametrize("name", ["advection", "burgers", "diffusion_sorption"])
def test_healthy_answers_of_the_shipped_model_are_not_ended(name: str) -> None:
    _, _, flags = ended(name, 20, initial_condition={"sample": {"seed": 0, "count": 12}})
    assert not flags
