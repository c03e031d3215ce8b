"""From a file to a model over HTTP with the Python client: a family of PDEBench's, an equation of the user's own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.api.conftest import RunningService, running_service
from tests.small_models import write_parent
from ups_server.client import Client
from ups_server.data.simulate import generate
from ups_server.errors import UserError
from ups_server.pde import family
from ups_server.settings import Settings

TRAJECTORIES = 7

EQUATION = {
    "id": "damped_waves",
    "name": "1D Damped Waves",
    "equation": "u_t = -c u",
    "fields": [{"name": "u", "slot": 1, "unit": "m"}],
    "coefficients": [{"name": "c", "value": 2.0}],
    "extent": [[0.0, 2.0]],
    "boundary": [["periodic", "periodic"]],
}


@pytest.fixture(scope="module")
def running(language_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service with a small model, `tiny`, that knows neither of the two equations."""
    data_dir = tmp_path_factory.mktemp("adaptation")
    write_parent(data_dir / "models" / "tiny", language_model)
    settings = Settings(
        default_model="persistence", data_dir=data_dir, device="cpu", threads=1, worker_threads=1, job_poll_s=0.05
    )
    with running_service(settings) as service:
        yield service


def finished(client: Client, job_id: str) -> dict[str, Any]:
    """The result of a job, followed to its end."""
    told = [name for name, _ in client.follow(job_id)]
    job = client.job(job_id)
    assert job["state"] == "succeeded", job["error"]
    assert {"state", "phase", "step", "validation", "checkpoint", "model"} <= set(told)
    return dict(job["result"])


def test_upload_report_job_events_model_rollout(running: RunningService, tmp_path: Path) -> None:
    file = tmp_path / "mine.hdf5"
    generate(family("diffusion_reaction_1d"), {}, TRAJECTORIES, 32, file, seed=1)
    with Client(running.url) as client:
        record = client.upload(file, {"family": "diffusion_reaction_1d"})
        rows = record["report"]["rows"]
        assert rows >= 6, record["report"]["check"]
        generate(family("diffusion_reaction_1d"), {}, 3, 32, tmp_path / "others.hdf5", seed=2)
        others = client.upload(tmp_path / "others.hdf5", {"family": "diffusion_reaction_1d"})["id"]
        options: dict[str, Any] = {"max_steps": 6, "tuning": "lora", "alignment": "recraft", "suffix": "mine"}
        job = client.fine_tune(record["id"], 4, model="tiny", validation_file=others, **options)
        # Another job waits for the worker: the file is in use.
        waiting = client.fine_tune(record["id"], 4, model="tiny", max_steps=2, priority=-1)
        with pytest.raises(UserError) as caught:
            client.delete_file(record["id"])
        assert (caught.value.code, caught.value.got) in [("file_in_use", entry["id"]) for entry in (job, waiting)]
        with pytest.raises(UserError) as caught:
            client.delete_file(others)
        assert (caught.value.code, caught.value.got) == ("file_in_use", job["id"])
        client.cancel(waiting["id"])
        report = finished(client, job["id"])
        assert {"zero_shot", "tuned", "persistence", "helped"} <= report.keys()
        assert (report["validation_file"], report["split"]["test"]) == (others, 2)
        for part in ("zero_shot", "tuned", "persistence"):
            assert report[part]["one_step"]["finite"]
        card = client.model(report["model"])
        assert (card["adapters_of"], card["adaptation"]["alignment"]) == ("tiny", "recraft")
        told = [card["adaptation"][name] for name in ("file", "validation_file", "validation_fingerprint")]
        assert told == [record["id"], others, client.file(others)["report"]["fingerprint"]]
        start = {"file": record["id"], "trajectory": rows - 1}
        solution = client.rollout("diffusion_reaction_1d", 3, start, model=report["model"])
        assert solution["u"].shape == (4, 32)
        assert np.isfinite(solution["u"]).all()


def test_an_equation_of_the_users_own(running: RunningService, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, t = (np.arange(32) + 0.5) / 16, np.arange(6) * 0.1
    start = np.sin(np.pi * x + rng.uniform(0, 6, (TRAJECTORIES, 1))) * rng.uniform(0.5, 2, (TRAJECTORIES, 1))
    with h5py.File(tmp_path / "waves.hdf5", "w") as file:
        file["u"] = (start[:, None] * np.exp(-2.0 * t)[:, None]).astype(np.float32)
        file["x-coordinate"], file["t-coordinate"] = x, t
    with Client(running.url) as client:
        assert "damped_waves" not in {entry["id"] for entry in client.families()}
        record = client.upload(tmp_path / "waves.hdf5", {"equation": EQUATION})
        (listed,) = [entry for entry in client.families() if entry["declared"]]
        assert (listed["id"], listed["dt"], listed["fields"][0]["unit"]) == ("damped_waves", pytest.approx(0.1), "m")
        assert not client.family("burgers")["declared"]
        another = {"equation": {**EQUATION, "equation": "u_t = -2 c u", "coefficients": [{"name": "c", "value": 1.0}]}}
        doubled = client.upload(tmp_path / "waves.hdf5", another)
        with pytest.raises(UserError, match="declared with another equation"):
            client.fine_tune(record["id"], 4, model="tiny", validation_file=doubled["id"])
        client.delete_file(doubled["id"])
        report = finished(client, client.fine_tune(record["id"], 4, model="tiny", max_steps=6)["id"])
        card = client.model(report["model"])
        assert card["families"]["damped_waves"]["dt"] == pytest.approx(0.1)
        evaluated = client.evaluate(record["id"], model=report["model"])
        assert [name for name, _ in client.follow(evaluated["id"])][-1] == "state"
        result = client.job(evaluated["id"])["result"]
        assert result["family"] == "damped_waves"

        # The model keeps what it is for, without the file.
        client.delete_file(record["id"])
        assert [entry["id"] for entry in client.families() if entry["declared"]] == ["damped_waves"]
        solution = client.rollout("damped_waves", 2, start[0][:, None], model=report["model"])
        assert solution["u"].shape == (3, 32)
        assert solution["u"].attrs["units"] == "m"
        np.testing.assert_allclose(solution["time"], [0.0, 0.1, 0.2])
        with pytest.raises(UserError, match="only models that were tuned to it"):
            client.rollout("damped_waves", 2, start[0][:, None], model="numerical")
        with pytest.raises(UserError) as caught:
            client.rollout("damped_waves", 2, {"sample": {"seed": 1}}, model=report["model"])
        assert caught.value.code == "no_solver"
