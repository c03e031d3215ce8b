"""The database: SQLite in the data folder, or PostgreSQL by URL.

Writing transactions take the write lock at once (SQLite would otherwise refuse to upgrade a read to a write when
another process wrote in between); everything a transaction says about time is the database's own clock.
"""

import json
from collections.abc import Iterator
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
"""How long a writer waits for another one."""


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

    def close(self) -> None:
        self.engine.dispose()


def open_database(data_dir: Path, url: str | None = None) -> Database:
    """The database of a service, brought to the schema of this version.

    Raises:
        UserError: ``invalid_database_url``, ``database_unavailable``, ``database_too_new``.
    """
    from ups_server.jobs.migrations import migrate

    if url is None:
        data_dir.mkdir(parents=True, exist_ok=True)
        engine = sqlite_engine(data_dir / FILE)
    else:
        engine = postgresql_engine(url)
    try:
        migrate(engine)
    except sa.exc.OperationalError as error:
        engine.dispose()
        raise UserError("database_unavailable", "the database cannot be used", hint=str(error.orig)) from error
    except UserError:
        engine.dispose()
        raise
    return Database(engine)


def sqlite_engine(file: Path) -> sa.Engine:
    """Write-ahead log, so that readers and the writer do not wait for each other; every commit is on disk."""
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(file)), connect_args={"timeout": BUSY_S}, json_serializer=dump_json
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
