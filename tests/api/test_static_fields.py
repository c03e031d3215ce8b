"""Answers of equations with static fields are whole: what the service has solved can be read and brought back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.api.conftest import RunningService, wait_until
from tests.api.test_files import examined, post
from tests.cases import ups
from tests.pdebench_files import static_of, values_of, write
from ups_server.client import Client
from ups_server.data.formats import exporters, open_source

FORMATS = {
    name: found for name, found in exporters().items() if found.media_type and name not in ("json", "safetensors")
}
NAME = "incompressible_ns_2d"
STEPS = 2


@pytest.fixture(scope="module")
def file_id(service: RunningService, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = write(tmp_path_factory.mktemp("file") / "mine.h5", NAME)
    return str(examined(service, post(service, path.read_bytes(), name="mine.h5").json()["id"])["id"])


def request(file_id: str, **more: Any) -> dict[str, Any]:
    start = {"file": file_id, "trajectory": 1}
    return {"family": NAME, "model": "persistence", "n_steps": STEPS, "initial_condition": start, **more}


def check_whole(path: Path) -> None:
    static = static_of(NAME)
    assert static is not None
    with open_source(path) as back:
        np.testing.assert_array_equal(back.read([0])[0, 0], values_of(NAME)[1, 0])
        found = back.read_static([0])
        assert found is not None
        np.testing.assert_array_equal(found[0], static[1])


@pytest.mark.parametrize("format", FORMATS)
def test_an_answer_is_read_and_brought_back(service: RunningService, file_id: str, tmp_path: Path, format: str) -> None:
    answer = service.post(request(file_id), Accept=str(FORMATS[format].media_type))
    assert answer.status_code == 200, answer.text
    (tmp_path / "back").write_bytes(answer.content)
    check_whole(tmp_path / "back")
    suffix = next(iter(FORMATS[format].suffixes), ".hdf5")
    record = examined(service, post(service, answer.content, name=f"again{suffix}").json()["id"])
    assert record["state"] == "ready", record["problem"]


def test_json_has_none(service: RunningService, file_id: str) -> None:
    assert "static" not in service.post(request(file_id)).json()


def test_the_client_has_them(service: RunningService, file_id: str, tmp_path: Path) -> None:
    static = static_of(NAME)
    assert static is not None
    with Client(service.url) as client:
        start = {"file": file_id, "trajectory": 1}
        found = client.rollout(NAME, STEPS, start, model="persistence")
        np.testing.assert_array_equal(np.stack([found["force_x"], found["force_y"]], -1), static[1])
        job = client.submit(NAME, STEPS, start, model="persistence")["id"]
        wait_until(lambda: client.job(job)["finished_at"] is not None, "it is computed")
        lazy = client.result(job)
        np.testing.assert_array_equal(np.stack([lazy["force_x"], lazy["force_y"]], -1), static[1])
        for suffix in (".nc", ".h5", ".npz"):
            client.download(job, tmp_path / f"result{suffix}")
            check_whole(tmp_path / f"result{suffix}")


def test_on_a_finer_grid(service: RunningService, file_id: str, tmp_path: Path) -> None:
    finer = {"output_resolution": [32, 16]}
    answer = service.post(request(file_id, **finer), Accept="application/x-npz")
    assert answer.status_code == 200, answer.text
    (tmp_path / "back.npz").write_bytes(answer.content)
    with open_source(tmp_path / "back.npz") as back:
        found = back.read_static([0])
    assert found is not None
    assert found.shape == (1, 32, 16, 2)


def test_on_the_command_line_through_a_service(service: RunningService, tmp_path: Path) -> None:
    words = ["solve", NAME, "--method", "persistence", "--seed", "3", "--resolution", "16", "--n-steps", str(STEPS)]
    assert ups(*words, "-o", str(tmp_path / "here.h5")) == 0
    assert ups(*words, "--url", service.url, "-o", str(tmp_path / "there.h5")) == 0
    with open_source(tmp_path / "here.h5") as here, open_source(tmp_path / "there.h5") as there:
        np.testing.assert_array_equal(there.read_static([0]), here.read_static([0]))
        np.testing.assert_array_equal(there.read([0]), here.read([0]))
