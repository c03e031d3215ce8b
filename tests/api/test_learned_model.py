"""A trained model, from its folder through the engine process to the answer."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.api.conftest import RunningService, running_service
from tests.small_models import SMALL, card, make
from ups_server.client import Client
from ups_server.errors import UserError
from ups_server.model.checkpoint import save_pretrained
from ups_server.model.config import CoefficientRange
from ups_server.pde import family
from ups_server.settings import Settings
from ups_server.solvers.registry import load
from ups_server.solvers.solver import Problem


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, language_model: Path) -> Path:
    """A data folder with one small model."""
    data_dir = tmp_path_factory.mktemp("learned")
    burgers = card().model_copy(update={"coefficients": {"nu": CoefficientRange(low=0.001, high=0.5)}})
    model = make(SMALL.changed(families={"burgers": burgers}), language_model)
    save_pretrained(model, data_dir / "models" / "small")
    return data_dir


@pytest.fixture(scope="module")
def learned(folder: Path) -> Iterator[RunningService]:
    settings = Settings(default_model="small", data_dir=folder, device="cpu", threads=1, engine_stall_timeout_s=120)
    with running_service(settings) as running:
        yield running


def test_the_service_answers_as_the_solver_does(learned: RunningService, folder: Path) -> None:
    burgers = family("burgers")
    grid = burgers.default_grid(32)
    initial = burgers.sample_initial(np.random.default_rng(5), 2, grid).astype(np.float32)
    session = load(folder / "models" / "small", device="cpu").session(
        Problem("burgers", {"nu": 0.01}, grid, burgers.boundary, 0.05), initial
    )
    expected = [session.step() for _ in range(3)]
    with Client(learned.url) as client:
        dataset = client.rollout("burgers", 3, initial, coefficients={"nu": 0.01})
        assert dataset.attrs["model"] == "small"
        for step, values in enumerate(expected, start=1):
            np.testing.assert_allclose(dataset["u"][:, step], values[..., 0], rtol=1e-4, atol=1e-4)
        with pytest.raises(UserError) as caught:
            client.rollout("advection", 1, {"sample": {}})
        assert caught.value.code == "family_not_in_model"


def test_defaults_are_the_models(learned: RunningService) -> None:
    answer = learned.post({"family": "burgers", "initial_condition": {"sample": {}}, "n_steps": 1}).json()
    assert answer["model"] == "small"
    assert answer["grid"]["n"] == [32]
    assert answer["flags"] == []
    outside = learned.post(
        {
            "family": "burgers",
            "coefficients": {"nu": 0.9},
            "grid": {"n": [64]},
            "initial_condition": {"sample": {}},
            "n_steps": 1,
        }
    ).json()
    codes = [flag["code"] for flag in outside["flags"]]
    assert codes == ["coefficient_outside_trained_range", "resolution_differs_from_training"]


@pytest.mark.parametrize("n", [8, 9, 33, 100])
def test_any_number_of_points(learned: RunningService, n: int) -> None:
    request = {"family": "burgers", "grid": {"n": [n]}, "initial_condition": {"sample": {}}, "n_steps": 2}
    response = learned.post(request)
    assert response.status_code == 200
    assert np.array(response.json()["data"]).shape == (3, n, 1)


def test_values_it_never_saw_end_in_a_flag_and_not_in_an_error(learned: RunningService) -> None:
    request = {"family": "burgers", "initial_condition": {"values": [3e38, -3e38] * 16}, "n_steps": 3}
    answer = learned.post(request).json()
    assert [flag["code"] for flag in answer["flags"]] == [
        "state_outside_trained_range",
        "state_far_from_training",
        "blow_up",
    ]
    assert len(answer["data"]) < 4
