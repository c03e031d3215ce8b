"""Answers on finer grids: the same observed points by both ways, and words that count them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.rollout.planning import observed, planned, write_card
from ups_server.catalog import TABLE_FILE
from ups_server.errors import UserError
from ups_server.pde import Grid, family
from ups_server.rollout.plan import Plan
from ups_server.rollout.reference import reference_spec, start_in_words, states_at
from ups_server.specs import Method, SuperResolution

FREE, INTERPOLATED = "resolution-free", "interpolation"


def wave(n: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    x = (np.arange(n) + 0.5) / n
    return np.asarray(np.sin(2 * np.pi * x) + 0.3 * np.cos(6 * np.pi * x))


def summary(todo: Plan) -> SuperResolution:
    assert todo.refined is not None
    return todo.refined.summary


@pytest.mark.parametrize("points", [64, 96, 100, 33, 32])
def test_both_methods_show_the_given_points_and_hit_the_wave_between_them(tmp_path: Path, points: int) -> None:
    write_card(tmp_path)
    for method in (FREE, INTERPOLATED):
        todo = planned(
            tmp_path, initial_condition={"values": wave(32).tolist()}, output_resolution=[points], method=method
        )
        assert todo.shape == (1, 4, points, 1)
        assert todo.grid.n == (points,)
        engine_points = points if method == FREE else 32
        assert todo.initial.shape == (1, engine_points, 1)
        assert todo.spec.problem.grid.n == (engine_points,)
        np.testing.assert_allclose(todo.answer_values(todo.initial)[0, :, 0], wave(points), atol=2e-3)


def test_a_rectangle_of_any_sizes(tmp_path: Path) -> None:
    entry = family("compressible_ns_2d")
    states = entry.sample_initial(np.random.default_rng(0), 1, entry.default_grid(32))[0].tolist()
    for method in (FREE, INTERPOLATED):
        todo = planned(
            tmp_path, model="persistence", family=entry.id, initial_condition={"values": states},
            output_resolution=[48, 33], method=method,
        )  # fmt: skip
        fine = Grid((48, 33), entry.extent)
        exact = entry.sample_initial(np.random.default_rng(0), 1, fine)
        found = todo.answer_values(todo.initial)
        assert found.shape == (1, 48, 33, 4)
        assert np.abs(found - exact).max() < 0.02 * np.abs(exact).max()


def test_methods_agree_where_the_solver_is_exact(tmp_path: Path) -> None:
    """Advection is solved exactly on any grid: what differs is the spline's error alone."""
    answers = []
    for method in (FREE, INTERPOLATED):
        todo = planned(
            tmp_path, model="numerical", family="advection", initial_condition={"values": wave(64).tolist()},
            output_resolution=[150], method=method, n_steps=4,
        )  # fmt: skip
        answers.append(np.stack([todo.answer_values(values) for values in observed(todo)[0]]))
    assert answers[0].shape == (5, 1, 150, 1)
    np.testing.assert_allclose(answers[0], answers[1], atol=2e-3)


def test_another_box_is_rescaled_before_and_after(tmp_path: Path) -> None:
    """u = L v on a box of length L."""
    write_card(tmp_path)
    todo = planned(
        tmp_path, initial_condition={"values": (2 * wave(32)).tolist()}, grid={"extent": [[0.0, 2.0]]},
        output_resolution=[64], method=INTERPOLATED,
    )  # fmt: skip
    assert todo.grid.extent == ((0.0, 2.0),)
    np.testing.assert_allclose(todo.answer_values(todo.initial)[0, :, 0], 2 * wave(64), atol=4e-3)


def test_coarser_answers_and_other_dimensions_are_refused(tmp_path: Path) -> None:
    write_card(tmp_path)
    for points in ([16], [64, 64]):
        with pytest.raises(UserError) as caught:
            planned(tmp_path, output_resolution=points)
        assert caught.value.code == "output_resolution_mismatch"
    with pytest.raises(UserError) as caught:
        planned(tmp_path, method=FREE)
    assert caught.value.code == "invalid_request"


def test_the_limit_counts_the_points_of_the_answer(tmp_path: Path) -> None:
    write_card(tmp_path)
    with pytest.raises(UserError) as caught:
        planned(tmp_path, n_steps=100, output_resolution=[2**19])
    assert caught.value.code == "too_many_points"


def table(observed: float, interpolated: float, equation: str = "burgers nu=0.01") -> dict[str, Any]:
    answers = {
        "resolution-free": {"one_step": 0.0, "rollout": 0.0},
        "interpolated": {"one_step": interpolated, "rollout": interpolated},
        "observed coarsely": {"one_step": observed, "rollout": interpolated},
    }
    coarse = {"resolution-free": {"one_step": 0.0, "rollout": 0.0}}
    return {"asked": [{"equation": equation, "answers": entry} for entry in (coarse, answers)]}


@pytest.mark.parametrize(("observed", "method"), [(0.1, FREE), (0.2, FREE), (0.3, INTERPOLATED)])
def test_the_default_is_what_was_measured(tmp_path: Path, observed: float, method: str) -> None:
    folder = write_card(tmp_path)
    assert summary(planned(tmp_path, output_resolution=[64])).method is Method.INTERPOLATION
    assert "not compared" in summary(planned(tmp_path, output_resolution=[64])).reason
    (folder / TABLE_FILE).write_text(json.dumps(table(observed, 0.2)))
    assert summary(planned(tmp_path, output_resolution=[64])).method == method
    asked = summary(planned(tmp_path, output_resolution=[64], method=INTERPOLATED))
    assert (asked.method, asked.reason) == (Method.INTERPOLATION, "asked for")


@pytest.mark.parametrize(("nu", "method"), [(0.001, FREE), (0.003, FREE), (0.004, INTERPOLATED), (0.5, INTERPOLATED)])
def test_the_nearest_measured_coefficients_choose(tmp_path: Path, nu: float, method: str) -> None:
    folder = write_card(tmp_path)
    asked = table(0.1, 0.2, "burgers nu=0.001")["asked"] + table(0.2, 0.1, "burgers nu=0.01")["asked"]
    (folder / TABLE_FILE).write_text(json.dumps({"asked": asked}))
    found = summary(planned(tmp_path, coefficients={"nu": nu}, output_resolution=[64]))
    assert found.method == method
    assert found.reason.split(" for ")[1].startswith("burgers nu=0.001" if method == FREE else "burgers nu=0.01 ")


def test_words_say_which_waves_were_observed(tmp_path: Path) -> None:
    write_card(tmp_path)
    for method in (FREE, INTERPOLATED):
        found = summary(planned(tmp_path, output_resolution=[100], method=method))
        assert (found.given, found.output, found.observed_cycles) == ([32], [100], [16])
        lost, own = found.explained
        assert "32 points" in lost
        assert "up to 16 cycles" in lost
        assert "100" in own


def test_the_solver_starts_from_the_whole_sample_or_from_what_was_given(tmp_path: Path) -> None:
    write_card(tmp_path)
    sampled = planned(tmp_path, output_resolution=[64], method=INTERPOLATED, reference=True)
    burgers = family("burgers")
    exact = burgers.sample_initial(np.random.default_rng(3), 1, burgers.default_grid(64))
    np.testing.assert_allclose(states_at(sampled, 1)[0], exact, rtol=1e-6)
    assert "same sample" in start_in_words(sampled, 1)
    assert reference_spec(sampled).problem.grid.n == (64,)
    given = planned(tmp_path, initial_condition={"values": wave(32).tolist()}, output_resolution=[64], reference=True)
    np.testing.assert_allclose(states_at(given, 1)[0][0, :, 0], wave(64), atol=2e-3)
    assert "interpolated" in start_in_words(given, 1)
