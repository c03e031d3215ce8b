"""Equations that a request writes out, over real HTTP."""

import json
import math
from typing import Any

import httpx
import numpy as np

from tests.api.conftest import RunningService
from ups_server.client import Client

REQUEST = {
    "model": "numerical",
    "equation": "u_t = -u*u_x + 0.01*u_xx + r*u*(1-u)",
    "coefficients": {"r": 2.0},
    "initial_condition": {"sample": {"seed": 7}},
    "times": [0.0, 0.1, 0.2],
}


def test_an_equation_in_symbols_is_solved(service: RunningService) -> None:
    answer = service.post(REQUEST).json()
    assert np.array(answer["data"]).shape == (3, 128, 1)
    assert answer["family"] == "evolution_1d"
    assert answer["equation"] == "u_t = -u*u_x + 0.01*u_xx + 2*u*(1 - u)"
    assert [term["name"] for term in answer["terms"]] == ["self_advection", "diffusion", "logistic"]
    assert answer["times"] == [0.0, 0.1, 0.2]


def test_a_mistake_says_at_which_character(service: RunningService) -> None:
    response = service.post({**REQUEST, "equation": "u_t = -u*u_x + 0.01*u_xy", "coefficients": {}})
    assert response.status_code == 422
    assert response.json()["code"] == "missing_coefficient"
    assert response.json()["got"]["character"] == 21
    response = service.post({**REQUEST, "equation": "u_t = - 0.1*u_xx", "coefficients": {}})
    assert response.json()["code"] == "ill_posed"


def test_the_model_by_default_says_what_it_does_not_know(service: RunningService) -> None:
    problem = service.post({**REQUEST, "model": "ups-mini"}).json()
    assert (problem["code"], problem["got"]) == ("family_not_in_model", "evolution_1d")


def test_the_client_writes_equations_too(service: RunningService) -> None:
    start = np.sin(2 * np.pi * (np.arange(64) + 0.5) / 64)
    given: dict[str, Any] = {"initial_condition": start, "model": "numerical"}
    with Client(service.url) as client:
        heat = client.rollout(equation="u_t = nu*u_xx", coefficients={"nu": 0.05}, times=[0.1, 0.2], **given)
        burgers = client.rollout(equation="u_t + u u_x = 0.01 u_xx", n_steps=2, **given)
        steps = list(client.stream(equation="u_t = -u_x", times=[0.25, 0.5], **given))
    np.testing.assert_allclose(heat.u[2], start * np.exp(-0.05 * 4 * np.pi**2 * 0.2), atol=1e-6)
    assert heat.attrs["equation"] == "u_t = 0.05*u_xx"
    assert json.loads(heat.attrs["terms"]) == [{"name": "diffusion", "sign": 1, "coefficient": 0.05}]
    assert burgers.attrs["family"] == "burgers"
    assert float(burgers.nu) == np.float64(math.pi * 0.01)
    np.testing.assert_allclose(steps[2].values[:, 0], -start, atol=1e-6)


def test_equations_are_read_without_being_run(service: RunningService) -> None:
    with Client(service.url) as client:
        symbols = client.equation("u_t + (u^2/2)_x = nu*u_xx", nu=0.01)
        words = client.equation(description="a dye carried to the right that slowly spreads and decays")
        nothing = client.equation(description="What should I cook for dinner tonight?")
    assert (symbols["equation"], symbols["family"]) == ("u_t = -u*u_x + 0.01*u_xx", "burgers")
    assert [(term["name"], term["sign"]) for term in words["terms"]] == [
        ("transport", -1),
        ("diffusion", 1),
        ("decay", -1),
    ]
    assert not words["abstained"]
    assert all(0.5 <= term["confidence"] <= 1.0 for term in words["terms"])
    assert (nothing["equation"], nothing["terms"], nothing["abstained"]) == (None, [], True)
    for document, code in (
        ({"equation": "u_t = $"}, "invalid_equation"),
        ({"equation": "u_t = -u_xx"}, "ill_posed"),
        ({}, "invalid_request"),
        ({"equation": "u_t = u_xx", "description": "heat"}, "invalid_request"),
        ({"description": "very " * 300 + "diffusive"}, "text_too_long"),
    ):
        response = httpx.post(f"{service.url}/v1/equations", json=document, timeout=60)
        assert (response.status_code, response.json()["code"]) == (422, code)
