"""The tables of jobs, the one way to change a job, and jobs as whoever orders them sees them. Imports no torch.

`database` makes the tables; a test compares the two. A job's row and an event about it change in the same transaction:
the row's counter gives the event its number, and that update locks the row, so numbers have no gaps and no doubles.
"""

import secrets
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from ups_server.errors import UserError
from ups_server.jobs.database import Database, dump_json, now
from ups_server.jobs.spec import ACTIVE, AnySpec, Checkpoint, Job, JobEvent, JobState
from ups_server.tracing import PARENT, carrier

PAGE = 100
"""Most jobs or events in one answer."""
PREFIXES = {"evaluation": "eval", "fine_tuning": "ft", "rollout": "ro"}
NEW = {"cancel_requested": False, "fence": 0, "attempt": 0, "crashes": 0, "last_seq": 1}

metadata = sa.MetaData()

Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("number", Number, primary_key=True),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("spec", sa.JSON, nullable=False),
    sa.Column("idempotency_key", sa.Text),
    sa.Column("cancel_requested", sa.Boolean, nullable=False),
    sa.Column("owner", sa.Text),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("lease_until", sa.Double),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("crashes", sa.Integer, nullable=False),
    sa.Column("last_seq", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("started_at", sa.Double),
    sa.Column("finished_at", sa.Double),
    sa.Column("result", sa.JSON(none_as_null=True)),
    sa.Column("error", sa.JSON(none_as_null=True)),
    sa.Column("model", sa.Text),
    sa.Column("trace", sa.Text),
)
"""One row a job.

owner, fence, lease_until: which worker holds it, the number of its lease, until when. The fence grows with every
change of hands; whoever writes with an older one is refused.
attempt: leases so far. crashes: leases in succession that ended without a checkpoint or a word.
last_seq: number of its latest event.
trace: W3C `traceparent` of the request that made it, where that was traced.
"""

events = sa.Table(
    "job_events",
    metadata,
    sa.Column("job", Number, sa.ForeignKey("jobs.number"), primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("key", sa.Text),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
)
"""Append-only. `key` names what happens once in a job however often a part of it is repeated after a crash."""

webhooks = sa.Table(
    "webhooks",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("secret", sa.Text, nullable=False),
    sa.Column("states", sa.JSON, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)
"""Who is told of jobs. The secret stands in clear: it signs what is sent."""

deliveries = sa.Table(
    "webhook_deliveries",
    metadata,
    sa.Column("number", Number, primary_key=True),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("webhook", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due_at", sa.Double, nullable=False),
    sa.Column("done_at", sa.Double),
    sa.Column("delivered", sa.Boolean, nullable=False),
    sa.Column("error", sa.Text),
)
"""What they are told, one row a message: due while `done_at` is null."""

schema_version = sa.Table("schema_version", metadata, sa.Column("version", sa.Integer, nullable=False))


STATE = "state"
"""Type of the events that say a job's state."""


def change(
    connection: sa.Connection,
    guard: sa.ColumnElement[bool],
    event: str,
    data: dict[str, Any],
    key: str | None = None,
    **values: Any,
) -> sa.RowMapping | None:
    """Updates the one job that `guard` allows, and appends an event; the new row, None where the guard refuses."""
    row = (
        connection.execute(
            sa.update(jobs).where(guard).values(last_seq=jobs.c.last_seq + 1, **values).returning(*jobs.c)
        )
        .mappings()
        .one_or_none()
    )
    if row is not None:
        append(connection, row["number"], row["last_seq"], event, data, key)
        if event == STATE:
            announce(connection, job_of(row))
    return row


def append(
    connection: sa.Connection, number: int, seq: int, event: str, data: dict[str, Any], key: str | None = None
) -> None:
    connection.execute(sa.insert(events).values(job=number, seq=seq, type=event, key=key, at=now(), data=data))


def announce(connection: sa.Connection, job: Job) -> None:
    """Has whoever wants to be told of the job's new state told, once this transaction is done."""
    for receiver in connection.execute(sa.select(webhooks.c.id, webhooks.c.states)).all():
        if job.state in receiver.states:
            at = datetime.now(UTC).isoformat(timespec="milliseconds")
            message = {"type": f"job.{job.state}", "timestamp": at, "data": job.model_dump(mode="json")}
            new = {"id": f"msg_{secrets.token_hex(16)}", "webhook": receiver.id, "body": dump_json(message)}
            connection.execute(sa.insert(deliveries).values(attempts=0, due_at=now(), delivered=False, **new))


def job_of(row: sa.RowMapping) -> Job:
    return Job(**{name: row[name] for name in Job.model_fields})


def event_of(row: sa.RowMapping) -> JobEvent:
    return JobEvent(**{name: row[name] for name in JobEvent.model_fields})


def state_data(state: JobState, **more: Any) -> dict[str, Any]:
    return {"state": state.value, **more}


def new_id(kind: str) -> str:
    """An id that no job has."""
    return f"{PREFIXES[kind]}-{secrets.token_hex(8)}"


class JobStore:
    """The table of jobs. Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, spec: AnySpec, idempotency_key: str | None = None, job_id: str | None = None) -> tuple[Job, bool]:
        """Queues a job; (job, True), or the job that the same key made before and False.

        Args:
            job_id: of `new_id`, where something was made under that id before.

        Raises:
            UserError: ``idempotency_conflict`` where the key came with another spec.
        """
        document = spec.model_dump(mode="json")
        insert = postgresql.insert if self._database.engine.dialect.name == "postgresql" else sqlite.insert
        with self._database.write() as connection:
            row = (
                connection.execute(
                    insert(jobs)
                    .values(
                        id=job_id or new_id(spec.kind),
                        kind=spec.kind,
                        state=JobState.QUEUED,
                        priority=spec.priority,
                        spec=document,
                        model=spec.model,
                        idempotency_key=idempotency_key,
                        trace=carrier().get(PARENT),
                        created_at=now(),
                        **NEW,
                    )
                    .on_conflict_do_nothing(index_elements=[jobs.c.idempotency_key])
                    .returning(*jobs.c)
                )
                .mappings()
                .one_or_none()
            )
            if row is not None:
                append(connection, row["number"], 1, STATE, state_data(JobState.QUEUED))
                announce(connection, job_of(row))
                return job_of(row), True
            before = connection.execute(sa.select(jobs).where(jobs.c.idempotency_key == idempotency_key)).mappings()
            earlier = job_of(before.one())
        if earlier.spec != document:
            raise UserError(
                "idempotency_conflict",
                "this Idempotency-Key made another job",
                expected=f"the request that made {earlier.id}, or another key",
            )
        return earlier, False

    def get(self, job_id: str, kind: str | None = None) -> Job:
        """Raises UserError ``unknown_job``."""
        with self._database.read() as connection:
            return job_of(self._row(connection, job_id, kind))

    def has_key(self, idempotency_key: str) -> bool:
        """Has this key made a job?"""
        query = sa.select(jobs.c.number).where(jobs.c.idempotency_key == idempotency_key)
        with self._database.read() as connection:
            return connection.execute(query).scalar_one_or_none() is not None

    def page(
        self, kind: str | None = None, limit: int = 20, before: str | None = None, state: JobState | None = None
    ) -> list[Job]:
        """The latest jobs first; those made before the job `before`, those in one state.

        Raises:
            UserError: ``unknown_job``.
        """
        query = sa.select(jobs).order_by(jobs.c.number.desc()).limit(min(limit, PAGE))
        if kind is not None:
            query = query.where(jobs.c.kind == kind)
        if state is not None:
            query = query.where(jobs.c.state == state.value)
        with self._database.read() as connection:
            if before is not None:
                query = query.where(jobs.c.number < self._row(connection, before, kind)["number"])
            return [job_of(row) for row in connection.execute(query).mappings()]

    def events(
        self, job_id: str, after: int = 0, limit: int = PAGE, type: str | None = None
    ) -> tuple[list[JobEvent], bool]:
        """(events with a number above `after`, is that all there will be unless the job is resumed?)

        Raises:
            UserError: ``unknown_job``.
        """
        with self._database.read() as connection:
            row = self._row(connection, job_id)
            query = sa.select(events).where(events.c.job == row["number"], events.c.seq > after)
            if type is not None:
                query = query.where(events.c.type == type)
            found = [
                event_of(entry) for entry in connection.execute(query.order_by(events.c.seq).limit(limit)).mappings()
            ]
        return found, job_of(row).final and len(found) < limit

    def all_events(self, job_id: str, type: str) -> list[JobEvent]:
        """Every event of one type. Raises UserError ``unknown_job``."""
        found: list[JobEvent] = []
        while True:
            page, _ = self.events(job_id, found[-1].seq if found else 0, type=type)
            found += page
            if len(page) < PAGE:
                return found

    def checkpoints(self, job_id: str) -> list[Checkpoint]:
        """Where a fine-tuning job has saved its state, as its history says, in order.

        Raises:
            UserError: ``unknown_job``, also where the job is of another kind.
        """
        self.get(job_id, "fine_tuning")
        scored = {event.data["step"]: event.data for event in self.all_events(job_id, "validation")}
        saved = self.all_events(job_id, "checkpoint")
        return [Checkpoint(at=event.at, **{**scored.get(event.data["step"], {}), **event.data}) for event in saved]

    def cancel(self, job_id: str, kind: str | None = None) -> Job:
        """A waiting job is cancelled at once, a running one as soon as its worker has saved its state.

        Raises:
            UserError: ``unknown_job``, ``job_finished``.
        """
        with self._database.write() as connection:
            row = self._row(connection, job_id, kind, lock=True)
            this, job = jobs.c.number == row["number"], job_of(row)
            changed: sa.RowMapping | None = row
            if job.state is JobState.QUEUED:
                changed = change(
                    connection,
                    this,
                    STATE,
                    state_data(JobState.CANCELLED),
                    state=JobState.CANCELLED,
                    finished_at=now(),
                )
            elif job.state in ACTIVE and not job.cancel_requested:
                changed = change(connection, this, "cancel_requested", {}, cancel_requested=True)
            elif job.state in (JobState.SUCCEEDED, JobState.FAILED):
                raise UserError("job_finished", f"{job_id} has ended", got=job.state.value, expected="an open job")
            return job_of(changed) if changed is not None else job

    def resume(self, job_id: str, kind: str | None = None) -> Job:
        """Queues a cancelled or failed job again; it goes on from its last checkpoint.

        Raises:
            UserError: ``unknown_job``, ``job_not_resumable``.
        """
        with self._database.write() as connection:
            row = self._row(connection, job_id, kind, lock=True)
            job = job_of(row)
            if job.state not in (JobState.CANCELLED, JobState.FAILED):
                raise UserError(
                    "job_not_resumable",
                    f"{job_id} cannot be resumed",
                    got=job.state.value,
                    expected="a cancelled or failed job",
                )
            changed = change(
                connection,
                jobs.c.number == row["number"],
                STATE,
                state_data(JobState.QUEUED, resumed=True),
                state=JobState.QUEUED,
                cancel_requested=False,
                crashes=0,
                finished_at=None,
                error=None,
            )
            return job_of(changed) if changed is not None else job

    def counts(self) -> dict[tuple[str, str], int]:
        """(kind, state) -> how many jobs."""
        query = sa.select(jobs.c.kind, jobs.c.state, sa.func.count()).group_by(jobs.c.kind, jobs.c.state)
        with self._database.read() as connection:
            return {(kind, state): count for kind, state, count in connection.execute(query)}

    def delete(self, job_id: str, kind: str | None = None) -> None:
        """Forgets a job that has ended, and its events.

        Raises:
            UserError: ``unknown_job``, ``job_open``.
        """
        with self._database.write() as connection:
            row = self._row(connection, job_id, kind, lock=True)
            if not job_of(row).final:
                raise UserError("job_open", f"{job_id} has not ended", got=row["state"], hint="cancel it first")
            connection.execute(sa.delete(events).where(events.c.job == row["number"]))
            connection.execute(sa.delete(jobs).where(jobs.c.number == row["number"]))

    def uses(self, model: str) -> str | None:
        """The id of an open job that works with this model, where there is one."""
        query = sa.select(jobs.c.id).where(jobs.c.model == model, jobs.c.state.in_([JobState.QUEUED, *ACTIVE]))
        with self._database.read() as connection:
            return connection.execute(query.limit(1)).scalar_one_or_none()

    def uses_file(self, file_id: str) -> str | None:
        """The id of an open job that reads this file, where there is one."""
        query = sa.select(jobs.c.id, jobs.c.spec).where(jobs.c.state.in_([JobState.QUEUED, *ACTIVE]))
        with self._database.read() as connection:
            for job_id, spec in connection.execute(query):
                if file_id in (spec.get("training_file"), spec.get("validation_file"), spec.get("file")):
                    return str(job_id)
        return None

    def _row(
        self, connection: sa.Connection, job_id: str, kind: str | None = None, lock: bool = False
    ) -> sa.RowMapping:
        query: sa.Select[Any] = sa.select(jobs).where(jobs.c.id == job_id)
        if kind is not None:
            query = query.where(jobs.c.kind == kind)
        row = connection.execute(query.with_for_update() if lock else query).mappings().one_or_none()
        if row is None:
            raise UserError("unknown_job", f"there is no job {job_id!r}", got=job_id)
        return row
