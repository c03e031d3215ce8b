"""A MATLAB file that does not explain itself, from inspection to a tuned model: on the command line and over HTTP."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from scipy.io import savemat

from tests.api.conftest import running_service
from tests.cases import ups
from tests.shock import write_shock
from tests.small_models import write_parent
from ups_server.catalog import shipped_folder
from ups_server.client import Client
from ups_server.errors import UserError
from ups_server.settings import Settings

POINTS, FRAMES = 33, 60


@pytest.fixture
def shock(tmp_path: Path) -> Path:
    """As burgers_shock.mat: x on nodes with both ends, t, usol (x, t)."""
    x, t = np.linspace(-1, 1, POINTS), np.arange(FRAMES) * 0.01
    usol = -np.sin(np.pi * x)[:, None] * np.exp(-3 * t) + 0.2 * np.sin(2 * np.pi * x)[:, None] * np.exp(-t)
    usol[[0, -1]] = 0.0
    savemat(tmp_path / "burgers_shock.mat", {"x": x[:, None], "t": t[:, None], "usol": usol}, appendmat=False)
    return tmp_path / "burgers_shock.mat"


def test_on_the_command_line(
    shock: Path, tmp_path: Path, language_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ups("data", "inspect", str(shock)) == 0
    mapping = tmp_path / "shock.yaml"
    mapping.write_text(capsys.readouterr().out)
    write_parent(tmp_path / "tiny", language_model)
    words = ["--map", str(mapping), "--n-trajectories", "2", "--max-steps", "4", "--output", str(tmp_path / "tuned")]
    words += ["--trajectories", "1:5"]
    assert ups("adapt", str(tmp_path / "tiny"), str(shock), *words, "--json", str(tmp_path / "report.json")) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["persistence"]["one_step"]["finite"]
    assert report["left_out"] == [{"reason": "not asked for", "rows": [0]}]
    assert set(report["training_rows"]) < {1, 2, 3, 4}
    equation = json.loads((tmp_path / "tuned" / "equation.json").read_text())
    assert (equation["id"], equation["extent"]) == ("burgers_shock", [[-1.0, 1.0]])
    assert equation["dt"] == pytest.approx(0.01)
    capsys.readouterr()
    assert ups("evaluate", str(tmp_path / "tuned"), str(shock), "--map", str(mapping), "--json", "-") == 0
    (scores,) = json.loads(capsys.readouterr().out)
    assert scores["family"] == "burgers_shock"
    assert ups("data", "show", str(shock), "--map", str(mapping), "--output", str(tmp_path / "picture.png")) == 0


def test_over_http(shock: Path, tmp_path: Path, language_model: Path) -> None:
    write_parent(tmp_path / "data" / "models" / "tiny", language_model)
    settings = Settings(
        default_model="persistence",
        data_dir=tmp_path / "data",
        device="cpu",
        threads=1,
        worker_threads=1,
        job_poll_s=0.05,
    )
    with running_service(settings) as service, Client(service.url) as client:
        with pytest.raises(UserError):
            client.upload(shock)
        (refused,) = client.files()
        assert refused["problem"]["code"] == "not_hdf5"
        address = f"{service.url}/v1/files/{refused['id']}/declaration"
        for text in ("fields: [", "a: &a [1]\nb: *a", "a: " + "[" * 300, "3", "fields: 3"):
            answer = httpx.put(address, content=text, headers={"Content-Type": "application/yaml"})
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid_mapping")
        mapping = yaml.safe_load(refused["problem"]["proposal"])
        record = client.declare(refused["id"], {"mapping": mapping})
        assert (record["state"], record["report"]["rows"]) == ("ready", 5)
        assert record["declaration"]["mapping"]["equation"]["id"] == "burgers_shock"
        (listed,) = [entry for entry in client.families() if entry["declared"]]
        assert (listed["id"], listed["dt"]) == ("burgers_shock", pytest.approx(0.01))
        job = client.fine_tune(record["id"], 2, model="tiny", max_steps=4)
        for _ in client.follow(job["id"]):
            pass
        ended = client.job(job["id"])
        assert ended["state"] == "succeeded", ended["error"]
        start = {"file": record["id"], "trajectory": 4}
        solution = client.rollout("burgers_shock", 2, start, model=ended["result"]["model"])
        assert solution["u" if "u" in solution else "usol"].shape == (3, POINTS - 1)
        for other in ("persistence", "numerical", "tiny"):
            with pytest.raises(UserError) as caught:
                client.rollout("burgers_shock", 2, start, model=other)
            assert (caught.value.code, caught.value.expected) == ("family_not_in_model", [ended["result"]["model"]])


STEPS = 20
"""Of training: the shipped model is far ahead of persistence by then."""


def adapted(pattern: Path, mapping: Path, training: int, folder: Path) -> dict[str, Any]:
    """The report of `ups adapt`."""
    words = ["--map", str(mapping), "--n-trajectories", str(training), "--max-steps", str(STEPS)]
    out = ["--output", str(folder / "tuned"), "--json", str(folder / "report.json")]
    assert ups("adapt", str(shipped_folder() / "ups-mini"), str(pattern), *words, *out) == 0
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def beats_persistence(report: Mapping[str, Any]) -> bool:
    """In one step and in the rollout."""
    pairs = (("one_step", "nrmse"), ("rollout", "nrmse_trajectory"))
    return report["helped"] and all(report["tuned"][a][b] < 0.8 * report["persistence"][a][b] for a, b in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("training", [1, 3])
def test_one_file_makes_a_model_that_beats_persistence(
    training: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the mapping as it is printed: segments of the only trajectory train, others are the test."""
    path = write_shock(tmp_path / "burgers_shock.mat")
    assert ups("data", "inspect", str(path)) == 0
    (tmp_path / "shock.yaml").write_text(capsys.readouterr().out)
    report = adapted(path, tmp_path / "shock.yaml", training, tmp_path)
    assert report["split"] == {"training": training, "validation": 1, "test": 4 - training}
    assert beats_persistence(report), report["verdict"]


@pytest.mark.slow
def test_a_few_files_make_a_model_for_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Viscosity and amplitude differ from file to file; whole trajectories are the test."""
    for number, (nu, amplitude) in enumerate([(0.01, 1.0), (0.02, 0.7), (0.012, 1.3), (0.03, 0.9), (0.015, 0.8)]):
        path = write_shock(tmp_path / f"shock_{number}.mat", nu, amplitude, say_nu=True)
    assert ups("data", "inspect", str(path)) == 0
    document = yaml.safe_load(capsys.readouterr().out)
    assert document["coefficients"] == {"nu": {"array": "nu"}}
    (tmp_path / "shock.yaml").write_text(yaml.safe_dump({**document, "segments": 1}))
    report = adapted(tmp_path / "shock_*.mat", tmp_path / "shock.yaml", 3, tmp_path)
    assert report["split"] == {"training": 3, "validation": 1, "test": 1}
    assert beats_persistence(report), report["verdict"]


@pytest.mark.slow
def test_one_file_beats_persistence_over_http(tmp_path: Path) -> None:
    path = write_shock(tmp_path / "burgers_shock.mat")
    settings = Settings(data_dir=tmp_path / "data", device="cpu", threads=1, worker_threads=1, job_poll_s=0.05)
    with running_service(settings) as service, Client(service.url) as client:
        with pytest.raises(UserError):
            client.upload(path)
        (refused,) = client.files()
        record = client.declare(refused["id"], {"mapping": yaml.safe_load(refused["problem"]["proposal"])})
        assert (record["state"], record["report"]["rows"]) == ("ready", 5)
        job = client.fine_tune(record["id"], 3, model="ups-mini", max_steps=STEPS)
        for _ in client.follow(job["id"]):
            pass
        ended = client.job(job["id"])
        assert ended["state"] == "succeeded", ended["error"]
        assert beats_persistence(ended["result"]), ended["result"]["verdict"]
