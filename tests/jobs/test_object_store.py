"""API and workers that share no disk: files, models, checkpoints and results go by way of an object store."""

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from tests.api.conftest import running_service
from tests.jobs.test_fine_tuning import SPEC, steps, weights
from tests.small_models import write_parent
from ups_server.catalog import Catalog
from ups_server.client import Client
from ups_server.data.simulate import build_store, generate
from ups_server.errors import UserError
from ups_server.jobs.database import Database
from ups_server.jobs.leases import Lease, Leases
from ups_server.jobs.results import HEADER, Results, RolloutFolder
from ups_server.jobs.spec import JobState
from ups_server.jobs.store import JobStore
from ups_server.jobs.worker import Worker
from ups_server.objects import shared_folders
from ups_server.pde import family
from ups_server.settings import Settings

ACCESS = {"AWS_ACCESS_KEY_ID": "ups", "AWS_SECRET_ACCESS_KEY": "of-this-test", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_job_goes_on_where_another_disk_has_nothing(
    database: Database, store: JobStore, language_model: Path, tmp_path: Path
) -> None:
    pytest.importorskip("fsspec")
    url = f"memory://{uuid.uuid4().hex}"
    origin = tmp_path / "origin"
    write_parent(origin / "models" / "tiny", language_model)
    store_folder = origin / "files" / "burgers" / "store"
    build_store(family("burgers"), {"nu": 0.1}, 7, 32, 0, store_folder, frame_dt=0.05, t_final=0.5)
    shared = shared_folders(Settings(data_dir=origin, object_store=url))
    for name in ("models/tiny", "files/burgers"):
        shared.push(name)

    def work(folder: str, job_id: str, last: int | None = None) -> None:
        """A worker with a folder of its own, in which the job is cancelled when a step has been reported."""
        leases = Leases(database)
        tell = leases.event

        def event(lease: Lease, type: str, data: dict[str, Any], key: str | None = None) -> None:
            tell(lease, type, data, key)
            if type == "step" and data["step"] == last:
                store.cancel(lease.job.id)

        leases.event = event  # type: ignore[method-assign]
        settings = Settings(
            data_dir=tmp_path / folder, object_store=url, device="cpu", worker_threads=1, checkpoint_s=1000.0
        )
        assert Worker(settings, leases, folder, stopping=threading.Event()).run_next(job_id)

    whole, _ = store.create(SPEC)
    work("one", whole.id)
    job, _ = store.create(SPEC)
    work("two", job.id, 17)
    assert store.get(job.id).state is JobState.CANCELLED
    store.resume(job.id)
    work("three", job.id)
    done = store.get(job.id)
    assert (done.state, done.attempt) == (JobState.SUCCEEDED, 2), done.error
    assert steps(store, job.id) == steps(store, whole.id)
    first, second = weights(tmp_path / "one", store.get(whole.id)), weights(tmp_path / "three", done)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not (tmp_path / "origin" / "jobs").exists()
    assert done.result is not None
    found = Catalog(origin, shared=shared).model(done.result["model"])
    assert found.source.startswith(str(origin.resolve()))
    assert not shared.pull(f"jobs/{job.id}"), "a job that has ended leaves nothing behind"


def test_a_result_that_another_machine_finishes_is_read_as_it_is_now(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    url = f"memory://{uuid.uuid4().hex}"
    here, there = (Settings(data_dir=tmp_path / name, object_store=url) for name in ("here", "there"))
    results, shared = Results(here), shared_folders(there)
    header = RolloutFolder(there.data_dir, "ro-1").path / HEADER
    header.parent.mkdir(parents=True)
    for text in ("as ordered", "as finished"):
        header.write_text(text)
        shared.push("rollouts/ro-1")
        with results.reading("ro-1") as folder:
            assert (folder.path / HEADER).read_text() == text
    results.remove(RolloutFolder(here.data_dir, "ro-1"))
    with pytest.raises(UserError, match="not kept any more"), results.reading("ro-1"):
        pass
    assert shared.pull("rollouts/ro-1"), "its own copy stays"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a store in a local server that answers as Amazon S3 does."""
    pytest.importorskip("s3fs")
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    httpx.post(f"http://{host}:{port}/moto-api/reset").raise_for_status()  # servers of one process share their buckets
    for name, value in {**ACCESS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem(skip_instance_cache=True).mkdir("of-this-test")
    yield "s3://of-this-test/ups"
    server.stop()


@contextmanager
def worker(settings: Settings, repository: Path) -> Iterator[None]:
    """`ups jobs work`, by the environment; interrupted in the end."""
    given = {f"UPS_{name.upper()}": str(value) for name, value in settings.model_dump(exclude_unset=True).items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "ups_server.cli", "jobs", "work"],
        cwd=repository,
        env={**os.environ, **given, "UPS_DATABASE_URL": settings.database or "", "OMP_NUM_THREADS": "1"},
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_upload_adapt_rollout_result_without_a_common_disk(
    bucket: str, database_url: str, language_model: Path, tmp_path: Path, repository: Path
) -> None:
    common = {
        "object_store": bucket, "database_url": database_url, "default_model": "persistence", "device": "cpu",
        "threads": 1, "worker_threads": 1, "job_poll_s": 0.05, "worker": False,
    }  # fmt: skip

    def settings(folder: str) -> Settings:
        return Settings.model_validate({**common, "data_dir": tmp_path / folder})

    write_parent(tmp_path / "api" / "models" / "tiny", language_model)
    file = tmp_path / "mine.hdf5"
    generate(family("diffusion_reaction_1d"), {}, 7, 32, file, seed=1)
    with running_service(settings("api")) as api, worker(settings("worker"), repository), Client(api.url) as client:
        record = client.upload(file, {"family": "diffusion_reaction_1d"})
        job = client.fine_tune(record["id"], 4, model="tiny", max_steps=10)
        model = client.wait(job["id"])["result"]["model"]
        assert client.model(model)["adaptation"]["file"] == record["id"]
        ordered = client.submit("diffusion_reaction_1d", 3, {"sample": {"seed": 1}}, model=model)
        client.wait(ordered["id"])
        result = client.result(ordered["id"]).load()
    assert result["u"].shape[0] == 4
    assert np.isfinite(result["u"]).all()
    assert (tmp_path / "worker" / "models" / model).is_dir()
    # Another API process, with an empty folder of its own, has all of it.
    with running_service(settings("other")) as other, Client(other.url) as client:
        assert [entry["id"] for entry in client.files()] == [record["id"]]
        assert model in [entry["id"] for entry in client.models()]
        assert client.result(ordered["id"]).load().identical(result)
        client.delete_rollout(ordered["id"])
        client.delete_file(record["id"])
    with running_service(settings("api")) as api, Client(api.url) as client:
        assert client.files() == []
