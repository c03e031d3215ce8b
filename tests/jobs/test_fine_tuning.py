"""Fine-tuning jobs through the worker: killed at random points, cancelled, resumed; always the same weights."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.api.conftest import wait_until
from tests.small_models import write_parent
from ups_server.catalog import Catalog
from ups_server.data.simulate import build_store
from ups_server.jobs.database import open_database
from ups_server.jobs.leases import LeaseLost, Leases
from ups_server.jobs.spec import FineTuningSpec, Job, JobState
from ups_server.jobs.store import JobStore
from ups_server.jobs.worker import Worker, job_folder
from ups_server.pde import family
from ups_server.settings import Settings

SPEC = FineTuningSpec(model="tiny", training_file="burgers", n_trajectories=4, max_steps=30, suffix="test")
KILLS = 10

NURSERY = """
import os, sys, threading
from pathlib import Path
import torch
import ups_server.train.adapt
from ups_server.jobs.database import open_database
from ups_server.jobs.dispatch import Dispatcher
from ups_server.jobs.executors import executor_of
from ups_server.jobs.leases import LeaseLost, Leases
from ups_server.settings import Settings
torch.set_num_threads(1)
settings = Settings(data_dir=Path(sys.argv[1]), device="cpu", worker_threads=1, checkpoint_s=0, job_poll_s=0.01,
                    job_lease_s=60, job_max_crashes=1000)
for line in sys.stdin:
    owner = line.strip()
    child = os.fork()
    if child == 0:
        leases, stopping = Leases(open_database(settings.data_dir)), threading.Event()
        Dispatcher(settings, leases, executor_of(settings, stopping), owner, stopping).run()
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("ended", flush=True)
"""
"""Workers by fork: a start costs milliseconds instead of an import of torch; what runs and dies is a real worker."""


@pytest.fixture
def data_dir(language_model: Path, tmp_path: Path) -> Path:
    write_parent(tmp_path / "models" / "tiny", language_model)
    store = tmp_path / "files" / "burgers" / "store"
    build_store(family("burgers"), {"nu": 0.1}, 7, 32, 0, store, frame_dt=0.05, t_final=0.5)
    return tmp_path


@pytest.fixture
def store(data_dir: Path) -> Iterator[JobStore]:
    database = open_database(data_dir)
    yield JobStore(database)
    database.close()


def weights(data_dir: Path, job: Job) -> dict[str, torch.Tensor]:
    assert job.result is not None, job.error
    return load_file(data_dir / "models" / job.result["model"] / "model.safetensors")


@contextmanager
def nursery(data_dir: Path, repository: Path) -> Iterator[subprocess.Popen[str]]:
    environment = os.environ | {"PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY, str(data_dir)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=repository, env=environment,
    ) as process:  # fmt: skip
        yield process
        assert process.stdin is not None
        process.stdin.close()


def born(process: subprocess.Popen[str], owner: str) -> int:
    """The process id of a new worker."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{owner}\n")
    process.stdin.flush()
    return int(process.stdout.readline())


def kill(process: subprocess.Popen[str], child: int) -> None:
    assert process.stdout is not None
    os.kill(child, signal.SIGKILL)
    assert process.stdout.readline() == "ended\n"


@pytest.mark.slow
def test_killed_at_random_points_ends_with_the_same_weights(data_dir: Path, store: JobStore, repository: Path) -> None:
    rng = random.Random(0)
    database = open_database(data_dir)
    leases = Leases(database, max_crashes=1000)
    with nursery(data_dir, repository) as process:
        undisturbed, _ = store.create(SPEC)
        child = born(process, "calm")
        wait_until(lambda: store.get(undisturbed.id).final, "the undisturbed job has ended")
        kill(process, child)
        job, _ = store.create(SPEC)
        kills = 0
        while not store.get(job.id).final:
            child = born(process, f"worker-{kills}")
            target = last_event(store, job.id) + rng.randint(2, 7)
            reached = lambda: last_event(store, job.id) >= target or store.get(job.id).final  # noqa: B023, E731
            wait_until(reached, "the worker got a little further")
            time.sleep(0.02 * rng.random())  # anywhere in a step, not only after a write
            kill(process, child)
            kills += leases.abandon(f"worker-{kills}")
    assert kills >= KILLS
    done = store.get(job.id)
    assert (done.state, done.attempt) == (JobState.SUCCEEDED, kills + 1), done.error
    first, second = weights(data_dir, store.get(undisturbed.id)), weights(data_dir, done)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    events = history(store, job.id)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert steps(store, job.id) == steps(store, undisturbed.id)
    assert without_time(done) == without_time(store.get(undisturbed.id))
    database.close()


def last_event(store: JobStore, job_id: str) -> int:
    return len(history(store, job_id))


def steps(store: JobStore, job_id: str) -> list[int]:
    """Every step that was reported, in the order of the reports."""
    return [event["step"] for event in history(store, job_id) if event["type"] == "step"]


def history(store: JobStore, job_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    after = 0
    while page := store.events(job_id, after)[0]:
        found += [{"seq": event.seq, "type": event.type, **event.data} for event in page]
        after = page[-1].seq
    return found


def without_time(job: Job) -> dict[str, Any]:
    assert job.result is not None
    return {**job.result, "seconds": None, "model": None, "tuned": None} | {
        part: {key: value for key, value in job.result[part].items() if key != "model"}
        for part in ("zero_shot", "tuned", "persistence")
    }


def run_until(store: JobStore, data_dir: Path, step: int | None) -> None:
    """A worker in this process; the job is cancelled when its `step` has been reported."""
    settings = Settings(data_dir=data_dir, device="cpu", worker_threads=1, checkpoint_s=1000.0)
    database = open_database(data_dir)
    leases = Leases(database)
    tell = leases.event

    def event(lease: Any, type: str, data: dict[str, Any], key: str | None = None) -> None:
        tell(lease, type, data, key)
        if type == "step" and data["step"] == step:
            store.cancel(lease.job.id)

    leases.event = event  # type: ignore[method-assign]
    assert Worker(settings, leases, "worker").run_next()
    database.close()


def test_cancel_takes_effect_within_a_step_and_resume_goes_on(data_dir: Path, store: JobStore) -> None:
    whole, _ = store.create(SPEC)
    run_until(store, data_dir, None)
    job, _ = store.create(SPEC)
    run_until(store, data_dir, 17)
    assert store.get(job.id).state is JobState.CANCELLED
    assert steps(store, job.id) == list(range(1, 18))
    assert history(store, job.id)[-2] == {"seq": len(history(store, job.id)) - 1, "type": "checkpoint", "step": 17}
    store.resume(job.id)
    run_until(store, data_dir, None)
    assert steps(store, job.id) == steps(store, whole.id)
    first, second = weights(data_dir, store.get(whole.id)), weights(data_dir, store.get(job.id))
    assert all(torch.equal(first[name], second[name]) for name in first)
    card = Catalog(data_dir).model(str((store.get(job.id).result or {})["model"]))
    assert card.adaptation is not None
    assert (card.adaptation.parent, card.adaptation.job, card.adaptation.file) == ("tiny", job.id, "burgers")
    assert not job_folder(data_dir, job.id).exists()


def test_what_cannot_be_tuned_fails_the_job(data_dir: Path, store: JobStore) -> None:
    for changes, code in (({"n_trajectories": 7}, "too_few_trajectories"), ({"model": "numerical"}, "not_tunable")):
        job, _ = store.create(SPEC.model_copy(update=changes))
        run_until(store, data_dir, None)
        error = store.get(job.id).error
        assert error is not None
        assert error["code"] == code


def test_a_death_between_delivery_and_the_last_word_costs_nothing(data_dir: Path, store: JobStore) -> None:
    job, _ = store.create(SPEC)
    database = open_database(data_dir)
    leases = Leases(database)
    settings = Settings(data_dir=data_dir, device="cpu", worker_threads=1)

    def die(lease: Any, result: dict[str, Any]) -> None:
        leases.abandon("worker")
        raise LeaseLost

    succeed, leases.succeed = leases.succeed, die  # type: ignore[method-assign]
    Worker(settings, leases, "worker").run_next()
    leases.succeed = succeed  # type: ignore[method-assign]
    before = steps(store, job.id)
    Worker(settings, leases, "worker").run_next()
    assert store.get(job.id).state is JobState.SUCCEEDED
    assert steps(store, job.id) == before
    assert (data_dir / "models" / str((store.get(job.id).result or {})["model"]) / "config.json").is_file()
    database.close()
