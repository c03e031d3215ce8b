"""Rollouts whose request writes its equation out."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.rollout.planning import observed, write_card
from ups_server.catalog import Catalog
from ups_server.errors import UserError
from ups_server.rollout.plan import Plan, plan
from ups_server.settings import Settings
from ups_server.solvers.solver import Frames
from ups_server.specs import RolloutRequest

X = (np.arange(64) + 0.5) / 64


def planned(data_dir: Path, **changes: Any) -> Plan:
    document = {
        "model": "numerical",
        "equation": "u_t = -u*u_x + 0.01*u_xx + u*(1-u)",
        "initial_condition": {"sample": {"seed": 3}},
        "times": [0.0, 0.1, 0.2],
        **changes,
    }
    given = {name: value for name, value in document.items() if value is not None}
    return plan(RolloutRequest.from_json(json.dumps(given)), Catalog(data_dir, data_dir / "none"), Settings())


def solved(todo: Plan) -> Frames:
    """(T, X) of the first state."""
    return np.stack([todo.answer_values(values)[0, ..., 0] for values in observed(todo)[0]])


def refused(data_dir: Path, **changes: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        planned(data_dir, **changes)
    return caught.value


def test_an_equation_that_no_family_names_is_solved_on_the_unit_box(tmp_path: Path) -> None:
    todo = planned(tmp_path)
    assert (todo.family.id, todo.grid.extent, todo.grid.n) == ("evolution_1d", ((0.0, 1.0),), (128,))
    said = todo.attributes([])
    assert said["equation"] == "u_t = -u*u_x + 0.01*u_xx + u*(1 - u)"
    assert said["terms"] == [
        {"name": "self_advection", "sign": -1, "coefficient": -1.0},
        {"name": "diffusion", "sign": 1, "coefficient": 0.01},
        {"name": "logistic", "sign": 1, "coefficient": 1.0},
    ]
    assert todo.times().tolist() == [0.0, 0.1, 0.2]
    frames = solved(todo)
    assert frames.shape == (3, 128)
    assert todo.initial.min() >= 0.0
    assert np.abs(frames[2] - frames[0]).max() > 0.05


def test_forcing_is_evaluated_at_the_points_of_the_request(tmp_path: Path) -> None:
    for low, high in ((0.0, 1.0), (-2.0, 2.0)):
        x = low + (high - low) * X
        k = 2.0 * math.pi / (high - low)
        todo = planned(
            tmp_path,
            equation="u_t = nu*u_xx + 3*sin(k*x)",
            coefficients={"nu": 0.2, "k": k},
            initial_condition={"values": [0.0] * 64},
            grid={"extent": [[low, high]]},
        )
        amplitude = 3.0 * -np.expm1(-0.2 * k**2 * todo.times()) / (0.2 * k**2)
        np.testing.assert_allclose(solved(todo), amplitude[:, None] * np.sin(k * x), atol=1e-6)
    assert refused(tmp_path, equation="u_t = u_xx + 1/(x - 0.5*x)^2 + sqrt(x - 2)").code == "invalid_equation"


def test_another_box_is_rescaled_into_the_coefficients(tmp_path: Path) -> None:
    def soliton(time: float) -> Any:
        away = (40.0 * X - 20.0 - time + 20.0) % 40.0 - 20.0
        return 3.0 / np.cosh(away / 2.0) ** 2

    todo = planned(
        tmp_path,
        equation="u_t + u*u_x + u_xxx = 0",
        initial_condition={"values": soliton(0.0).tolist()},
        grid={"extent": [[0.0, 40.0]]},
        times=[2.5, 5.0],
    )
    assert todo.spec.problem.coefficients["dispersion"] == pytest.approx(-(40.0**-3))
    assert todo.coefficients["dispersion"] == -1.0
    assert todo.times().tolist() == [0.0, 2.5, 5.0]
    np.testing.assert_allclose(solved(todo), [soliton(time) for time in (0.0, 2.5, 5.0)], atol=5e-3)


def test_families_that_exist_are_recognised_and_served_by_their_models(tmp_path: Path) -> None:
    write_card(tmp_path)
    todo = planned(tmp_path, model="small", equation="u_t + (u^2/2)_x = 0.01*u_xx", times=None, n_steps=2)
    assert (todo.family.id, todo.card.id) == ("burgers", "small")
    assert todo.coefficients == {"nu": pytest.approx(math.pi * 0.01)}
    assert todo.attributes([])["equation"] == "u_t = -u*u_x + 0.01*u_xx"
    error = refused(tmp_path, model="small")
    assert (error.code, error.got) == ("family_not_in_model", "evolution_1d")
    assert "numerical" in (error.hint or "")


@pytest.mark.parametrize(
    ("times", "fits"),
    [
        ([0.1, 0.2, 0.3], True),
        ([0.0, 0.25], True),
        ([0.5], True),
        ([0.1, 0.3], True),
        ([0.0, 0.1, 0.25, 1.0], True),
        ([0.3, 0.5], True),
        ([0.1, 0.1 * 2**0.5], False),
        ([2.0**-900, 2.0**100], False),
        ([2.0**-1000, 2.0**1000], False),
        ([0.2, 0.1], False),
        ([0.0], False),
        ([-0.1, 0.0], False),
        ([0.1, 0.1], False),
    ],
)
def test_times_rise_from_the_start_by_multiples_of_one_step(tmp_path: Path, times: list[float], fits: bool) -> None:
    if not fits:
        assert refused(tmp_path, times=times).code == "invalid_times"
        return
    later = times[1:] if times[0] == 0.0 else times
    assert planned(tmp_path, times=times).times().tolist() == [0.0, *later]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"equation": "u_t = -u_xx"}, "ill_posed"),
        ({"equation": "u_t = u_xx +"}, "invalid_equation"),
        ({"equation": "u_t = nu*u_xx"}, "missing_coefficient"),
        ({"coefficients": {"nu": 1.0}}, "unknown_coefficient"),
        ({"family": "burgers"}, "invalid_request"),
        ({"equation": None}, "invalid_request"),
        ({"n_steps": 3}, "invalid_request"),
        ({"times": None}, "invalid_request"),
        ({"dt": 0.1}, "invalid_request"),
        ({"reference": True}, "no_reference"),
        ({"boundary": [["wall", "wall"]]}, "invalid_request"),
        ({"grid": {"extent": [[0.0, 1.0], [0.0, 1.0]]}}, "invalid_grid"),
    ],
)
def test_mistakes(tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    assert refused(tmp_path, **changes).code == code


def test_the_family_itself_takes_coefficients_and_needs_no_forcing(tmp_path: Path) -> None:
    todo = planned(
        tmp_path,
        equation=None,
        family="evolution_1d",
        coefficients={"transport": -1.0},
        initial_condition={"values": np.sin(2 * np.pi * X).tolist()},
    )
    np.testing.assert_allclose(solved(todo)[1], np.sin(2 * np.pi * (X - 0.1)), atol=1e-6)
    assert "terms" not in todo.attributes([])
    error = refused(tmp_path, equation=None, family="evolution_1d", coefficients={"diffusion": -1.0})
    assert error.code == "ill_posed"
