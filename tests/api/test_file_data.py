"""The values of stored files over HTTP, with the client and on the command line."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.api.conftest import DEADLINE_S, RunningService
from tests.api.test_files import examined, post, problem
from tests.cases import ups
from tests.pdebench_files import plain, static_of, values_of, write
from ups_server.api.routes.file_data import FORMATS
from ups_server.client import AsyncClient, Client
from ups_server.data.export import suffixes
from ups_server.data.formats import open_source
from ups_server.errors import UserError

NAME = "incompressible_ns_2d"
READ = [name for name in FORMATS if name not in ("json", "safetensors")]
SUFFIX = {format.format: suffix for suffix, format in suffixes().items()}


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("file") / "mine.h5", NAME)


@pytest.fixture(scope="module")
def file_id(service: RunningService, mine: Path) -> str:
    answer = post(service, mine.read_bytes(), name="mine.h5")
    record = examined(service, answer.json()["id"])
    assert record["state"] == "ready", record["problem"]
    return str(record["id"])


def get(service: RunningService, file_id: str, accept: str | None = None, **params: Any) -> httpx.Response:
    headers = {} if accept is None else {"Accept": accept}
    address = f"{service.url}/v1/files/{file_id}/data"
    return httpx.get(address, params=params, headers=headers, timeout=DEADLINE_S)


@pytest.mark.parametrize("format", READ)
def test_what_was_uploaded_comes_back(
    service: RunningService, file_id: str, mine: Path, tmp_path: Path, format: str
) -> None:
    answer = get(service, file_id, format=format)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == FORMATS[format]
    assert 'filename="mine.' in answer.headers["content-disposition"]
    (tmp_path / "back").write_bytes(answer.content)
    with open_source(tmp_path / "back") as back, open_source(mine) as original:
        np.testing.assert_array_equal(back.read([0, 1, 2]), values_of(NAME))
        np.testing.assert_array_equal(back.read_static([0, 1, 2]), static_of(NAME))
        np.testing.assert_array_equal(back.coefficients, original.coefficients)
        np.testing.assert_array_equal(back.times, original.times)
        assert (back.family, back.grid, back.boundary) == (original.family, original.grid, original.boundary)


@pytest.mark.parametrize("format", ["netcdf", "npz", "zarr_zip", "the_well", "hdf5"])
def test_what_comes_back_can_be_uploaded(service: RunningService, file_id: str, format: str) -> None:
    answer = get(service, file_id, format=format)
    record = examined(service, post(service, answer.content, name=f"again{SUFFIX.get(format, '.h5')}").json()["id"])
    assert record["state"] == "ready", record["problem"]
    first, second = (get(service, each, format="npz").content for each in (file_id, record["id"]))
    assert first == second


def test_the_accept_header(service: RunningService, file_id: str) -> None:
    for accept, expected in (
        (None, FORMATS["netcdf"]),
        ("*/*", FORMATS["netcdf"]),
        ("application/x-npz", FORMATS["npz"]),
        ("application/json;q=0.5, application/zip", FORMATS["zarr_zip"]),
    ):
        answer = get(service, file_id, accept)
        assert answer.headers["content-type"] == expected
        assert answer.headers["vary"] == "Accept"
    assert problem(get(service, file_id, "text/event-stream")) == (406, "not_acceptable")
    assert problem(get(service, file_id, format="zarr")) == (422, "unknown_format")
    partial = service.send("GET", f"/v1/files/{file_id}/data", Range="bytes=0-9")
    assert partial.status_code == 200
    assert "accept-ranges" not in partial.headers


def test_a_part(service: RunningService, file_id: str, mine: Path, tmp_path: Path) -> None:
    values = values_of(NAME)
    with open_source(mine) as source:
        times = source.times
    document = get(service, file_id, format="json", trajectories="2,0", steps="1:3", resolution=8).json()
    np.testing.assert_array_equal(np.array(document["data"], np.float32), values[[0, 2], 1:3, ::2, ::2])
    np.testing.assert_array_equal(np.array(document["times"]), times[1:3])
    with Client(service.url) as client:
        found = client.data(file_id, [1], times=(times[1], times[2]), resolution=[8, 4])
        saved = tmp_path / "part.npz"
        client.download_data(file_id, saved, "1:", steps=[0, 2])
        with pytest.raises(UserError) as caught:
            client.data(file_id, 3)
        assert caught.value.code == "row_out_of_range"
    stacked = np.stack([found[name].values for name in found if "time" in found[name].dims], axis=-1)
    np.testing.assert_array_equal(stacked, values[1:2, 1:3, ::2, ::2])
    np.testing.assert_array_equal(found["time"].values, times[1:3])
    with open_source(saved) as part:
        np.testing.assert_array_equal(part.read([0, 1]), values[1:, [0, 2]])

    async def asynchronously() -> Any:
        async with AsyncClient(service.url) as other:
            return await other.data(file_id, 1, times=(times[1], times[2]), resolution=8)

    assert asyncio.run(asynchronously()).identical(found)


def test_on_the_command_line(
    service: RunningService, file_id: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "there.nc"
    options = ["--url", service.url, "--trajectories", "1:3", "--steps", "0,1", "--resolution", "8"]
    assert ups("files", "download", file_id, str(there), *options) == 0, capsys.readouterr().err
    with open_source(there) as part:
        np.testing.assert_array_equal(part.read([0, 1]), values_of(NAME)[1:3, :2, ::2, ::2])
    assert ups("files", "download", file_id, str(tmp_path / "well"), "--to", "the_well", "--url", service.url) == 0
    for wrong in (["x.csv"], ["x.nc", "--times", "1"], ["x.nc", "--trajectories", "9"]):
        assert ups("files", "download", file_id, *wrong, "--url", service.url) == 2
    assert sorted(entry.name for entry in tmp_path.iterdir() if "part" in entry.name) == []


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"trajectories": "3"}, "row_out_of_range"),
        ({"trajectories": "0:9"}, "row_out_of_range"),
        ({"trajectories": "0:99999999999999"}, "invalid_trajectories"),
        ({"trajectories": "0:2147483647"}, "row_out_of_range"),
        ({"trajectories": "-1:2"}, "invalid_trajectories"),
        ({"trajectories": "one"}, "invalid_trajectories"),
        ({"times": "50:60"}, "invalid_times"),
        ({"times": "0"}, "invalid_times"),
        ({"steps": "99"}, "invalid_steps"),
        ({"steps": "-1"}, "invalid_steps"),
        ({"steps": "0:2147483647"}, "invalid_steps"),
        ({"times": "0:1", "steps": "0"}, "invalid_times"),
        ({"resolution": 7}, "resolution_mismatch"),
        ({"colour": "red"}, "unknown_parameter"),
    ],
)
def test_what_is_not_there(service: RunningService, file_id: str, query: dict[str, Any], code: str) -> None:
    assert problem(get(service, file_id, **query)) == (422, code)


def test_rows_have_the_numbers_of_the_file(service: RunningService, tmp_path: Path) -> None:
    values = values_of("advection")[..., 0].copy()
    values[1, 2, 3] = np.nan
    path = plain(tmp_path / "1D_Advection_Sols_beta0.4.hdf5", {"beta": 0.4}, tensor=values)
    record = examined(service, post(service, path.read_bytes(), name=path.name).json()["id"])
    assert record["report"]["rows"] == len(values) - 1
    assert problem(get(service, record["id"], trajectories="1")) == (422, "unusable_row")
    for asked, rows in (("2", [2]), ("0:", [0, 2]), ("1:3", [2])):
        document = get(service, record["id"], format="json", trajectories=asked).json()
        np.testing.assert_array_equal(np.array(document["data"], np.float32)[..., 0], values[rows])


def test_an_equation_of_ones_own(service: RunningService, tmp_path: Path) -> None:
    path = plain(tmp_path / "own.h5", {})
    equation = {
        "id": "my_waves", "name": "waves", "equation": "u_t + u_x = 0", "extent": [[0, 1]],
        "fields": [{"name": "height", "dataset": "tensor", "slot": 0}], "boundary": [["periodic", "periodic"]],
    }  # fmt: skip
    record = examined(service, _declared(service, path, equation)["id"])
    assert record["state"] == "ready", record["problem"]
    with Client(service.url) as client:
        found = client.data(record["id"])
    np.testing.assert_array_equal(found["height"].values, values_of("advection")[..., 0])
    assert found.attrs["family"] == "my_waves"


def _declared(service: RunningService, path: Path, equation: dict[str, Any]) -> dict[str, Any]:
    answer = post(service, path.read_bytes(), name=path.name, declaration=json.dumps({"equation": equation}))
    assert answer.status_code == 201, answer.text
    return dict(answer.json())
