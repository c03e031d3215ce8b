"""The application around the rollouts: resources, health, start, end, OpenAPI."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tests.api.conftest import RunningService, wait_until
from ups_server import __version__
from ups_server.api.app import create_app
from ups_server.api.server import serve
from ups_server.errors import UserError
from ups_server.pde import families
from ups_server.settings import Settings


def test_families(service: RunningService) -> None:
    listed = service.get("/v1/families").json()["families"]
    assert [entry["id"] for entry in listed] == list(families())
    burgers = service.get("/v1/families/burgers").json()
    assert burgers in listed
    assert burgers["equation"] == families()["burgers"].equation
    assert [entry["name"] for entry in burgers["fields"]] == ["u"]
    (nu,) = burgers["coefficients"]
    assert (nu["name"], nu["low"], nu["high"]) == ("nu", 0.0, None)


def test_models(service: RunningService) -> None:
    answer = service.get("/v1/models").json()
    assert answer["default"] == "persistence"
    assert [entry["id"] for entry in answer["models"]][-2:] == ["numerical", "persistence"]
    numerical = service.get("/v1/models/numerical").json()
    assert set(numerical["families"]) == set(families())
    assert "source" not in numerical


def test_health(service: RunningService) -> None:
    assert service.get("/healthz").json() == {"status": "ok", "version": __version__}
    ready = service.get("/readyz").json()
    assert (ready["status"], ready["device"]) == ("ready", "cpu")
    assert "persistence" in ready["models"]


def test_openapi_refers_only_to_what_it_defines() -> None:
    document = create_app(Settings()).openapi()
    references = set(re.findall(r"'\$ref': '#/components/schemas/(\w+)'", str(document)))
    assert references <= set(document["components"]["schemas"])
    assert {"RolloutRequest", "RolloutAnswer", "Problem"} <= references
    assert set(document["paths"]) == {
        "/healthz",
        "/metrics",
        "/readyz",
        "/v1/equations",
        "/v1/evaluations",
        "/v1/evaluations/{job_id}",
        "/v1/evaluations/{job_id}/cancel",
        "/v1/evaluations/{job_id}/events",
        "/v1/evaluations/{job_id}/resume",
        "/v1/fine-tuning/jobs",
        "/v1/fine-tuning/jobs/{job_id}",
        "/v1/fine-tuning/jobs/{job_id}/cancel",
        "/v1/fine-tuning/jobs/{job_id}/checkpoints",
        "/v1/fine-tuning/jobs/{job_id}/events",
        "/v1/fine-tuning/jobs/{job_id}/resume",
        "/v1/keys/current",
        "/v1/families",
        "/v1/families/{family_id}",
        "/v1/files",
        "/v1/files/{file_id}",
        "/v1/files/{file_id}/content",
        "/v1/files/{file_id}/data",
        "/v1/files/{file_id}/declaration",
        "/v1/files/{file_id}/preview",
        "/v1/models",
        "/v1/models/{model_id}",
        "/v1/rollouts",
        "/v1/rollouts/{job_id}",
        "/v1/rollouts/{job_id}/cancel",
        "/v1/rollouts/{job_id}/events",
        "/v1/rollouts/{job_id}/result",
        "/v1/rollouts/{job_id}/result/{key}",
        "/v1/rollouts/{job_id}/resume",
        "/v1/super-resolution",
        "/v1/webhooks",
        "/v1/webhooks/{webhook_id}",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/{model_id}",
        "/v2/models/{model_id}/infer",
        "/v2/models/{model_id}/ready",
    }
    content = document["paths"]["/v1/rollouts"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "application/vnd.safetensors", "application/x-npz"}


def test_the_api_and_the_client_start_without_torch(repository: Path) -> None:
    heavy = ["torch", "transformers", "neuralop", "scipy", "xarray", "matplotlib"]
    code = f"import ups_server.api.server, ups_server.client, sys; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_taken_address(service: RunningService) -> None:
    with pytest.raises(UserError) as caught:
        serve(Settings(port=httpx.URL(service.url).port or 0))
    assert caught.value.code == "address_in_use"


SERVE = """
import sys
from ups_server.api.server import serve
from ups_server.settings import Settings
serve(Settings(port=0, device="cpu", threads=1, default_model="persistence", data_dir=sys.argv[1]), print)
"""


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_engine_and_worker_end_with_the_service(repository: Path, tmp_path: Path, ending: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-u", "-c", SERVE, str(tmp_path)],
        cwd=repository,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        wait_until(lambda: _ready(url), "the service is ready")
        children = psutil.Process(process.pid).children()
        assert len(children) == 2  # engine and worker
        os.kill(process.pid, ending)
        process.wait(30)
        wait_until(lambda: all(map(_ended, children)), "engine and worker ended")


def _ended(child: psutil.Process) -> bool:
    try:
        return not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_without_its_default_model_the_service_lives_but_is_not_ready(tmp_path: Path) -> None:
    from fastapi.testclient import TestClient

    app = create_app(Settings(default_model="absent", data_dir=tmp_path, device="cpu", threads=1))
    with TestClient(app) as client:
        wait_until(lambda: client.get("/readyz").json()["status"] == "loading", "the engine is up")
        answer = client.get("/readyz")
        assert answer.status_code == 503
        assert "absent" in answer.json()["reason"]
        assert client.get("/healthz").status_code == 200
