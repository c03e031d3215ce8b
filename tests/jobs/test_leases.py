"""The table of jobs as workers see it: leases, fences, crashes, and eight workers on one queue."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa

from ups_server.jobs.database import Database
from ups_server.jobs.leases import Lease, LeaseLost, Leases
from ups_server.jobs.spec import EvaluationSpec, JobState
from ups_server.jobs.store import JobStore, jobs


def claim(leases: Leases, owner: str = "worker") -> Lease:
    lease = leases.claim(owner)
    assert lease is not None
    return lease


def expired(database: Database) -> Leases:
    """Leases that have run out when they are given: no test waits for a clock."""
    return Leases(database, seconds=-1.0)


def test_priority_then_arrival(store: JobStore, leases: Leases, spec: EvaluationSpec) -> None:
    low, first, second = (store.create(spec.model_copy(update={"priority": p}))[0].id for p in (-1, 5, 5))
    assert [claim(leases).job.id for _ in range(3)] == [first, second, low]
    assert leases.claim("worker") is None


def test_a_job_from_claim_to_end(store: JobStore, leases: Leases, spec: EvaluationSpec) -> None:
    job, _ = store.create(spec)
    lease = claim(leases)
    assert (lease.job.state, lease.job.attempt) == (JobState.VALIDATING, 1)
    leases.running(lease)
    leases.heartbeat(lease)
    leases.succeed(lease, {"answer": 42})
    done = store.get(job.id)
    assert (done.state, done.result, done.error) == (JobState.SUCCEEDED, {"answer": 42}, None)
    assert done.finished_at is not None
    assert done.started_at is not None
    assert done.created_at <= done.started_at <= done.finished_at
    with pytest.raises(LeaseLost):
        leases.event(lease, "late", {})


def test_an_expired_lease_goes_to_another_and_its_old_owner_writes_nothing(
    database: Database, store: JobStore, leases: Leases, spec: EvaluationSpec
) -> None:
    job, _ = store.create(spec)
    old = claim(expired(database), "old")
    assert leases.reclaim() == 1
    assert leases.reclaim() == 0
    new = claim(leases, "new")
    assert new.fence > old.fence
    before = store.events(job.id)[0]
    for write in (
        lambda: leases.event(old, "step", {}),
        lambda: leases.checkpoint(old, {}, "checkpoint"),
        lambda: leases.running(old),
        lambda: leases.heartbeat(old),
        lambda: leases.cancelled(old),
        lambda: leases.succeed(old, {}),
        lambda: leases.fail(old, {}),
        lambda: leases.release(old),
    ):
        with pytest.raises(LeaseLost):
            write()
    assert store.events(job.id)[0] == before
    leases.event(new, "step", {})
    assert [event.seq for event in store.events(job.id)[0]] == [1, 2, 3, 4, 5]


def test_a_heartbeat_keeps_a_lease(database: Database, store: JobStore, leases: Leases, spec: EvaluationSpec) -> None:
    store.create(spec)
    lease = claim(expired(database))
    leases.heartbeat(lease)
    assert leases.reclaim() == 0


def test_the_jobs_of_a_dead_worker_are_free_at_once(store: JobStore, leases: Leases, spec: EvaluationSpec) -> None:
    for _ in range(2):
        store.create(spec)
    dead, alive = claim(leases, "dead"), claim(leases, "alive")
    assert leases.abandon("dead") == 1
    assert store.get(dead.job.id).state is JobState.QUEUED
    leases.heartbeat(alive)


def test_a_job_that_kills_its_workers_fails_unless_it_gets_further(
    store: JobStore, leases: Leases, spec: EvaluationSpec
) -> None:
    job, _ = store.create(spec)
    for step in range(5):  # a checkpoint between two crashes: goes on for ever
        leases.checkpoint(claim(leases, "w"), {"step": step}, f"checkpoint:{step}")
        leases.abandon("w")
    assert store.get(job.id).state is JobState.QUEUED
    for _ in range(2):
        claim(leases, "w")
        leases.abandon("w")
    failed = store.get(job.id)
    assert failed.state is JobState.FAILED
    assert failed.error is not None
    assert failed.error["code"] == "worker_lost"
    assert store.resume(job.id).state is JobState.QUEUED


def test_a_worker_that_stops_gives_its_job_back(store: JobStore, leases: Leases, spec: EvaluationSpec) -> None:
    job, _ = store.create(spec)
    for _ in range(5):
        leases.release(claim(leases))
    assert (store.get(job.id).state, store.get(job.id).attempt) == (JobState.QUEUED, 5)


def test_cancelling_a_running_job_asks_its_worker(store: JobStore, leases: Leases, spec: EvaluationSpec) -> None:
    job, _ = store.create(spec)
    lease = claim(leases)
    assert not leases.cancelled(lease)
    assert store.cancel(job.id).cancel_requested
    assert leases.cancelled(lease)
    leases.cancel(lease)
    assert store.get(job.id).state is JobState.CANCELLED


def test_a_dead_worker_s_cancelled_job_is_cancelled(store: JobStore, leases: Leases, spec: EvaluationSpec) -> None:
    job, _ = store.create(spec)
    claim(leases, "dead")
    store.cancel(job.id)
    leases.abandon("dead")
    assert store.get(job.id).state is JobState.CANCELLED


def test_what_is_repeated_after_a_crash_is_told_once(store: JobStore, leases: Leases, spec: EvaluationSpec) -> None:
    job, _ = store.create(spec)
    for _ in range(2):
        lease = claim(leases, "w")
        leases.event(lease, "step", {"step": 1}, "step:1")
        leases.checkpoint(lease, {"step": 1}, "checkpoint:1")
        leases.abandon("w")
    types = [event.type for event in store.events(job.id)[0]]
    assert types == ["state", "state", "step", "checkpoint", "state", "state", "state"]


@pytest.mark.parametrize("query", ["claim", "reclaim"])
def test_the_queue_is_read_through_its_index(tmp_path: Path, query: str) -> None:
    from ups_server.jobs.database import open_database

    database = open_database(tmp_path)
    plans: list[str] = []

    @sa.event.listens_for(database.engine, "before_cursor_execute")
    def explain(connection: object, cursor: object, statement: str, parameters: object, *_: object) -> None:
        if statement.lstrip().startswith("SELECT"):
            raw = database.engine.raw_connection()
            plans.extend(row[3] for row in raw.cursor().execute(f"EXPLAIN QUERY PLAN {statement}", parameters))  # type: ignore[arg-type]
            raw.close()

    leases = Leases(database)
    _ = leases.claim("w") if query == "claim" else leases.reclaim()
    database.close()
    assert any(("jobs_queue" if query == "claim" else "jobs_leases") in plan for plan in plans)
    assert not any("TEMP B-TREE" in plan for plan in plans)


WORKER = """
import sys
from pathlib import Path
from ups_server.jobs.database import open_database
from ups_server.jobs.leases import Leases
leases = Leases(open_database(Path(sys.argv[1]), sys.argv[2] or None))
print("ready", flush=True)
sys.stdin.readline()
while (lease := leases.claim(sys.argv[3])) is not None:
    print(lease.job.id)
    leases.succeed(lease, {"by": sys.argv[3]})
"""


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_eight_processes_run_every_job_once(
    count: int, database_url: str | None, database: Database, tmp_path: Path, repository: Path
) -> None:
    with database.write() as connection:
        new = {"kind": "evaluation", "state": "queued", "priority": 0, "spec": {}, "cancel_requested": False}
        counters = {"fence": 0, "attempt": 0, "crashes": 0, "last_seq": 0, "created_at": 0.0}
        connection.execute(sa.insert(jobs), [{**new, **counters, "id": f"job-{index}"} for index in range(count)])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path), database_url or "", f"worker-{index}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=repository,
            env=os.environ | {"PYTHONPATH": "."},
        )
        for index in range(8)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    runs = Counter[str]()
    shares = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        out, _ = process.communicate()
        assert process.returncode == 0
        runs.update(out.split())
        shares.append(len(out.split()))
    assert len(runs) == count
    assert set(runs.values()) == {1}
    assert sum(share > 0 for share in shares) > 1, shares
    with database.read() as connection:
        rows = connection.execute(sa.select(jobs.c.state, jobs.c.attempt, jobs.c.last_seq)).all()
    assert {tuple(row) for row in rows} == {("succeeded", 1, 2)}
