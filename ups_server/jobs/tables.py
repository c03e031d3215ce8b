"""The tables of jobs as this version reads and writes them, and the one way to change a job.

`database` makes the tables; a test compares the two. A job's row and an event about it change in the same transaction:
the row's counter gives the event its number, and that update locks the row, so numbers have no gaps and no doubles.
"""

from typing import Any

import sqlalchemy as sa

from ups_server.jobs.database import now
from ups_server.jobs.spec import Job, JobEvent, JobState

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
)
"""One row a job.

owner, fence, lease_until: which worker holds it, the number of its lease, until when. The fence grows with every
change of hands; whoever writes with an older one is refused.
attempt: leases so far. crashes: leases in succession that ended without a checkpoint or a word.
last_seq: number of its latest event.
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
    return row


def append(
    connection: sa.Connection, number: int, seq: int, event: str, data: dict[str, Any], key: str | None = None
) -> None:
    connection.execute(sa.insert(events).values(job=number, seq=seq, type=event, key=key, at=now(), data=data))


def job_of(row: sa.RowMapping) -> Job:
    return Job(**{name: row[name] for name in Job.model_fields})


def event_of(row: sa.RowMapping) -> JobEvent:
    return JobEvent(**{name: row[name] for name in JobEvent.model_fields})


def state_data(state: JobState, **more: Any) -> dict[str, Any]:
    return {"state": state.value, **more}
