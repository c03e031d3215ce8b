"""The client against a real service."""

import numpy as np
import pytest

from tests.api.conftest import RunningService, wait_until
from ups_server.client import Client
from ups_server.errors import UserError
from ups_server.pde import families, family


def test_families_and_models(service: RunningService) -> None:
    with Client(service.url) as client:
        assert [entry["id"] for entry in client.families()] == list(families())
        assert client.family("burgers")["id"] == "burgers"
        assert {"numerical", "persistence"} <= {entry["id"] for entry in client.models()}
        assert client.model("numerical")["kind"] == "builtin"


def test_rollout_of_a_sample(service: RunningService) -> None:
    with Client(service.url) as client:
        dataset = client.rollout(
            "burgers", 3, {"sample": {"seed": 7}}, model="numerical", coefficients={"nu": 0.1}, grid={"n": [64]}
        )
    grid = family("burgers").default_grid(64)
    assert dict(dataset.sizes) == {"time": 4, "x": 64}
    np.testing.assert_allclose(dataset["x"], grid.axes[0])
    np.testing.assert_allclose(dataset["time"], np.arange(4) * 0.05)
    assert dataset["u"].attrs["units"] == family("burgers").fields[0].unit
    assert dataset["nu"] == 0.1
    assert dataset.attrs["model"] == "numerical"
    assert dataset.attrs["flags"] == "[]"


def test_rollout_of_an_array(service: RunningService) -> None:
    initial = np.random.default_rng(0).random((2, 32, 1))
    with Client(service.url) as client:
        dataset = client.rollout("advection", 2, initial, grid={"extent": [[0.0, 3.0]]})
    assert dataset["u"].dims == ("trajectory", "time", "x")
    np.testing.assert_array_equal(dataset["u"][:, 0], initial[..., 0].astype(np.float32))
    assert float(dataset["x"][-1]) == pytest.approx(3 - 3 / 64)


def test_stream(service: RunningService) -> None:
    initial = np.sin(2 * np.pi * (np.arange(32) + 0.5) / 32)
    with Client(service.url) as client:
        steps = list(client.stream("burgers", 4, initial, model="numerical", save_every=2))
        dataset = client.rollout("burgers", 4, initial, model="numerical", save_every=2)
    assert [step for step, _, _ in steps] == [0, 1, 2]
    assert [time for _, time, _ in steps] == dataset["time"].values.tolist()
    np.testing.assert_array_equal(np.stack([values for _, _, values in steps])[..., 0], dataset["u"])


def test_closing_a_stream_cancels_it(service: RunningService) -> None:
    with Client(service.url) as client:
        stream = client.stream("burgers", 10_000, {"sample": {}}, grid={"n": [2**11]})
        next(stream)
        stream.close()
        wait_until(lambda: service.engine.health().active == 0, "the rollout is cancelled")


def test_problems_are_user_errors(service: RunningService) -> None:
    with Client(service.url) as client:
        with pytest.raises(UserError) as caught:
            client.rollout("navier", 1, {"sample": {}})
        assert (caught.value.code, caught.value.got) == ("unknown_family", "navier")
        with pytest.raises(UserError) as caught:
            next(client.stream("burgers", 1, {"sample": {}}, coefficients={"nu": -1.0}))
        assert caught.value.code == "coefficient_out_of_domain"
        with pytest.raises(UserError) as caught:
            client.model("a/../b")
        assert caught.value.code in ("unknown_model", "not_found")
        with pytest.raises(UserError) as caught:
            client.rollout("burgers", 1, np.full((16, 1), np.nan))
        assert caught.value.code == "non_finite_initial_condition"
