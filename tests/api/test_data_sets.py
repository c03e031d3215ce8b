"""Several files as one data set: uploaded in one go, broken off and gone on with, examined, read, learned from."""

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from scipy.io import savemat

from tests.api.conftest import DEADLINE_S, RunningService, running_service
from tests.api.test_files import examined, place, problem, put
from tests.cases import ups
from tests.pdebench_files import plain, values_of
from tests.small_models import write_parent
from ups_server.client import Client
from ups_server.data.mapping import Mapping
from ups_server.errors import UserError
from ups_server.settings import Settings

POINTS, FRAMES = 32, 48
X, T = np.arange(POINTS) / POINTS, np.arange(FRAMES) * 0.02
SPEEDS = {"wave_1.mat": 0.2, "wave_2.mat": 0.3, "wave_10.mat": 0.5, "wave_11.mat": 0.7}
"""In the order of the numbers."""
VALUES = np.stack([np.sin(2 * np.pi * (X - speed * T[:, None])) for speed in SPEEDS.values()]).astype(np.float32)


@pytest.fixture
def waves(tmp_path: Path) -> list[Path]:
    """Files of one trajectory each that do not explain themselves; the speed is in each."""
    folder = tmp_path / "waves"
    folder.mkdir()
    for (name, speed), values in zip(SPEEDS.items(), VALUES, strict=True):
        savemat(folder / name, {"x": X[:, None], "t": T[:, None], "u": values.T, "speed": speed}, appendmat=False)
    return [folder / name for name in SPEEDS]


def parts(paths: list[Path]) -> list[dict[str, Any]]:
    return [{"name": path.name, "size": path.stat().st_size} for path in paths]


def test_in_parts_and_after_a_break(service: RunningService, waves: list[Path]) -> None:
    """A break inside of the second file; the mapping that is proposed explains all of them."""
    content = b"".join(path.read_bytes() for path in waves)
    size, broken = len(content), waves[0].stat().st_size + 100
    address = place(service, size, name="wave_*.mat", parts=parts(waves))
    assert put(address, content[:broken], 0, size).json()["offset"] == broken
    assert put(address, content[broken - 50 :], broken - 50, size).json()["state"] == "validating"
    refused = examined(service, address.split("/")[-2])
    assert (refused["state"], refused["problem"]["code"]) == ("refused", "not_hdf5")
    assert refused["problem"]["detail"].startswith("wave_1.mat is a MATLAB 5 file")
    assert [part["name"] for part in refused["parts"]] == list(SPEEDS)
    proposed = yaml.safe_load(refused["problem"]["proposal"])
    assert proposed["coefficients"] == {"speed": {"array": "speed"}}
    assert "segments" not in proposed, "every file is a trajectory"
    answer = httpx.put(address.replace("/content", "/declaration"), json={"mapping": proposed}, timeout=DEADLINE_S)
    assert answer.status_code == 200, answer.text
    record = examined(service, refused["id"])
    assert (record["state"], record["report"]["rows"], record["name"]) == ("ready", 4, "wave_*.mat")
    assert record["report"]["check"]["coefficients"] == {"speed": [0.2, 0.7]}
    assert (record["size"], record["report"]["check"]["bytes"]) == (size, size)
    with Client(service.url) as client:
        data = client.data(record["id"])
        np.testing.assert_array_equal(data["u"].values, VALUES)
        np.testing.assert_allclose(data["speed"].values, [*SPEEDS.values()])
        np.testing.assert_array_equal(client.data(record["id"], [2])["u"].values, VALUES[2:3])


def test_files_whose_names_tell_their_family(service: RunningService, tmp_path: Path) -> None:
    paths = [plain(tmp_path / f"1D_Advection_Sols_beta{beta}.hdf5", {}) for beta in (0.4, 0.7)]
    with Client(service.url) as client:
        record = client.upload(paths)
        assert record["name"] == "1D_Advection_Sols_beta0.*.hdf5"
        assert (record["state"], record["report"]["rows"], record["family"]) == ("ready", 6, "advection")
        assert record["report"]["check"]["coefficients"] == {"beta": [0.4, 0.7]}
        values = client.data(record["id"])["u"].values
        np.testing.assert_array_equal(values, np.concatenate([values_of("advection")[..., 0]] * 2))
        again = client.upload(paths)
        assert again["id"] == record["id"], "the same files are the same upload"
        alone = client.upload(paths[:1])
        assert (alone["id"] != record["id"], alone["parts"]) == (True, [])


def test_files_that_are_no_data_set(service: RunningService, tmp_path: Path, waves: list[Path]) -> None:
    shifted = plain(tmp_path / "b_Advection_Sols_beta0.7.hdf5", {}, x_coordinate=np.arange(16, dtype="f4") / 16)
    first = plain(tmp_path / "a_Advection_Sols_beta0.4.hdf5", {})
    said = {"family": "advection", "coefficients": {"beta": 0.4}}
    with Client(service.url) as client:
        with pytest.raises(UserError) as caught:
            client.upload([first, shifted], said)
        assert caught.value.code == "ragged"
        assert caught.value.message == f"{shifted.name} differs in structure from the first file"
        damaged = tmp_path / "c.hdf5"
        damaged.write_bytes(first.read_bytes()[:900])
        with pytest.raises(UserError) as caught:
            client.upload([first, damaged], said)
        assert "c.hdf5" in caught.value.message
        lacking = tmp_path / "wave_12.mat"
        savemat(lacking, {"x": X[:, None], "t": T[:, None], "u": VALUES[0].T}, appendmat=False)
        mapping = {**MAPPING, "coefficients": {"speed": {"array": "speed"}}}
        with pytest.raises(UserError) as caught:
            client.upload([waves[0], lacking], {"mapping": mapping})
        assert caught.value.message == "wave_12.mat: the file has no array speed"


MAPPING: dict[str, Any] = {
    "equation": {"id": "wave_of_files", "name": "waves", "equation": "u_t + c u_x = 0"},
    "fields": [{"name": "u", "array": "u", "slot": 0}],
    "axes": ["x", "time"],
    "time": {"array": "t"},
    "space": {"x": {"array": "x", "points": "nodes"}},
    "boundary": [["periodic", "periodic"]],
}


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ({"size": 30, "parts": [{"name": "a", "size": 10}, {"name": "b", "size": 10}]}, "invalid_request"),
        ({"size": 10, "parts": [{"name": "a", "size": 10}, {"name": "b", "size": 0}]}, "empty_file"),
        ({"size": 10, "parts": [{"name": "", "size": 10}]}, "invalid_request"),
        ({"size": 1025, "parts": [{"name": "a", "size": 1}] * 1025}, "invalid_request"),
    ],
)
def test_mistakes(service: RunningService, document: dict[str, Any], code: str) -> None:
    answer = httpx.post(f"{service.url}/v1/files", json={"name": "a", **document}, timeout=DEADLINE_S)
    assert problem(answer) == (422, code)


def test_the_quota_counts_all_of_them(tmp_path: Path, waves: list[Path]) -> None:
    size = sum(path.stat().st_size for path in waves)
    settings = Settings(data_dir=tmp_path / "data", device="cpu", worker=False, files_quota_bytes=size - 1)
    with running_service(settings) as service, Client(service.url) as client:
        with pytest.raises(UserError) as caught:
            client.upload(waves, {"mapping": MAPPING})
        assert caught.value.code == "quota_exceeded"


def test_on_the_command_line(
    service: RunningService, waves: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files, a pattern and a folder are the same data set, and the same upload, as they are for other commands."""
    folder, written = waves[0].parent, tmp_path / "mapping.yaml"
    assert ups("data", "inspect", str(folder / "wave_*.mat")) == 0
    found = capsys.readouterr()
    assert "wave_*.mat: 4 files, the first a MATLAB 5 file" in found.out
    mapping = Mapping.from_text(found.out)
    assert (mapping.segments, set(mapping.coefficients)) == (1, {"speed"})
    written.write_text(found.out)
    assert ups("data", "check", str(folder), "--map", str(written), "--json") == 0
    checked = json.loads(capsys.readouterr().out)
    ids = set()
    for words in ([str(path) for path in reversed(waves)], [str(folder / "wave_*.mat")], [str(folder)]):
        assert ups("files", "upload", *words, "--map", str(written), "--url", service.url, "--json") == 0
        record = json.loads(capsys.readouterr().out)
        report = record["report"]["check"]
        assert [part["name"] for part in record["parts"]] == list(SPEEDS)
        for entry in ("family", "frames", "trajectories", "usable", "coefficients", "fields", "axes", "dt"):
            assert report[entry] == checked[entry]
        ids.add(record["id"])
    assert len(ids) == 1
    assert ups("files", "show", *ids, "--url", service.url) == 0
    assert "wave_1.mat, wave_2.mat, wave_10.mat, wave_11.mat" in capsys.readouterr().out
    (folder / "more").mkdir()
    assert ups("files", "upload", str(folder / "more"), "--url", service.url) == 2
    assert "more is a folder without files" in capsys.readouterr().err
    savemat(folder / "wave_12.mat", {"y": 1.0}, appendmat=False)
    assert ups("data", "inspect", str(folder)) == 2
    assert "wave_12.mat has no array" in capsys.readouterr().err


def test_a_model_is_adapted_to_them(waves: list[Path], tmp_path: Path, language_model: Path) -> None:
    write_parent(tmp_path / "data" / "models" / "tiny", language_model)
    settings = Settings(
        default_model="persistence", data_dir=tmp_path / "data", device="cpu", threads=1, worker_threads=1,
        job_poll_s=0.05,
    )  # fmt: skip
    mapping = {**MAPPING, "coefficients": {"speed": {"array": "speed"}}}
    with running_service(settings) as service, Client(service.url) as client:
        record = client.upload(waves, {"mapping": mapping})
        job = client.fine_tune(record["id"], 2, model="tiny", max_steps=2)
        for _ in client.follow(job["id"]):
            pass
        ended = client.job(job["id"])
        assert ended["state"] == "succeeded", ended["error"]
        assert set(ended["result"]["training_rows"]) < {0, 1, 2, 3}
        job = client.evaluate(record["id"], model="persistence")
        for _ in client.follow(job["id"]):
            pass
        assert client.job(job["id"])["result"]["trajectories"] == 4
