"""The worker: jobs from claim to end, stops, failures; its process killed and restarted."""

import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.api.conftest import wait_until
from ups_server.errors import UserError
from ups_server.jobs.database import Database
from ups_server.jobs.leases import Lease, Leases
from ups_server.jobs.local import WorkerSupervisor
from ups_server.jobs.spec import EvaluationSpec, Job, JobState
from ups_server.jobs.store import JobStore
from ups_server.jobs.tasks import JobContext
from ups_server.jobs.worker import Worker
from ups_server.settings import Settings

Run = Callable[[Callable[[JobContext], dict[str, Any]]], Job]


@pytest.fixture
def settings(tmp_path: Path, database_url: str | None) -> Settings:
    return Settings.model_validate(
        {"data_dir": tmp_path, "database_url": database_url, "worker_threads": 1, "device": "cpu", "job_poll_s": 0.02}
    )


@pytest.fixture
def run(settings: Settings, store: JobStore, leases: Leases, spec: EvaluationSpec) -> Run:
    """Runs one job with a task."""

    def run(task: Callable[[JobContext], dict[str, Any]]) -> Job:
        job, _ = store.create(spec)
        assert Worker(settings, leases, "worker", lambda kind: task).run_next()
        return store.get(job.id)

    return run


def test_a_result(run: Run, spec: EvaluationSpec) -> None:
    def task(context: JobContext) -> dict[str, Any]:
        context.running()
        assert context.folder.is_dir()
        return {"spec": context.spec.model_dump()}

    job = run(task)
    assert (job.state, job.result) == (JobState.SUCCEEDED, {"spec": spec.model_dump()})


def test_an_empty_queue(settings: Settings, leases: Leases) -> None:
    assert not Worker(settings, leases, "worker").run_next()


def test_the_user_s_mistake_and_ours(run: Run) -> None:
    def mistaken(context: JobContext) -> dict[str, Any]:
        raise UserError("dt_mismatch", "no multiple", got=float("nan"), expected=(Path("a"), 2))

    def broken(context: JobContext) -> dict[str, Any]:
        raise RuntimeError("a secret of ours")

    job = run(mistaken)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert (job.error["code"], job.error["got"], job.error["expected"]) == ("dt_mismatch", "nan", ["a", 2])
    job = run(broken)
    assert job.error is not None
    assert job.error["code"] == "internal_error"
    assert "secret" not in json.dumps(job.error)


def test_cancel_between_two_steps(run: Run, store: JobStore) -> None:
    steps: list[int] = []

    def task(context: JobContext) -> dict[str, Any]:
        for step in range(10):
            context.raise_if_stopped()
            steps.append(step)
            if step == 3:
                store.cancel(context.job_id)
        return {}

    assert run(task).state is JobState.CANCELLED
    assert steps == [0, 1, 2, 3]


def test_a_stopping_worker_gives_its_job_back(run: Run) -> None:
    def task(context: JobContext) -> dict[str, Any]:
        context.stopping.set()
        context.raise_if_stopped()
        return {}

    job = run(task)
    assert (job.state, job.attempt) == (JobState.QUEUED, 1)


def test_a_worker_whose_lease_was_lost_ends_its_attempt_only(run: Run, leases: Leases) -> None:
    def task(context: JobContext) -> dict[str, Any]:
        leases.abandon("worker")
        other = leases.claim("other")
        assert other is not None
        context.event("step", {})
        return {}

    assert run(task).state is JobState.VALIDATING  # the other worker has it


def test_heartbeats_outlive_a_long_step(
    settings: Settings, database: Database, store: JobStore, spec: EvaluationSpec
) -> None:
    short = Leases(database, seconds=0.3)
    extended = threading.Event()
    beat = short.heartbeat

    def heartbeat(lease: Lease) -> None:
        beat(lease)
        extended.set()

    short.heartbeat = heartbeat  # type: ignore[method-assign]

    def task(context: JobContext) -> dict[str, Any]:
        assert extended.wait(60)
        return {}

    job, _ = store.create(spec)
    Worker(settings, short, "worker", lambda kind: task).run_next()
    assert store.get(job.id).state is JobState.SUCCEEDED


def test_an_unknown_kind_is_said(settings: Settings, leases: Leases, store: JobStore, spec: EvaluationSpec) -> None:
    job, _ = store.create(spec.model_copy(update={"kind": "evaluation"}))
    from ups_server.jobs.tasks import task

    with pytest.raises(UserError, match="no such job"):
        task("rollout")
    assert store.get(job.id).state is JobState.QUEUED


def test_settings_travel_whole(settings: Settings) -> None:
    assert Settings.model_validate_json(settings.clear_json()) == settings


def test_a_killed_worker_is_replaced_and_leaves_no_job_behind(
    settings: Settings, store: JobStore, leases: Leases, spec: EvaluationSpec
) -> None:
    """The file of these jobs does not exist: a worker that runs says so."""

    async def live() -> None:
        supervisor = WorkerSupervisor(settings, leases)
        supervisor.start()
        done = asyncio.to_thread(wait_until, lambda: store.get(first.id).final, "the first job is done")
        await done
        killed = supervisor.process_id
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        second, _ = store.create(spec)
        await asyncio.to_thread(wait_until, lambda: store.get(second.id).final, "the next worker did the second job")
        assert supervisor.process_id not in (None, killed)
        assert supervisor.restarts == 1
        await supervisor.close()
        assert supervisor.process_id is None

    first, _ = store.create(spec)
    asyncio.run(live())
    error = store.get(first.id).error
    assert error is not None
    assert error["code"] == "unknown_file"
