"""The Open Inference Protocol, by a public client of it and byte by byte."""

import json
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from tests.api.conftest import RunningService, running_service
from ups_server.access.keys import KeyStore
from ups_server.access.scopes import Scope
from ups_server.settings import Settings

N = 32
BURGERS: dict[str, Any] = {"family": "burgers", "coefficients": '{"nu": 0.01}', "n_steps": 3}
INFER = "/v2/models/numerical/infer"


def wave(*batch: int) -> np.ndarray:
    """A state of Burgers' equation, or several."""
    points = (np.arange(N, dtype=np.float32) + 0.5) / N
    return np.broadcast_to(np.sin(2 * np.pi * points), (*batch, N)).astype(np.float32)[..., None]


def state(values: np.ndarray, binary: bool = True) -> triton.InferInput:
    given = triton.InferInput("initial_condition", list(values.shape), "FP32")
    given.set_data_from_numpy(values, binary_data=binary)
    return given


@pytest.fixture
def client(service: RunningService) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(service.url.removeprefix("http://"))


def expected(service: RunningService, values: np.ndarray) -> np.ndarray:
    """What `/v1/rollouts` answers to the same."""
    request = {
        "model": "numerical",
        "family": "burgers",
        "coefficients": {"nu": 0.01},
        "n_steps": 3,
        "initial_condition": {"values": values.tolist()},
    }
    return np.array(service.post(request).json()["data"], dtype=np.float32)


def test_server_and_models_say_what_they_are(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("numerical")
    assert not client.is_model_ready("ups-maxi")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    described = client.get_model_metadata("numerical")
    assert described["name"] == "numerical"
    assert described["inputs"] == [{"name": "initial_condition", "datatype": "FP32", "shape": [-1, -1, -1]}]
    assert [output["name"] for output in described["outputs"]] == ["data", "times"]


@pytest.mark.parametrize("binary", [True, False])
def test_a_rollout_is_that_of_the_service(
    service: RunningService, client: triton.InferenceServerClient, binary: bool
) -> None:
    wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("data", "times")]
    answer = client.infer("numerical", [state(wave(), binary)], outputs=wanted, parameters=BURGERS, request_id="7")
    np.testing.assert_array_equal(answer.as_numpy("data"), expected(service, wave()))
    np.testing.assert_allclose(answer.as_numpy("times"), [0.0, 0.05, 0.1, 0.15])
    document = answer.get_response()
    assert document["id"] == "7"
    header = json.loads(document["parameters"]["header"])
    assert (header["model"], header["family"], header["coefficients"]) == ("numerical", "burgers", {"nu": 0.01})


def test_a_batch_and_every_output(service: RunningService, client: triton.InferenceServerClient) -> None:
    values = wave(2)
    answer = client.infer("numerical", [state(values)], parameters=BURGERS)
    np.testing.assert_array_equal(answer.as_numpy("data"), expected(service, values))
    np.testing.assert_allclose(answer.as_numpy("x"), (np.arange(N) + 0.5) / N)


def test_compressed_both_ways(service: RunningService, client: triton.InferenceServerClient) -> None:
    answer = client.infer(
        "numerical",
        [state(wave())],
        parameters=BURGERS,
        request_compression_algorithm="gzip",
        response_compression_algorithm="gzip",
    )
    np.testing.assert_array_equal(answer.as_numpy("data"), expected(service, wave()))


def test_states_can_be_drawn(service: RunningService, client: triton.InferenceServerClient) -> None:
    drawn = {**BURGERS, "initial_condition": '{"sample": {"seed": 3}}', "grid": '{"n": [32]}'}
    data = client.infer("numerical", [], parameters=drawn).as_numpy("data")
    request = {"model": "numerical", "family": "burgers", "coefficients": {"nu": 0.01}, "n_steps": 3}
    same = service.post({**request, "grid": {"n": [32]}, "initial_condition": {"sample": {"seed": 3}}}).json()
    np.testing.assert_array_equal(data, np.array(same["data"], dtype=np.float32))


@pytest.mark.parametrize(
    ("model", "parameters", "message"),
    [
        ("ups-maxi", BURGERS, "there is no model"),
        ("numerical", {**BURGERS, "family": "burger"}, "burger"),
        ("numerical", {**BURGERS, "coefficients": '{"nu": -1}'}, "nu"),
        ("numerical", {**BURGERS, "coefficients": "nu=1"}, "not valid JSON"),
        ("numerical", {**BURGERS, "model": "persistence"}, "the address names the model already"),
        ("numerical", {**BURGERS, "horizon": 3}, "horizon"),
    ],
)
def test_mistakes_are_said_as_the_protocol_says_them(
    client: triton.InferenceServerClient, model: str, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(InferenceServerException, match=message):
        client.infer(model, [state(wave())], parameters=parameters)


def test_an_output_that_is_not_there(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="no such tensor"):
        client.infer(
            "numerical", [state(wave())], outputs=[triton.InferRequestedOutput("velocity")], parameters=BURGERS
        )


TENSOR = {"name": "initial_condition", "shape": [N], "datatype": "FP32"}


@pytest.mark.parametrize(
    ("tensor", "behind", "code"),
    [
        ({**TENSOR}, 0, "invalid_body"),
        ({**TENSOR, "data": [0.0] * 31}, 0, "wrong_shape"),
        ({**TENSOR, "data": [[0.0], [0.0, 1.0]]}, 0, "wrong_shape"),
        ({**TENSOR, "data": [True] * N}, 0, "wrong_dtype"),
        ({**TENSOR, "data": ["0"] * N}, 0, "wrong_dtype"),
        ({**TENSOR, "data": [0.0] * N, "datatype": "BYTES"}, 0, "wrong_dtype"),
        ({**TENSOR, "data": [0.0] * N}, 4, "invalid_body"),
        ({**TENSOR, "parameters": {"binary_data_size": 128}}, 124, "invalid_body"),
        ({**TENSOR, "parameters": {"binary_data_size": 124}}, 124, "wrong_shape"),
        ({**TENSOR, "parameters": {"binary_data_size": -4}}, 0, "invalid_body"),
        ({**TENSOR, "parameters": {"binary_data_size": 128}, "data": [0.0]}, 128, "invalid_body"),
    ],
)
def test_tensors_that_do_not_fit(service: RunningService, tensor: dict[str, Any], behind: int, code: str) -> None:
    text = json.dumps({"parameters": BURGERS, "inputs": [tensor]}).encode()
    answer = httpx.post(
        service.url + INFER,
        content=text + bytes(behind),
        headers={"Inference-Header-Content-Length": str(len(text))},
        timeout=60,
    )
    assert answer.json()["code"] == code
    assert answer.json()["error"].startswith(answer.json()["detail"])


def test_a_header_beyond_the_body(service: RunningService) -> None:
    answer = httpx.post(
        service.url + INFER, content=b"{}", headers={"Inference-Header-Content-Length": "3"}, timeout=60
    )
    assert answer.json()["code"] == "invalid_body"


def test_rollouts_need_the_right_to_run(settings: Settings) -> None:
    with running_service(settings) as service:
        store = KeyStore(service.jobs.database)
        keys = {scope: store.create(scope.value, [scope], 1)[1] for scope in (Scope.READ, Scope.RUN)}
        client = triton.InferenceServerClient(service.url.removeprefix("http://"))
        assert client.is_server_ready()
        with pytest.raises(InferenceServerException, match="API key"):
            client.get_model_metadata("numerical")
        with pytest.raises(InferenceServerException, match="may not do this"):
            show(client, keys[Scope.READ])
        assert show(client, keys[Scope.RUN]).as_numpy("data").shape == (4, N, 1)


def show(client: triton.InferenceServerClient, key: str) -> triton.InferResult:
    return client.infer("numerical", [state(wave())], parameters=BURGERS, headers={"Authorization": f"Bearer {key}"})
