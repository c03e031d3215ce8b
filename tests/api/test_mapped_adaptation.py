"""A MATLAB file that does not explain itself, from inspection to a tuned model: on the command line and over HTTP."""

import json
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml
from scipy.io import savemat

from tests.api.conftest import running_service
from tests.cases import ups
from tests.small_models import write_parent
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
    assert ups("adapt", str(tmp_path / "tiny"), str(shock), *words, "--json", str(tmp_path / "report.json")) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["persistence"]["one_step"]["finite"]
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
