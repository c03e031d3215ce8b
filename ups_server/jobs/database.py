"""The database: SQLite in the data folder, or PostgreSQL by URL; opened, and brought to the schema of this version.

Writing transactions take the write lock at once (SQLite would otherwise refuse to upgrade a read to a write when
another process wrote in between); everything a transaction says about time is the database's own clock.

The schema's history is a short list of numbered steps, each run once in a transaction of its own and never edited
(Alembic would bring its own environment, scripts and command for it).
"""

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from ups_server.errors import UserError

FILE = "ups.sqlite"
BUSY_S = 60.0
"""How long a writer waits for another one, where nobody waits for it."""
PROMPT_S = 3.0
"""The same where a client waits for an answer, which it is to have within five seconds."""
PROBE_S = 0.5
"""The same where somebody asks whether the database can be written at all."""


class now(FunctionElement[float]):
    """Unix time in seconds, by the database's clock at the moment of the statement."""

    type = sa.Double()
    inherit_cache = True


@compiles(now, "sqlite")
def _now_sqlite(element: now, compiler: Any, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_postgresql(element: now, compiler: Any, **options: Any) -> str:
    return "EXTRACT(EPOCH FROM clock_timestamp())::double precision"


class Database:
    """Transactions on one database; safe to share between threads, not between processes."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that sees the latest state and commits at the end of the block."""
        with self.engine.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A consistent view that blocks no writer."""
        with self.engine.connect().execution_options(ups_read_only=True) as connection:
            yield connection

    def check(self) -> None:
        """Looks at every page of a SQLite file. Raises UserError ``database_damaged``."""
        if self.engine.dialect.name == "sqlite":
            with _understood(), self.read() as connection:
                found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
                if found != "ok":
                    raise sqlite3.DatabaseError(found)

    def writable(self) -> bool:
        """Can a transaction write now, or within half a second?"""
        if self.engine.dialect.name != "sqlite":
            with contextlib.suppress(sa.exc.DBAPIError), self.read() as connection:
                return bool(connection.exec_driver_sql("SELECT 1").scalar_one())
            return False
        with contextlib.suppress(sqlite3.Error):
            probe = sqlite3.connect(self.engine.url.database or "", PROBE_S, isolation_level=None)
            with contextlib.closing(probe):
                probe.execute("BEGIN IMMEDIATE")
                probe.execute("ROLLBACK")
                return True
        return False

    def close(self) -> None:
        self.engine.dispose()


def open_database(data_dir: Path, url: str | None = None, busy_s: float = BUSY_S) -> Database:
    """The database of a service, brought to the schema of this version.

    Args:
        busy_s: how long a writer waits for another one.

    Raises:
        UserError: ``invalid_database_url``, ``database_unavailable``, ``database_damaged``, ``database_too_new``,
            ``data_folder_unusable``.
    """

    if url is None:
        make_private(data_dir)
        engine = sqlite_engine(_private_file(data_dir / FILE), busy_s)
    else:
        engine = postgresql_engine(url)
    database = Database(engine)
    try:
        with _understood():
            migrate(engine)
    except UserError:
        database.close()
        raise
    return database


def make_private(folder: Path) -> None:
    """Makes a data folder, where it is not there yet, that its owner alone can enter.

    Raises:
        UserError: ``data_folder_unusable``.
    """
    try:
        folder.mkdir(0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise data_folder_unusable(folder, error.strerror) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise data_folder_unusable(folder, "it cannot be written")


def data_folder_unusable(folder: Path, reason: str | None) -> UserError:
    return UserError(
        "data_folder_unusable",
        "the data folder cannot be used",
        got=str(folder),
        expected="a folder that can be written, or the name of one to make",
        hint=reason,
    )


def _private_file(file: Path) -> Path:
    """Makes or makes safe what only the owner may read: the write-ahead log gets the rights of its database.

    One that exists is not opened: closing it would take away the locks that SQLite holds for other connections of this
    process, and the next process to end would delete the write-ahead log that they work on.
    """
    try:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        if not file.is_file():
            raise UserError("database_unavailable", f"{file} cannot be used", hint="it is no file")
        about = file.stat()
        if about.st_mode & 0o077 and about.st_uid == os.geteuid():
            file.chmod(0o600)
    except OSError as error:
        raise UserError("database_unavailable", f"{file} cannot be used", hint=error.strerror) from error
    return file


@contextmanager
def _understood() -> Iterator[None]:
    """What a database cannot do, in a sentence; SQLite's own errors come bare while a connection is made."""
    try:
        yield
    except (sa.exc.DatabaseError, sqlite3.DatabaseError) as error:
        reason = error.orig if isinstance(error, sa.exc.DatabaseError) else error
        if isinstance(reason, sqlite3.DatabaseError) and not isinstance(reason, sqlite3.OperationalError):
            raise UserError(
                "database_damaged",
                "the database is damaged",
                got=str(reason),
                hint=f"put a copy of {FILE} in its place, or move it away: the next start makes a new one",
            ) from error
        raise UserError("database_unavailable", "the database cannot be used", hint=str(reason)) from error


def sqlite_engine(file: Path, busy_s: float = BUSY_S) -> sa.Engine:
    """Write-ahead log, so that readers and the writer do not wait for each other; every commit is on disk."""
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(file)), connect_args={"timeout": busy_s}, json_serializer=dump_json
    )

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say so
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        reads = connection.get_execution_options().get("ups_read_only", False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


def postgresql_engine(url: str) -> sa.Engine:
    """Raises UserError ``invalid_database_url``, ``database_driver_missing``."""
    try:
        parsed = sa.make_url(url)
    except ArgumentError as error:
        raise _invalid_url() from error
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise _invalid_url()
    try:
        return sa.create_engine(
            parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True, json_serializer=dump_json
        )
    except ModuleNotFoundError as error:
        raise UserError(
            "database_driver_missing", "PostgreSQL needs a driver", hint="pip install 'ups-server[postgres]'"
        ) from error


dump_json = partial(json.dumps, allow_nan=False, separators=(",", ":"))


def _invalid_url() -> UserError:
    """Without the URL itself: it may hold a password."""
    return UserError(
        "invalid_database_url", "the database URL is not understood", expected="postgresql://user:password@host/name"
    )


Migration = Callable[[sa.Connection], None]

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


def webhooks(connection: sa.Connection) -> None:
    sqlite = connection.dialect.name == "sqlite"
    number = "INTEGER PRIMARY KEY AUTOINCREMENT" if sqlite else "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
    for statement in (
        f"""
        CREATE TABLE webhooks (
            id TEXT NOT NULL PRIMARY KEY,
            url TEXT NOT NULL,
            secret TEXT NOT NULL,
            states {"TEXT" if sqlite else "JSON"} NOT NULL,
            created_at DOUBLE PRECISION NOT NULL
        )
        """,
        f"""
        CREATE TABLE webhook_deliveries (
            number {number},
            id TEXT NOT NULL UNIQUE,
            webhook TEXT NOT NULL,
            body TEXT NOT NULL,
            attempts INTEGER NOT NULL,
            due_at DOUBLE PRECISION NOT NULL,
            done_at DOUBLE PRECISION,
            delivered BOOLEAN NOT NULL,
            error TEXT
        )
        """,
        "CREATE INDEX webhook_deliveries_due ON webhook_deliveries (due_at) WHERE done_at IS NULL",
        "CREATE INDEX webhook_deliveries_webhook ON webhook_deliveries (webhook)",
    ):
        connection.exec_driver_sql(statement)


def trace_of_a_job(connection: sa.Connection) -> None:
    """The span of the request that made a job."""
    connection.exec_driver_sql("ALTER TABLE jobs ADD COLUMN trace TEXT")


MIGRATIONS: tuple[Migration, ...] = (jobs_and_events, model_of_a_job, api_keys, reservations, webhooks, trace_of_a_job)
"""Version v of the schema is what the first v steps make."""


def migrate(engine: sa.Engine, steps: Sequence[Migration] = MIGRATIONS) -> int:
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
