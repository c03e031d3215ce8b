"""Diagnostics and the numerical solver beside a rollout, over real HTTP."""

import io
import json
from typing import Any

import h5py
import httpx
import numpy as np
import pytest
import xarray as xr

from tests.api.conftest import RunningService
from tests.api.test_streams import streaming
from ups_server.client import Client
from ups_server.specs import RolloutAnswer

REQUEST: dict[str, Any] = {
    "model": "persistence",
    "family": "advection",
    "coefficients": {"beta": 1.0},
    "grid": {"n": [64]},
    "initial_condition": {"sample": {"seed": 2}},
    "n_steps": 4,
    "diagnostics": True,
    "reference": True,
}


def test_an_answer_has_its_diagnostics_and_its_true_error(service: RunningService) -> None:
    answer = service.post(REQUEST).json()
    found = RolloutAnswer.model_validate(answer)
    assert found.diagnostics is not None
    assert found.reference is not None
    data = np.array(answer["data"])
    np.testing.assert_allclose(found.diagnostics.energy["u"], np.square(data).mean((1, 2)), rtol=1e-5)
    assert found.diagnostics.conserved["u"].drift == [0.0] * 5
    assert found.diagnostics.out_of_distribution.flagged is None
    assert not found.diagnostics.expected_error.available
    # The exact solution of the same sample, at the same points among 17 times as many.
    finely = {**REQUEST, "model": "numerical", "reference": False, "grid": {"n": [17 * 64]}}
    truth = np.array(service.post(finely).json()["data"])[:, 8::17]
    norms = np.sqrt(np.square(truth).sum((1, 2)))
    errors = np.sqrt(np.square(data - truth).sum((1, 2))) / norms
    np.testing.assert_allclose(found.reference.nrmse, errors, rtol=0.01, atol=1e-4)
    assert found.reference.complete
    assert found.reference.settled
    assert found.reference.error is not None
    assert found.reference.faster in ("model", "solver")
    assert found.reference.remark


def test_without_being_asked_nothing_is_said(service: RunningService) -> None:
    answer = service.post({**REQUEST, "diagnostics": False, "reference": False}).json()
    assert "diagnostics" not in answer
    assert "reference" not in answer


def test_streams_say_it_step_by_step(service: RunningService) -> None:
    whole = service.post(REQUEST).json()
    with streaming(service, REQUEST) as stream:
        received = list(stream)
    steps = [data for name, data in received if name == "step"]
    errors = [data for name, data in received if name == "reference"]
    assert [data["index"] for data in steps] == [data["index"] for data in errors] == [0, 1, 2, 3, 4]
    assert [data["diagnostics"]["energy"]["u"] for data in steps] == whole["diagnostics"]["energy"]["u"]
    assert [data["diagnostics"]["power"]["u"] for data in steps] == whole["diagnostics"]["spectrum"]["power"]["u"]
    np.testing.assert_allclose([data["nrmse"] for data in errors], whole["reference"]["nrmse"], rtol=1e-6, atol=1e-9)
    start, end = received[0][1]["diagnostics"], received[-1]
    assert start["wave_numbers"] == whole["diagnostics"]["spectrum"]["wave_numbers"]
    assert start["expected_error"]["available"] is False
    assert end[0] == "end"
    assert end[1]["diagnostics"]["stopped"] is None
    assert end[1]["reference"]["complete"] is True


@pytest.mark.parametrize("n_steps", [4, 400])
def test_binary_formats_hold_it_however_long_it_is(service: RunningService, n_steps: int) -> None:
    request = {**REQUEST, "n_steps": n_steps}
    body = service.post(request, accept="application/x-netcdf").content
    with xr.open_dataset(io.BytesIO(body), engine="h5netcdf") as dataset:
        text = dataset.attrs.get("diagnostics") or str(dataset["diagnostics"].values)
        assert len(json.loads(text)["energy"]["u"]) == n_steps + 1
        assert dataset["u"].shape == (n_steps + 1, 64)
    body = service.post(request, accept="application/x-hdf5").content
    with h5py.File(io.BytesIO(body)) as file:
        text = file.attrs.get("diagnostics") or file["about/diagnostics"].asstr()[()]
        assert len(json.loads(text)["energy"]["u"]) == n_steps + 1


def test_the_reference_cannot_be_compared_with_itself(service: RunningService) -> None:
    response = service.post({**REQUEST, "model": "numerical"})
    assert (response.status_code, response.json()["code"]) == (422, "no_reference")


def test_the_client_has_both(service: RunningService) -> None:
    with Client(service.url) as client:
        options = {name: REQUEST[name] for name in ("model", "coefficients", "grid", "diagnostics", "reference")}
        dataset = client.rollout("advection", 4, REQUEST["initial_condition"], **options)
        energy = json.loads(dataset.attrs["diagnostics"])["energy"]["u"]
        assert len(energy) == 5
        assert json.loads(dataset.attrs["reference"])["complete"]
        received = list(client.stream_events("advection", 4, REQUEST["initial_condition"], **options))
    steps = [data for name, data in received if name == "step"]
    truths = [data["data"] for name, data in received if name == "reference"]
    np.testing.assert_array_equal(steps[-1]["data"][:, 0], dataset["u"][-1])
    assert steps[-1]["diagnostics"]["energy"]["u"] == energy[-1]
    assert len(truths) == 5
    np.testing.assert_array_equal(truths[0], steps[0]["data"])


def test_the_interface_describes_them(service: RunningService) -> None:
    schemas = httpx.get(f"{service.url}/openapi.json", timeout=60).json()["components"]["schemas"]
    assert {"diagnostics", "reference"} <= set(schemas["RolloutRequest"]["properties"])
    assert {"Diagnostics", "Comparison", "ExpectedError", "OutOfDistribution"} <= set(schemas)


def test_an_ensemble_shares_the_batch_and_names_its_statistics(service: RunningService) -> None:
    ensemble = {"members": 4, "seed": 3, "amplitude": 0.1, "quantiles": [0.5]}
    request = {**REQUEST, "model": "numerical", "reference": False, "ensemble": ensemble}
    answer = service.post(request).json()
    found = RolloutAnswer.model_validate(answer)
    assert found.ensemble is not None
    assert found.ensemble.statistics == ["control", "mean", "spread", "quantile 0.5"]
    data = np.array(answer["data"])
    assert data.shape == (4, 5, 64, 1)
    alone = service.post({**REQUEST, "model": "numerical", "reference": False}).json()
    np.testing.assert_allclose(data[0], alone["data"], atol=1e-6)
    assert (data[2] > 0).any()
    assert np.shape(answer["diagnostics"]["energy"]["u"]) == (5,)
    with streaming(service, request) as stream:
        steps = [data["data"] for name, data in stream if name == "step"]
    np.testing.assert_allclose(np.swapaxes(steps, 0, 1), data)
    with Client(service.url) as client:
        options = {name: request[name] for name in ("model", "coefficients", "grid", "ensemble")}
        dataset = client.rollout("advection", 4, REQUEST["initial_condition"], **options)
    assert dataset["statistic"].values.tolist() == found.ensemble.statistics
