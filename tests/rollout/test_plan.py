"""From a request to a plan, for a learned model: defaults, multiples of its dt, flags, rescaling."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ups_server.catalog import Catalog
from ups_server.errors import UserError
from ups_server.pde import Grid, family
from ups_server.rollout.plan import Plan, plan
from ups_server.settings import Settings
from ups_server.solvers.limits import Ended
from ups_server.specs import RolloutRequest


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """One model, trained on Burgers with nu in [0.001, 0.5] at 128 points and dt 0.05."""
    folder = tmp_path / "models" / "small"
    folder.mkdir(parents=True)
    trained = {"dt": 0.05, "coefficients": {"nu": {"low": 0.001, "high": 0.5}}}
    (folder / "config.json").write_text(
        json.dumps({"name": "small", "resolution": 128, "families": {"burgers": trained}})
    )
    return Catalog(tmp_path, tmp_path / "none")


def planned(catalog: Catalog, **changes: Any) -> Plan:
    document = {
        "model": "small",
        "family": "burgers",
        "initial_condition": {"sample": {"seed": 3}},
        "n_steps": 12,
        **changes,
    }
    return plan(RolloutRequest.from_json(json.dumps(document)), catalog, Settings())


def refused(catalog: Catalog, **changes: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        planned(catalog, **changes)
    return caught.value


def codes(todo: Plan) -> list[str]:
    return [flag.code for flag in todo.flags]


def test_coefficients_of_each_state(catalog: Catalog) -> None:
    sample = {"sample": {"seed": 3, "count": 3}}
    todo = planned(catalog, initial_condition=sample, coefficients={"NU": [0.01, 2.0, 0.1]})
    assert todo.coefficients == {"nu": [0.01, 2.0, 0.1]}
    assert todo.spec.problem.coefficient_arrays(3)["nu"].tolist() == [0.01, 2.0, 0.1]
    (found,) = todo.flags
    assert found.code == "coefficient_outside_trained_range"
    assert (found.model_dump()["value"], found.model_dump()["states"]) == (2.0, [1])
    rescaled = planned(
        catalog, initial_condition=sample, coefficients={"nu": [0.01, 0.02, 0.1]}, grid={"extent": [[0.0, 2.0]]}
    )
    scale = 2.0 ** next(entry.length_power or 0.0 for entry in family("burgers").coefficients)
    assert rescaled.spec.problem.coefficients["nu"] == [0.01 * scale, 0.02 * scale, 0.1 * scale]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"coefficients": {"nu": [0.1, 0.2]}}, "wrong_shape"),
        ({"coefficients": {"nu": [0.1, -1.0, 0.1]}}, "coefficient_out_of_domain"),
        ({"coefficients": {"mu": [0.1, 0.1, 0.1]}}, "unknown_coefficient"),
        ({"coefficients": {"nu": [0.1, 0.1, 0.1], "NU": 0.1}}, "coefficient_given_twice"),
        ({"coefficients": {"nu": []}}, "invalid_request"),
        ({"coefficients": {"nu": [0.1, "0.1", 0.1]}}, "invalid_request"),
        (
            {"family": None, "equation": "u_t = a*u_xx", "coefficients": {"a": [0.1, 0.1, 0.1]}, "model": "numerical"},
            "invalid_coefficient",
        ),
    ],
)
def test_coefficients_that_are_not_those_of_the_states(catalog: Catalog, changes: dict[str, Any], code: str) -> None:
    error = refused(catalog, initial_condition={"sample": {"seed": 3, "count": 3}}, **changes)
    assert error.code == code


def test_defaults(catalog: Catalog) -> None:
    todo = planned(catalog)
    assert todo.shape == (1, 13, 128, 1)
    assert todo.coefficients == family("burgers").complete({})
    assert (todo.spec.n_steps, todo.spec.save_every, todo.spec.problem.dt) == (12, 1, 0.05)
    assert todo.times()[:4].tolist() == [0.0, 0.05, 0.1, 0.15]
    assert codes(todo) == []


def test_dt_is_a_multiple_of_the_models(catalog: Catalog) -> None:
    todo = planned(catalog, dt=0.15, n_steps=5, save_every=2)
    assert (todo.spec.n_steps, todo.spec.save_every, todo.n_frames) == (12, 6, 3)
    assert todo.spec.problem.dt == pytest.approx(0.05)
    assert todo.times().tolist() == [0.0, 0.3, 0.6]
    for dt in (0.07, 0.01, 0.051):
        assert refused(catalog, dt=dt).code == "dt_mismatch"


def test_what_is_run_is_what_is_told(catalog: Catalog) -> None:
    todo = planned(catalog, dt=0.05000001, n_steps=3)
    assert (todo.dt, todo.spec.problem.dt) == (0.05, 0.05)
    assert todo.attributes([])["dt"] == 0.05
    assert planned(catalog, dt=0.15).dt == 0.15


def test_a_longer_rollout_than_in_training_is_flagged(catalog: Catalog) -> None:
    assert codes(planned(catalog, n_steps=40)) == []
    (flag,) = planned(catalog, n_steps=100).flags
    found = flag.model_dump()
    assert (found["code"], found["trained"]) == ("horizon_beyond_training", 2.0)
    assert (found["got"], found["distance"]) == (pytest.approx(5.0), pytest.approx(1.5))
    assert codes(planned(catalog, model="numerical", n_steps=100)) == []


def test_steps_after_the_last_frame_are_told(catalog: Catalog) -> None:
    (flag,) = planned(catalog, n_steps=10, save_every=3).flags
    found = flag.model_dump()
    assert (found["code"], found["last_step"]) == ("last_steps_not_kept", 9)
    assert codes(planned(catalog, n_steps=9, save_every=3)) == []


def test_the_limit_counts_model_steps(catalog: Catalog) -> None:
    assert refused(catalog, n_steps=5_001, dt=0.1).code == "too_many_steps"


def test_families_it_was_not_trained_on(catalog: Catalog) -> None:
    error = refused(catalog, family="advection")
    assert (error.code, error.expected) == ("family_not_in_model", ["burgers"])


def test_coefficients_outside_the_trained_range_are_flagged(catalog: Catalog) -> None:
    (flag,) = planned(catalog, coefficients={"nu": 0.9}).flags
    assert flag.code == "coefficient_outside_trained_range"
    assert flag.model_dump()["value"] == 0.9
    for nu, widths in ((0.9, np.log(0.9 / 0.5)), (1e-9, np.log(0.001 / 1e-9))):
        (flag,) = planned(catalog, coefficients={"nu": nu}).flags
        assert flag.model_dump()["distance"] == pytest.approx(widths / np.log(500))
        assert f"{widths / np.log(500):.3g} times its width on a logarithmic scale" in flag.message
    assert codes(planned(catalog, coefficients={"nu": 0.001})) == []


def test_the_range_is_that_of_the_rescaled_problem(catalog: Catalog) -> None:
    """nu = 0.9 on a box of length 2 is nu = 0.225 on the family's own."""
    todo = planned(catalog, coefficients={"nu": 0.9}, grid={"extent": [[0.0, 2.0]]})
    assert codes(todo) == []
    assert todo.spec.problem.coefficients["nu"] == pytest.approx(0.225)
    assert todo.coefficients == {"nu": 0.9}
    assert todo.grid.extent == ((0.0, 2.0),)
    assert todo.spec.problem.grid.extent == family("burgers").extent
    own = planned(catalog)
    np.testing.assert_array_equal(todo.initial, own.initial)
    np.testing.assert_allclose(todo.answer_values(todo.initial), 2 * own.initial)


def test_a_moved_box_changes_nothing(catalog: Catalog) -> None:
    todo = planned(catalog, grid={"extent": [[5.0, 6.0]]})
    np.testing.assert_array_equal(todo.scale, 1)
    assert todo.spec.problem.coefficients == todo.coefficients


def test_another_resolution_is_flagged(catalog: Catalog) -> None:
    assert codes(planned(catalog, grid={"n": [256]})) == ["resolution_differs_from_training"]
    from_values = planned(catalog, initial_condition={"values": [0.0] * 64})
    assert from_values.grid.n == (64,)
    assert codes(from_values) == ["resolution_differs_from_training"]


def test_the_family_says_what_it_was_trained_on(tmp_path: Path) -> None:
    """Points and values of the family's statistics, not the model's one resolution."""
    folder = tmp_path / "models" / "small"
    folder.mkdir(parents=True)
    statistics = {"n": 64, "min": [-1.0], "max": [1.0]}
    document = {"name": "small", "resolution": 128, "families": {"burgers": {"dt": 0.05, "statistics": statistics}}}
    (folder / "config.json").write_text(json.dumps(document))
    catalog = Catalog(tmp_path, tmp_path / "none")
    inside = planned(catalog, initial_condition={"values": [-1.0, 1.0] * 32})
    assert codes(inside) == []
    assert planned(catalog).grid.n == (64,)
    (flag,) = planned(catalog, initial_condition={"values": [0.0, 1.5] * 32}).flags
    assert (flag.code, flag.model_dump()["got"]) == ("state_outside_trained_range", [0.0, 1.5])
    assert codes(planned(catalog, initial_condition={"values": [0.0] * 128})) == ["resolution_differs_from_training"]


def test_the_seed_decides(catalog: Catalog) -> None:
    first, again = planned(catalog), planned(catalog)
    other = planned(catalog, initial_condition={"sample": {"seed": 4}})
    np.testing.assert_array_equal(first.initial, again.initial)
    assert not np.array_equal(first.initial, other.initial)


@pytest.mark.parametrize(
    ("said", "offset"),
    [({}, 0.5), ({"points": "cells"}, 0.5), ({"points": "nodes"}, 0.0), ({"offset": [0.0625]}, 0.0625)],
)
def test_a_sample_is_taken_at_the_points_of_the_request(catalog: Catalog, said: dict[str, Any], offset: float) -> None:
    todo = planned(catalog, grid={"n": [128], **said})
    grid = Grid((128,), ((0.0, 1.0),), (offset,))
    assert todo.grid == todo.spec.problem.grid == grid
    assert todo.header().document()["grid"]["offset"] == [offset]
    expected = family("burgers").sample_initial(np.random.default_rng(3), 1, grid)
    np.testing.assert_array_equal(todo.initial, expected.astype(np.float32))
    elsewhere = planned(catalog, grid={"n": [128], "extent": [[1.0, 3.0]], **said})
    np.testing.assert_allclose(elsewhere.grid.axes[0], 1.0 + 2.0 * grid.axes[0])


def test_nodes_end_on_both_walls(catalog: Catalog) -> None:
    request = {"model": "numerical", "family": "diffusion_sorption", "grid": {"n": [65], "points": "nodes"}}
    todo = planned(catalog, **request)
    np.testing.assert_allclose(todo.grid.axes[0], np.linspace(0.0, 1.0, 65), atol=1e-12)
    assert todo.header().document()["grid"]["closed"] == [True]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"grid": {"offset": [0.5, 0.5]}}, "invalid_grid"),
        ({"family": "shallow_water", "model": "numerical", "grid": {"points": "nodes"}}, "points_not_supported"),
        ({"family": "shallow_water", "model": "numerical", "grid": {"offset": [0.5, 0.25]}}, "points_not_supported"),
        ({"family": "shallow_water", "grid": {"n": [32, 32], "offset": [0.25, 0.25]}}, "points_not_supported"),
        ({"family": "diffusion_sorption", "grid": {"points": "nodes"}}, "points_not_supported"),
    ],
)
def test_points_that_are_not_known_are_refused(tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    folder = tmp_path / "models" / "small"
    folder.mkdir(parents=True)
    known = {name: {"dt": family(name).dt} for name in ("burgers", "shallow_water", "diffusion_sorption")}
    (folder / "config.json").write_text(json.dumps({"name": "small", "resolution": 128, "families": known}))
    error = refused(Catalog(tmp_path, tmp_path / "none"), **changes)
    assert error.code == code


def test_blow_up_flag(catalog: Catalog) -> None:
    flag = planned(catalog).ended_flag(Ended(4, fields=(0,), states=(0,))).model_dump()
    assert (flag["code"], flag["step"], flag["time"], flag["fields"]) == ("blow_up", 4, pytest.approx(0.2), ["u"])
