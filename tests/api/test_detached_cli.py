"""`ups solve --detach` and `ups jobs` with a running service: ordered, followed, written to a file, deleted."""

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from tests.api.conftest import RunningService, running_service
from ups_server.cli import main
from ups_server.client import Client
from ups_server.data.formats import open_source
from ups_server.jobs.database import open_database
from ups_server.settings import Settings


def ups(data_dir: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ups_server.cli", *words, "--data-dir", str(data_dir)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_rollout_that_nobody_waits_for(settings: Settings, tmp_path: Path) -> None:
    folder = settings.data_dir
    open_database(folder).close()  # a service was here
    problem = ("burgers", "--method", "numerical", "--coef", "nu=0.02", "--resolution", "32", "--n-steps", "4")
    ordered = ups(folder, "solve", *problem, "--detach", "--json")
    assert ordered.returncode == 0, ordered.stderr
    assert json.loads(ordered.stdout)["state"] == "queued"
    job = json.loads(ordered.stdout)["id"]
    early = ups(folder, "jobs", "result", job, "-o", str(tmp_path / "early.nc"))
    assert early.returncode == 2
    assert "has not ended" in early.stderr
    with running_service(settings):
        assert ups(folder, "jobs", "follow", job).returncode == 0
    told = [json.loads(line) for line in ups(folder, "jobs", "follow", job, "--json").stdout.splitlines()]
    assert [event["seq"] for event in told] == list(range(1, len(told) + 1))
    assert told[-1]["data"]["state"] == "succeeded"
    second = ups(folder, "solve", *problem, "--detach").stdout.strip()
    assert second.startswith("ro-")
    written = ups(folder, "jobs", "result", job, "-o", str(tmp_path / "kept.npz"))
    assert written.returncode == 0, written.stderr
    ups(folder, "solve", *problem, "-o", str(tmp_path / "waited.npz"))
    kept, waited = (open_source(tmp_path / name) for name in ("kept.npz", "waited.npz"))
    np.testing.assert_array_equal(kept.read([0]), waited.read([0]))
    assert ups(folder, "jobs", "delete", job).returncode == 0
    assert job not in ups(folder, "jobs", "list").stdout
    assert [path.name for path in (folder / "rollouts").iterdir()] == [second]


def test_the_jobs_of_a_service_elsewhere(
    service: RunningService, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def jobs(*words: str) -> tuple[int, str]:
        """(exit code, stdout)"""
        with pytest.raises(SystemExit) as ended:
            main(["jobs", *words, "--url", service.url])
        return int(str(ended.value.code or 0)), capsys.readouterr().out

    with Client(service.url) as client:
        job = client.submit("advection", 3, {"sample": {"seed": 1}}, grid={"n": [8]}).id
    code, out = jobs("follow", job, "--json")
    told = [json.loads(line) for line in out.splitlines()]
    assert (code, told[-1]["data"]) == (0, {"state": "succeeded"})
    assert [event["seq"] for event in told] == list(range(1, len(told) + 1))
    assert json.loads(jobs("show", job, "--json")[1])["state"] == "succeeded"
    assert job in [entry["id"] for entry in json.loads(jobs("list", "--json")[1])]
    assert jobs("result", job, "-o", str(tmp_path / "kept.npz"))[0] == 0
    assert open_source(tmp_path / "kept.npz").read([0]).shape == (1, 4, 8, 1)
    assert jobs("cancel", job)[0] == jobs("resume", job)[0] == jobs("checkpoints", job)[0] == 2
    assert jobs("delete", job)[0] == 0
    assert jobs("show", job)[0] == 2


def test_the_catalogue_and_rollouts_of_a_service_elsewhere(
    service: RunningService, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def ran(*words: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main([*words, "--url", service.url])
        captured = capsys.readouterr()
        assert not ended.value.code, captured.err
        return captured.out

    path = tmp_path / "solved.nc"
    assert json.loads(ran("families", "burgers", "--json")) == service.get("/v1/families/burgers").json()
    assert "advection" in ran("families")
    listed = [entry["id"] for entry in json.loads(ran("models", "list", "--json"))]
    assert listed == [entry["id"] for entry in service.get("/v1/models").json()["models"]]
    assert "reference" in ran("models", "show", "numerical")
    assert json.loads(ran("equation", "u_t = 0.1*u_xx", "--json"))["terms"][0]["name"] == "diffusion"
    words = ("solve", "burgers", "--method", "numerical", "--resolution", "32", "--n-steps", "2", "-o", str(path))
    batch = ("--count", "2", "--coef", "nu=0.02,0.4")
    said = json.loads(ran(*words, *batch, "--json"))
    assert (said["model"], said["n_steps"], said["batched"]) == ("numerical", 2, True)
    with closing(open_source(path)) as there:
        values, numbers = there.read([0, 1]), there.coefficients[:, 0].tolist()
    with pytest.raises(SystemExit):
        main([*words, *batch])
    with closing(open_source(path)) as own:
        np.testing.assert_allclose(values, own.read([0, 1]), atol=1e-5)
        assert numbers == own.coefficients[:, 0].tolist() == [0.02, 0.4]
    queued = ran("solve", "advection", "--n-steps", "2", "--resolution", "8", "--detach").strip()
    assert service.get(f"/v1/rollouts/{queued}").json()["id"] == queued


def test_what_detach_does_not_take(settings: Settings, tmp_path: Path) -> None:
    refused = ups(settings.data_dir, "solve", "burgers", "--detach", "-o", str(tmp_path / "x.nc"))
    assert refused.returncode == 2
    assert "its result is kept" in refused.stderr


def test_where_no_service_was_nothing_is_queued(tmp_path: Path) -> None:
    refused = ups(tmp_path / "nobody", "solve", "burgers", "--method", "numerical", "--detach")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "no service has stored jobs in" in refused.stderr
    assert "--data-dir" in refused.stderr
    assert not (tmp_path / "nobody").exists()
