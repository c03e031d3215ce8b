"""The client against a real service."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

from tests.api.conftest import RunningService, wait_until
from ups_server.client import Client
from ups_server.data.formats import open_source
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
    assert "<img alt='numerical: " in dataset._repr_html_(), "a notebook shows a picture of it"


def test_rollout_of_an_array(service: RunningService) -> None:
    initial = np.random.default_rng(0).random((2, 32, 1))
    with Client(service.url) as client:
        dataset = client.rollout("advection", 2, initial, grid={"extent": [[0.0, 3.0]]})
    assert dataset["u"].dims == ("trajectory", "time", "x")
    np.testing.assert_array_equal(dataset["u"][:, 0], initial[..., 0].astype(np.float32))
    assert float(dataset["x"][-1]) == pytest.approx(3 - 3 / 64)


def test_a_state_of_a_batch_is_solved_with_its_own_coefficients(service: RunningService) -> None:
    viscosities = np.array([0.01, 0.2])
    wave = np.sin(2 * np.pi * (np.arange(32) + 0.5) / 32)
    with Client(service.url) as client:

        def solved(states: NDArray[np.float64], nu: "float | NDArray[np.float64]") -> xr.Dataset:
            return client.rollout(
                "burgers", 3, states, coefficients={"nu": nu}, model="numerical", grid={"n": [32]}, deterministic=True
            )

        both = solved(np.stack([wave, wave]), viscosities)
        alone = [solved(wave, float(nu)) for nu in viscosities]
    assert both["nu"].dims == ("trajectory",)
    assert both["nu"].values.tolist() == [0.01, 0.2]
    for row, solution in enumerate(alone):
        np.testing.assert_array_equal(both["u"].isel(trajectory=row).values, solution["u"].values)
    assert float(abs(alone[0]["u"] - alone[1]["u"]).max()) > 0.1


@pytest.mark.parametrize("accept", ["application/x-netcdf", "application/x-npz"])
def test_files_hold_the_coefficients_of_each_state(service: RunningService, accept: str, tmp_path: Path) -> None:
    request = {
        "model": "numerical",
        "family": "burgers",
        "coefficients": {"nu": [0.01, 0.2]},
        "grid": {"n": [32]},
        "initial_condition": {"sample": {"seed": 1, "count": 2}},
        "n_steps": 2,
    }
    answer = service.post(request, Accept=accept)
    assert answer.status_code == 200, answer.text
    path = tmp_path / ("solved.nc" if "netcdf" in accept else "solved.npz")
    path.write_bytes(answer.content)
    with closing(open_source(path)) as source:
        assert source.coefficients[:, source.coefficient_names.index("nu")].tolist() == [0.01, 0.2]


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
