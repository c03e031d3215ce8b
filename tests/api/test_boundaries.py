"""Boundary conditions and kinds of initial states over HTTP and on the command line."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from tests.api.conftest import RunningService
from tests.api.test_problems import check
from ups_server.cli import app
from ups_server.cli.options import parse_boundary
from ups_server.data.formats import open_source
from ups_server.errors import UserError
from ups_server.pde import BoundaryCondition, BoundaryKind, family

OPEN = [["outflow", "outflow"]]
REQUEST: dict[str, Any] = {
    "model": "numerical",
    "family": "compressible_ns_1d",
    "coefficients": {"eta": 0.01, "zeta": 0.01},
    "grid": {"n": [64]},
    "boundary": OPEN,
    "initial_condition": {"sample": {"seed": 7, "kind": "shock"}},
    "n_steps": 2,
    "diagnostics": True,
}


def boundary_of(path: Path) -> list[list[str]]:
    source = open_source(path)
    source.close()
    return source.boundary.as_names()


def test_a_shock_tube(service: RunningService) -> None:
    response = service.post(REQUEST)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["boundary"] == OPEN
    # What leaves the box is not conserved in it.
    assert answer["diagnostics"]["conserved"] == {}
    data = np.array(answer["data"])
    gas = family("compressible_ns_1d").under(BoundaryCondition.uniform(BoundaryKind.OUTFLOW, 1))
    coefficients = {"eta": np.array([0.01]), "zeta": np.array([0.01])}
    grid = gas.default_grid(64)
    start = gas.draw_initial(np.random.default_rng(7), 1, grid, coefficients, "shock").astype(np.float32)
    np.testing.assert_array_equal(data[0], start[0])
    expected = gas.solve(start.astype(np.float64), np.array([0.0, gas.dt, 2 * gas.dt]), grid, coefficients)
    np.testing.assert_allclose(data, expected[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("boundary_not_supported", {"boundary": None}),
        ("boundary_not_supported", {"boundary": [["no_slip", "no_slip"]]}),
        ("boundary_not_supported", {"boundary": [["periodic", "outflow"]]}),
        ("unknown_initial_kind", {"initial_condition": {"sample": {"kind": "kh"}}}),
        ("boundary_not_supported", {"model": "ups-mini"}),
        ("boundary_not_supported", {"model": "ups-mini", "initial_condition": {"sample": {}}}),
    ],
)
def test_what_does_not_go_together_is_refused(service: RunningService, code: str, change: dict[str, Any]) -> None:
    check(service.post({**REQUEST, **change}), code, 422)


def test_a_model_that_was_not_trained_on_a_boundary_names_the_solver(service: RunningService) -> None:
    problem = check(service.post({**REQUEST, "model": "ups-mini"}), "boundary_not_supported", 422)
    assert problem["expected"] == [[["periodic", "periodic"]]]
    assert "numerical" in problem["hint"]


def test_families_say_what_they_offer(service: RunningService) -> None:
    card = httpx.get(f"{service.url}/v1/families/compressible_ns_2d").json()
    periodic, outflow = (["periodic"] * 2, ["outflow"] * 2)
    assert card["boundaries"] == [[periodic, periodic], [outflow, outflow], [periodic, outflow]]
    kinds = {kind["name"]: kind["boundaries"] for kind in card["initial_kinds"]}
    assert kinds == {"rand": card["boundaries"], "turb": [[periodic, periodic]], "kh": [[periodic, outflow]]}
    card = httpx.get(f"{service.url}/v1/families/burgers").json()
    assert card["boundaries"] == [card["boundary"]]


def test_the_command_line_asks_for_the_same(tmp_path: Path) -> None:
    words = ["solve", "compressible_ns_1d", "--method", "numerical", "--resolution", "64", "--n-steps", "1"]
    out = tmp_path / "tube.h5"
    asked = [*words, "--seed", "7", "--initial-kind", "shock", "-o", str(out)]
    ran = CliRunner().invoke(app, [*asked, "--boundary", "outflow"])
    assert ran.exit_code == 0, ran.output
    assert boundary_of(out) == OPEN
    with pytest.raises(Exception, match="made for another boundary"):
        CliRunner().invoke(app, asked, catch_exceptions=False)


@pytest.mark.parametrize("text", ["sticky", "periodic,outflow", "", "outflow/outflow/outflow"])
def test_boundaries_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_boundary(text, 1)
    assert caught.value.code == "invalid_boundary"


@pytest.mark.parametrize(
    ("text", "ndim", "names"),
    [
        ("outflow", 2, [["outflow"] * 2] * 2),
        ("periodic,outflow", 2, [["periodic"] * 2, ["outflow"] * 2]),
        ("dirichlet/cauchy", 1, [["dirichlet", "cauchy"]]),
    ],
)
def test_boundaries_in_words(text: str, ndim: int, names: list[list[str]]) -> None:
    boundary = parse_boundary(text, ndim)
    assert boundary is not None
    assert boundary.as_names() == names
    assert BoundaryCondition.from_text(boundary.as_text()) == boundary


def test_generated_files_start_rollouts_under_their_own_boundary(tmp_path: Path) -> None:
    made, out = tmp_path / "tubes.h5", tmp_path / "tube.h5"
    words = ["data", "generate", "compressible_ns_1d", "-n", "1", "--resolution", "32", "-o", str(made)]
    ran = CliRunner().invoke(app, [*words, "--initial-kind", "shock", "--boundary", "outflow"])
    assert ran.exit_code == 0, ran.output
    assert boundary_of(made) == OPEN
    words = ["solve", "compressible_ns_1d", "--method", "numerical", "--n-steps", "1", "--initial", str(made)]
    ran = CliRunner().invoke(app, [*words, "-o", str(out)])
    assert ran.exit_code == 0, ran.output
    assert boundary_of(out) == OPEN
