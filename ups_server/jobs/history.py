"""One way to change a job: its row and an event about it, in the same transaction.

The row's counter gives the event its number; that update locks the row, so numbers have no gaps and no doubles.
"""

from typing import Any

import sqlalchemy as sa

from ups_server.jobs.database import now
from ups_server.jobs.spec import Job, JobEvent, JobState
from ups_server.jobs.tables import events, jobs

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
