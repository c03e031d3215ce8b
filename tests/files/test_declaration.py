"""What a user may say about a file, and what no model has a place for."""

import json
from typing import Any

import pytest

from ups_server.data.user_equation import EquationSpec
from ups_server.errors import UserError
from ups_server.files.declaration import Declaration
from ups_server.pde import BoundaryKind
from ups_server.pde.registry import add_user_family

EQUATION: dict[str, Any] = {
    "id": "allen_cahn",
    "name": "1D Allen-Cahn Equation",
    "equation": "u_t = eps u_xx + u - u^3",
    "fields": [{"name": "u", "slot": 0}],
    "coefficients": [{"name": "eps", "low": 0.0}],
    "extent": [[-1.0, 1.0]],
    "boundary": [["periodic", "periodic"]],
}


def refused(**said: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        Declaration.from_json(json.dumps(said))
    return caught.value


def test_a_family_with_its_numbers() -> None:
    said = Declaration.from_json(json.dumps({"family": "burgers", "coefficients": {"nu": 0.01}, "slots": {"u": 0}}))
    assert said.family_id == "burgers"
    assert Declaration.from_json(said.model_dump_json()) == said


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("unknown_family", {"family": "navier"}),
        ("unknown_coefficient", {"family": "burgers", "coefficients": {"mu": 1.0}}),
        ("coefficient_out_of_domain", {"family": "burgers", "coefficients": {"nu": -1.0}}),
        ("slot_mismatch", {"family": "burgers", "slots": {"u": 1}}),
        ("wrong_axis", {"family": "burgers", "axes": ["y", "x"]}),
        ("wrong_boundary", {"family": "burgers", "boundary": [["no_flux", "no_flux"]] * 2}),
        ("wrong_boundary", {"family": "burgers", "boundary": [["periodic", "no_flux"]]}),
        ("not_mappable", {"family": "compressible_ns_3d"}),
        ("invalid_request", {"family": "burgers", "equation": EQUATION}),
        ("invalid_request", {"slots": {"u": 0}}),
        ("invalid_request", {"axes": ["x", "x"], "family": "shallow_water"}),
        ("invalid_request", {"famly": "burgers"}),
        ("family_exists", {"equation": EQUATION | {"id": "burgers"}}),
        ("invalid_request", {"equation": EQUATION | {"boundary": [["periodic", "outflow"]]}}),
        ("invalid_request", {"equation": EQUATION | {"extent": [[1.0, -1.0]]}}),
        ("invalid_request", {"equation": EQUATION | {"layout": "grouped"}}),
        ("invalid_request", {"equation": EQUATION | {"coefficients": [{"name": "u"}]}}),
        ("unknown_coefficient", {"equation": EQUATION, "coefficients": {"nu": 1.0}}),
    ],
)
def test_contradictions(code: str, said: dict[str, Any]) -> None:
    assert refused(**said).code == code


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("at most 2 dimensions", {"extent": [[0.0, 1.0]] * 3, "boundary": [["outflow", "outflow"]] * 3}),
        ("4 slots for fields", {"fields": [{"name": f"c{slot}", "slot": slot} for slot in range(5)]}),
        ("slots 0 to 3", {"fields": [{"name": "u", "slot": 4}]}),
        ("a slot of its own", {"fields": [{"name": "u", "slot": 0}, {"name": "v", "slot": 0}]}),
    ],
)
def test_what_no_model_has_a_place_for(reason: str, change: dict[str, Any]) -> None:
    error = refused(equation=EQUATION | change)
    assert error.code == "not_mappable"
    assert reason in error.message


def test_a_declared_equation_is_a_family() -> None:
    spec = EquationSpec.model_validate_json(json.dumps(EQUATION))
    family = spec.family(dt=0.1)
    assert (family.id, family.ndim, family.dt, family.extent) == ("allen_cahn", 1, 0.1, ((-1.0, 1.0),))
    assert family.boundary.periodic == (True,)
    assert family.boundary.sides == ((BoundaryKind.PERIODIC, BoundaryKind.PERIODIC),)
    assert family.metadata_text({"eps": 0.01}) == "1D Allen-Cahn Equation eps=0.01"
    with pytest.raises(UserError, match="physical domain"):
        family.complete({"eps": -1.0})


def test_a_declared_equation_takes_no_id_of_ours() -> None:
    spec = EquationSpec.model_validate_json(json.dumps(EQUATION | {"id": "darcy"}))
    with pytest.raises(UserError) as caught:
        add_user_family(spec.family())
    assert caught.value.code == "family_exists"
