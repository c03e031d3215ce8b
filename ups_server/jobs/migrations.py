"""The schema's history: numbered steps, each run once in a transaction of its own. Steps are never edited.

Alembic would bring its own environment, scripts and command for what is a short list.
"""

from collections.abc import Callable, Sequence

import sqlalchemy as sa

from ups_server.errors import UserError

Step = Callable[[sa.Connection], None]

LOCK = 7_305_441
"""PostgreSQL advisory lock: one process migrates, the others wait. (SQLite's write lock does the same.)"""


def jobs_and_events(connection: sa.Connection) -> None:
    sqlite = connection.dialect.name == "sqlite"
    number = "INTEGER PRIMARY KEY AUTOINCREMENT" if sqlite else "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
    text = "TEXT" if sqlite else "JSON"
    for statement in (
        f"""
        CREATE TABLE jobs (
            number {number},
            id TEXT NOT NULL UNIQUE,
            kind TEXT NOT NULL,
            state TEXT NOT NULL,
            priority INTEGER NOT NULL,
            spec {text} NOT NULL,
            idempotency_key TEXT,
            cancel_requested BOOLEAN NOT NULL,
            owner TEXT,
            fence INTEGER NOT NULL,
            lease_until DOUBLE PRECISION,
            attempt INTEGER NOT NULL,
            crashes INTEGER NOT NULL,
            last_seq INTEGER NOT NULL,
            created_at DOUBLE PRECISION NOT NULL,
            started_at DOUBLE PRECISION,
            finished_at DOUBLE PRECISION,
            result {text},
            error {text}
        )
        """,
        f"""
        CREATE TABLE job_events (
            job {"INTEGER" if sqlite else "BIGINT"} NOT NULL REFERENCES jobs (number),
            seq INTEGER NOT NULL,
            type TEXT NOT NULL,
            key TEXT,
            at DOUBLE PRECISION NOT NULL,
            data {text} NOT NULL,
            PRIMARY KEY (job, seq)
        )
        """,
        "CREATE UNIQUE INDEX jobs_idempotency ON jobs (idempotency_key)",
        "CREATE INDEX jobs_queue ON jobs (priority DESC, number) WHERE state = 'queued'",
        "CREATE INDEX jobs_leases ON jobs (lease_until) WHERE state IN ('validating', 'running')",
        "CREATE UNIQUE INDEX job_events_key ON job_events (job, key)",
    ):
        connection.exec_driver_sql(statement)


def model_of_a_job(connection: sa.Connection) -> None:
    """The model a job works with becomes a column: a model in use must not be deleted."""
    connection.exec_driver_sql("ALTER TABLE jobs ADD COLUMN model TEXT")
    table = sa.table("jobs", sa.column("number"), sa.column("spec", sa.JSON), sa.column("model"))
    for number, spec in connection.execute(sa.select(table.c.number, table.c.spec)).all():
        model = spec.get("model")
        connection.execute(sa.update(table).where(table.c.number == number).values(model=model))


def api_keys(connection: sa.Connection) -> None:
    for statement in (
        """
        CREATE TABLE api_keys (
            id TEXT NOT NULL PRIMARY KEY,
            name TEXT NOT NULL,
            hash TEXT NOT NULL,
            scopes TEXT NOT NULL,
            created_at DOUBLE PRECISION NOT NULL,
            expires_at DOUBLE PRECISION,
            revoked_at DOUBLE PRECISION,
            requests_per_minute INTEGER,
            stored_bytes BIGINT,
            compute_seconds DOUBLE PRECISION
        )
        """,
        "CREATE TABLE key_resources (resource TEXT NOT NULL PRIMARY KEY, key TEXT NOT NULL)",
        "CREATE INDEX key_resources_key ON key_resources (key)",
        """
        CREATE TABLE key_usage (
            key TEXT NOT NULL,
            day INTEGER NOT NULL,
            compute_seconds DOUBLE PRECISION NOT NULL,
            PRIMARY KEY (key, day)
        )
        """,
    ):
        connection.exec_driver_sql(statement)


def reservations(connection: sa.Connection) -> None:
    """What a file or job is going to take counts from the moment it is let in."""
    connection.exec_driver_sql("ALTER TABLE key_resources ADD COLUMN reserved BIGINT NOT NULL DEFAULT 0")
    connection.exec_driver_sql(
        "ALTER TABLE key_resources ADD COLUMN reserved_until DOUBLE PRECISION NOT NULL DEFAULT 0"
    )


MIGRATIONS: tuple[Step, ...] = (jobs_and_events, model_of_a_job, api_keys, reservations)
"""Version v of the schema is what the first v steps make."""


def migrate(engine: sa.Engine, steps: Sequence[Step] = MIGRATIONS) -> int:
    """Brings a database to the version of `steps`; returns the version it had.

    Raises:
        UserError: ``database_too_new`` where a later version of this package has written it.
    """
    with engine.begin() as connection:
        _lock(connection)
        connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
        found = _version(connection)
        if found is None:
            connection.exec_driver_sql("INSERT INTO schema_version (version) VALUES (0)")
    for version in range(found or 0, len(steps)):
        with engine.begin() as connection:
            _lock(connection)
            if _version(connection) != version:
                continue  # another process was faster
            steps[version](connection)
            connection.execute(sa.text("UPDATE schema_version SET version = :new"), {"new": version + 1})
    if (found or 0) > len(steps):
        raise UserError(
            "database_too_new",
            "the database was written by a later version of ups-server",
            got=f"schema version {found}",
            expected=f"at most {len(steps)}",
        )
    return found or 0


def _lock(connection: sa.Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})


def _version(connection: sa.Connection) -> int | None:
    version: int | None = connection.execute(sa.text("SELECT version FROM schema_version")).scalar_one_or_none()
    return version
