"""Rollouts over real HTTP: what works, in every format."""

import io
import json
from typing import Any

import httpx
import numpy as np
import pytest
import xarray as xr
from safetensors.numpy import load, save

from tests.api.conftest import RunningService
from ups_server.pde import family

REQUEST = {
    "model": "numerical",
    "family": "burgers",
    "coefficients": {"nu": 0.001},
    "grid": {"n": [128]},
    "initial_condition": {"sample": {"seed": 7}},
    "n_steps": 20,
}


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def send(service: RunningService, body: bytes, content_type: str, accept: str = "application/json") -> httpx.Response:
    headers = {"Content-Type": content_type, "Accept": accept}
    return httpx.post(f"{service.url}/v1/rollouts", content=body, headers=headers, timeout=60)


def test_the_request_of_the_readme(service: RunningService) -> None:
    response = service.post(REQUEST)
    assert response.status_code == 200
    answer = response.json()
    burgers = family("burgers")
    data = np.array(answer["data"], dtype=np.float32)
    assert data.shape == (21, 128, 1)
    assert answer["family"] == "burgers"
    assert answer["fields"] == ["u"]
    assert answer["times"][:3] == [0.0, burgers.dt, 2 * burgers.dt]
    assert answer["grid"]["n"] == [128]
    assert answer["flags"] == []
    assert answer["batched"] is False

    grid = burgers.default_grid(128)
    initial = burgers.sample_initial(np.random.default_rng(7), 1, grid)
    np.testing.assert_array_equal(data[0], initial[0].astype(np.float32))
    second = burgers.solve(data[:1].astype(np.float64), np.array([0.0, burgers.dt]), grid, {"nu": np.array([0.001])})
    np.testing.assert_allclose(data[1], second[0, 1], atol=1e-5)


@pytest.mark.parametrize(
    "accept",
    ["application/vnd.safetensors", "application/x-npz", "application/x-netcdf", "application/x-hdf5"],
)
def test_formats_hold_the_same_numbers(service: RunningService, accept: str) -> None:
    request = {**REQUEST, "initial_condition": {"sample": {"seed": 3, "count": 2}}, "n_steps": 2}
    expected = np.array(service.post(request).json()["data"], dtype=np.float32)
    response = service.post(request, accept=accept)
    assert response.status_code == 200
    assert response.headers["content-type"] == accept
    np.testing.assert_array_equal(decoded(response.content, accept), expected)


def decoded(body: bytes, media_type: str) -> np.ndarray:
    """(B, T, X, C)"""
    if media_type.endswith("safetensors"):
        return load(body)["data"]
    if media_type.endswith("npz"):
        with np.load(io.BytesIO(body), allow_pickle=False) as archive:
            assert json.loads(str(archive["header"]))["family"] == "burgers"
            return np.asarray(archive["data"])
    if media_type.endswith("hdf5"):
        import h5py

        with h5py.File(io.BytesIO(body)) as file:
            return np.asarray(file["tensor"])[..., None]
    with xr.open_dataset(io.BytesIO(body), engine="h5netcdf") as dataset:
        assert dataset["u"].attrs["units"] == family("burgers").fields[0].unit
        return dataset["u"].values[..., None]


@pytest.mark.parametrize(("shape", "batched"), [((16, 1), False), ((16,), False), ((3, 16, 1), True), ((3, 16), True)])
def test_shapes_of_initial_conditions(service: RunningService, shape: tuple[int, ...], batched: bool) -> None:
    values = np.random.default_rng(0).random(shape).astype(np.float32)
    answer = service.post({"family": "burgers", "initial_condition": {"values": values.tolist()}, "n_steps": 2}).json()
    data = np.array(answer["data"], dtype=np.float32)
    assert answer["batched"] is batched
    assert data.shape == ((3, 3, 16, 1) if batched else (3, 16, 1))
    first = data[:, 0] if batched else data[0]
    np.testing.assert_array_equal(first.reshape(shape), values)


@pytest.mark.parametrize("content_type", ["application/vnd.safetensors", "application/x-safetensors"])
def test_safetensors_request(service: RunningService, content_type: str) -> None:
    values = np.linspace(0, 1, 32).reshape(32, 1)
    body = save({"initial_condition": values}, {"request": json.dumps({"family": "advection", "n_steps": 1})})
    data = np.array(send(service, body, content_type).json()["data"])
    np.testing.assert_allclose(data[1], values, atol=1e-6)


def test_npz_request(service: RunningService) -> None:
    values = np.linspace(0, 1, 64).reshape(2, 32, 1, order="F").astype(np.float32)
    body = npz(initial_condition=values, request=json.dumps({"family": "advection", "n_steps": 1}))
    data = np.array(send(service, body, "application/x-npz").json()["data"], dtype=np.float32)
    np.testing.assert_array_equal(data[:, 1], values)


def test_save_every_and_dt(service: RunningService) -> None:
    fine = service.post({**REQUEST, "n_steps": 12}).json()
    coarse = service.post({**REQUEST, "n_steps": 12, "save_every": 5}).json()
    assert coarse["times"] == [fine["times"][0], fine["times"][5], fine["times"][10]]
    np.testing.assert_array_equal(coarse["data"], np.array(fine["data"])[[0, 5, 10]])
    wide = service.post({**REQUEST, "n_steps": 2, "dt": 0.1}).json()
    assert wide["times"] == [0.0, 0.1, 0.2]


def test_uneven_times_are_frames_of_the_even_ones(service: RunningService) -> None:
    """Also of a model's own steps, a reference's, and of what is diagnosed."""
    for model in ("numerical", "persistence"):
        asked = {**REQUEST, "model": model, "diagnostics": True, "deterministic": True}
        del asked["n_steps"]
        whole = service.post({**asked, "times": [0.05 * step for step in range(1, 13)]}).json()
        some = service.post({**asked, "times": [0.1, 0.25, 0.6]}).json()
        assert some["times"] == [0.0, 0.1, 0.25, 0.6]
        np.testing.assert_array_equal(some["data"], np.array(whole["data"])[[0, 2, 5, 12]])
        for name, energy in whole["diagnostics"]["energy"].items():
            assert some["diagnostics"]["energy"][name] == [energy[frame] for frame in (0, 2, 5, 12)]


def test_another_box_is_rescaled(service: RunningService) -> None:
    """Advection at speed 2 on a box of length 2 is advection at speed 1 on the family's own."""
    values = np.sin(2 * np.pi * (np.arange(64) + 0.5) / 64).tolist()
    request = {"model": "numerical", "family": "advection", "initial_condition": {"values": values}, "n_steps": 4}
    own = service.post({**request, "coefficients": {"beta": 1.0}}).json()
    long = service.post({**request, "coefficients": {"beta": 2.0}, "grid": {"extent": [[-1.0, 1.0]]}}).json()
    np.testing.assert_allclose(long["data"], own["data"], atol=1e-6)
    assert long["coefficients"] == {"beta": 2.0}
    assert long["grid"]["extent"] == [[-1.0, 1.0]]


def test_burgers_velocity_scales_with_the_box(service: RunningService) -> None:
    """u = L v and nu = L² nu' on a box of length L."""
    values = np.sin(2 * np.pi * (np.arange(64) + 0.5) / 64)
    request = {"model": "numerical", "family": "burgers", "n_steps": 3}
    own = {**request, "initial_condition": {"values": values.tolist()}, "coefficients": {"nu": 0.01}}
    large = {
        **request,
        "initial_condition": {"values": (2 * values).tolist()},
        "coefficients": {"nu": 0.04},
        "grid": {"extent": [[0.0, 2.0]]},
    }
    np.testing.assert_allclose(
        np.array(service.post(large).json()["data"]) / 2, service.post(own).json()["data"], atol=1e-6
    )


def test_accept_anything_gets_json(service: RunningService) -> None:
    for accept in ("*/*", "application/*", "text/html;q=0.5, */*;q=0.1"):
        assert service.post(REQUEST, accept=accept).headers["content-type"] == "application/json"
    quality = "application/json;q=0.4, application/x-npz;q=0.9"
    assert service.post(REQUEST, accept=quality).headers["content-type"] == "application/x-npz"
