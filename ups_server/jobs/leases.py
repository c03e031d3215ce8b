"""Jobs as workers see them: claimed for a while, written to under a fence, given back. Imports no torch."""

from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ups_server.jobs.database import Database, now
from ups_server.jobs.spec import ACTIVE, Job, JobState
from ups_server.jobs.store import STATE, change, events, job_of, jobs, state_data
from ups_server.tracing import PARENT, span

PART = "/"
"""Between the name of an owner and that of one who works for it."""
LOST = {"code": "worker_lost", "status": 500, "title": "worker lost"}


class LeaseLost(Exception):
    """The job is in other hands, or the lease was taken away: nothing of this worker is written any more."""


@dataclass(frozen=True)
class Lease:
    """The right to write to a job. `trace`: of the request that made it, where that was traced."""

    number: int
    fence: int
    job: Job
    trace: str | None = None

    def span(self) -> AbstractContextManager[None]:
        """Of one attempt at the job."""
        parent = {} if self.trace is None else {PARENT: self.trace}
        about = {"ups.job": self.job.id, "ups.attempt": self.job.attempt, "ups.model": self.job.model or ""}
        return span(f"job {self.job.kind}", parent, about)

    @property
    def guard(self) -> sa.ColumnElement[bool]:
        return sa.and_(jobs.c.number == self.number, jobs.c.fence == self.fence, jobs.c.state.in_(ACTIVE))


class Leases:
    """Every method is one transaction; those that take a lease raise `LeaseLost` where it is no longer valid.

    Args:
        seconds: how long a lease lasts without a heartbeat.
        max_crashes: leases in succession that may end without a checkpoint; then the job has failed.
    """

    def __init__(self, database: Database, seconds: float = 30.0, max_crashes: int = 3) -> None:
        self._database = database
        self.seconds = seconds
        self._max_crashes = max_crashes

    def claim(
        self, owner: str, kinds: Collection[str] | None = None, without: Collection[str] = (), job_id: str | None = None
    ) -> Lease | None:
        """The first job of the queue, None where there is none. Two claims never get the same.

        Args:
            kinds: only of these.
            without: none of these.
            job_id: only this one.
        """
        first = (
            sa.select(jobs.c.number)
            .where(jobs.c.state == sa.literal_column("'queued'"))  # as the index says it
            .order_by(jobs.c.priority.desc(), jobs.c.number)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        if kinds is not None:
            first = first.where(jobs.c.kind.in_(sorted(kinds)))
        if without:
            first = first.where(jobs.c.kind.not_in(sorted(without)))
        if job_id is not None:
            first = first.where(jobs.c.id == job_id)
        with self._database.write() as connection:
            number = connection.execute(first).scalar_one_or_none()
            if number is None:
                return None
            row = change(
                connection,
                sa.and_(jobs.c.number == number, jobs.c.state == JobState.QUEUED),
                STATE,
                state_data(JobState.VALIDATING),
                state=JobState.VALIDATING,
                owner=owner,
                fence=jobs.c.fence + 1,
                attempt=jobs.c.attempt + 1,
                lease_until=now() + self.seconds,
                started_at=sa.func.coalesce(jobs.c.started_at, now()),
            )
            return None if row is None else Lease(row["number"], row["fence"], job_of(row), row["trace"])

    def heartbeat(self, lease: Lease) -> None:
        """Extends the lease."""
        with self._database.write() as connection:
            held = connection.execute(sa.update(jobs).where(lease.guard).values(lease_until=now() + self.seconds))
            if held.rowcount == 0:
                raise LeaseLost(lease.job.id)

    def cancelled(self, lease: Lease) -> bool:
        """Is the job to be cancelled? Cheap enough to ask in every training step."""
        with self._database.read() as connection:
            asked = connection.execute(sa.select(jobs.c.cancel_requested).where(lease.guard)).scalar_one_or_none()
        if asked is None:
            raise LeaseLost(lease.job.id)
        return bool(asked)

    def running(self, lease: Lease) -> None:
        """What the job needs was found in order."""
        self._change(lease, STATE, state_data(JobState.RUNNING), state=JobState.RUNNING)

    def event(self, lease: Lease, type: str, data: dict[str, Any], key: str | None = None) -> None:
        """Appends an event; one whose key the job has already is left out (a repetition after a crash)."""
        with self._database.write() as connection:
            if key is not None and self._has(connection, lease, key):
                return
            if change(connection, lease.guard, type, data, key) is None:
                raise LeaseLost(lease.job.id)

    def checkpoint(self, lease: Lease, data: dict[str, Any], key: str, type: str = "checkpoint") -> None:
        """Appends an event that says: from here on a new attempt loses nothing."""
        with self._database.write() as connection:
            values: dict[str, Any] = {"crashes": 0}
            if self._has(connection, lease, key):
                held = connection.execute(sa.update(jobs).where(lease.guard).values(**values)).rowcount
            else:
                held = change(connection, lease.guard, type, data, key, **values) is not None
            if not held:
                raise LeaseLost(lease.job.id)

    def succeed(self, lease: Lease, result: dict[str, Any]) -> None:
        self._end(lease, JobState.SUCCEEDED, {}, result=result)

    def fail(self, lease: Lease, problem: dict[str, Any]) -> None:
        self._end(lease, JobState.FAILED, {"error": problem}, error=problem)

    def cancel(self, lease: Lease) -> None:
        self._end(lease, JobState.CANCELLED, {})

    def release(self, lease: Lease) -> None:
        """Back into the queue: the worker stops, the job does not."""
        values = {"state": JobState.QUEUED, "owner": None, "lease_until": None, "crashes": 0}
        self._change(lease, STATE, state_data(JobState.QUEUED, released=True), **values)

    def reclaim(self) -> int:
        """Takes jobs away from workers whose lease ran out; how many."""
        return self._take(jobs.c.lease_until < now())

    def abandon(self, owner: str) -> int:
        """Takes away the jobs of a worker that is known to be dead, and of whoever worked for it; how many."""
        return self._take(sa.or_(jobs.c.owner == owner, jobs.c.owner.startswith(f"{owner}{PART}", autoescape=True)))

    def waiting(self, limit: int, without: Collection[str] = ()) -> list[Job]:
        """The first jobs of the queue, those of some kinds left out."""
        query = (
            sa.select(jobs)
            .where(jobs.c.state == sa.literal_column("'queued'"), jobs.c.kind.not_in(sorted(without)))
            .order_by(jobs.c.priority.desc(), jobs.c.number)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [job_of(row) for row in connection.execute(query).mappings()]

    def held(self, job_ids: Collection[str]) -> dict[str, tuple[Job, str | None]]:
        """Those of these jobs that there are, each with whoever holds it."""
        query = sa.select(jobs).where(jobs.c.id.in_(sorted(job_ids)))
        with self._database.read() as connection:
            return {row["id"]: (job_of(row), row["owner"]) for row in connection.execute(query).mappings()}

    def _take(self, whose: sa.ColumnElement[bool]) -> int:
        # A statement of its own, never part of a claim: an OR over both would use neither index.
        with self._database.read() as connection:
            query = sa.select(jobs).where(whose, jobs.c.state.in_([sa.literal_column(f"'{s}'") for s in ACTIVE]))
            found = connection.execute(query).mappings().all()
        return sum(self._take_one(row, whose) for row in found)

    def _take_one(self, row: sa.RowMapping, whose: sa.ColumnElement[bool]) -> bool:
        guard = sa.and_(Lease(row["number"], row["fence"], job_of(row)).guard, whose)
        free: dict[str, Any] = {"owner": None, "lease_until": None, "fence": jobs.c.fence + 1}
        lost: dict[str, Any] = {"worker_lost": True}
        if row["cancel_requested"]:
            state, free["finished_at"] = JobState.CANCELLED, now()
        elif row["crashes"] + 1 >= self._max_crashes:
            detail = f"the worker died {row['crashes'] + 1} times without reaching a checkpoint"
            state, free["finished_at"] = JobState.FAILED, now()
            free["error"] = lost["error"] = {**LOST, "detail": detail}
        else:
            state = JobState.QUEUED
        free["crashes"] = jobs.c.crashes + 1
        with self._database.write() as connection:
            return change(connection, guard, STATE, state_data(state, **lost), state=state, **free) is not None

    def _end(self, lease: Lease, state: JobState, data: dict[str, Any], **values: Any) -> None:
        free: dict[str, Any] = {"owner": None, "lease_until": None, "finished_at": now()}
        self._change(lease, STATE, state_data(state, **data), state=state, **free, **values)

    def _change(self, lease: Lease, event: str, data: dict[str, Any], **values: Any) -> None:
        with self._database.write() as connection:
            if change(connection, lease.guard, event, data, **values) is None:
                raise LeaseLost(lease.job.id)

    @staticmethod
    def _has(connection: sa.Connection, lease: Lease, key: str) -> bool:
        query = sa.select(events.c.seq).where(events.c.job == lease.number, events.c.key == key)
        return connection.execute(query).scalar_one_or_none() is not None
