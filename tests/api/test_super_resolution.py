"""Finer answers over real HTTP: one path for rollouts, streams and the side-by-side query."""

import json
from typing import Any

import numpy as np

from tests.api.conftest import RunningService
from tests.api.test_streams import streaming
from ups_server.client import Client
from ups_server.specs import SuperResolutionAnswer

REQUEST: dict[str, Any] = {
    "model": "persistence",
    "family": "advection",
    "coefficients": {"beta": 1.0},
    "grid": {"n": [32]},
    "initial_condition": {"sample": {"seed": 2}},
    "n_steps": 3,
    "output_resolution": [100],
}


def test_both_methods_side_by_side_with_their_errors(service: RunningService) -> None:
    answer = service.send("POST", "/v1/super-resolution", {**REQUEST, "reference": True}).json()
    found = SuperResolutionAnswer.model_validate(answer)
    assert [method.value for method in found.methods] == ["resolution-free", "interpolation"]
    data = np.array(answer["data"], dtype=np.float32)
    assert data.shape == (2, 4, 100, 1)
    for index, method in enumerate(found.methods):
        single = service.post({**REQUEST, "method": method.value}).json()
        np.testing.assert_array_equal(np.array(single["data"], dtype=np.float32), data[index])
        assert single["super_resolution"]["method"] == method.value
        assert single["grid"]["n"] == [100]
        truth = service.post({**REQUEST, "output_resolution": None, "model": "numerical", "grid": {"n": [100]}}).json()
        expected = np.array(truth["data"])
        norms = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(data[index], expected, strict=True)]
        np.testing.assert_allclose(found.errors[method.value].nrmse, norms, rtol=1e-3, atol=1e-6)
    assert len(found.super_resolution.explained if found.super_resolution else []) == 3
    assert "reference" not in answer


def test_streams_are_on_the_fine_grid(service: RunningService) -> None:
    request = {**REQUEST, "method": "interpolation", "diagnostics": True, "reference": True}
    with streaming(service, request) as stream:
        received = list(stream)
    assert received[0][1]["super_resolution"]["output"] == [100]
    assert {np.shape(data["data"]) for name, data in received if name in ("step", "reference")} == {(100, 1)}
    whole = service.post(request).json()
    assert [data["data"] for name, data in received if name == "step"] == whole["data"]


def test_what_it_does_not_take(service: RunningService) -> None:
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"output_resolution": None}, "missing_output_resolution", "application/json"),
        ({"initial_condition": {"sample": {"count": 2}}}, "wrong_shape", "application/json"),
        ({"output_resolution": [16]}, "output_resolution_mismatch", "application/json"),
        ({}, "not_acceptable", "text/event-stream"),
    ]
    for changes, code, accept in cases:
        response = service.send("POST", "/v1/super-resolution", {**REQUEST, **changes}, Accept=accept)
        assert response.json()["code"] == code


def test_the_client_names_the_methods(service: RunningService) -> None:
    options = {name: REQUEST[name] for name in ("model", "coefficients", "grid")}
    with Client(service.url) as client:
        dataset = client.super_resolution("advection", 3, {"sample": {"seed": 2}}, [100], reference=True, **options)
    assert dataset["method"].values.tolist() == ["resolution-free", "interpolation"]
    assert dict(dataset.sizes) == {"method": 2, "time": 4, "x": 100}
    assert set(json.loads(dataset.attrs["errors"])) == {"resolution-free", "interpolation"}
