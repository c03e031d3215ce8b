"""Old databases are brought up to date, with all that is in them."""

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from ups_server.errors import UserError
from ups_server.jobs.database import MIGRATIONS, Database, migrate, open_database, postgresql_engine, sqlite_engine
from ups_server.jobs.leases import Leases
from ups_server.jobs.spec import EvaluationSpec, JobState
from ups_server.jobs.store import JobStore, metadata

OLD_JOB = """
INSERT INTO jobs (id, kind, state, priority, spec, cancel_requested, fence, attempt, crashes, last_seq, created_at)
VALUES ('eval-old', 'evaluation', 'queued', 0, '{"kind": "evaluation", "model": "numerical", "file": "f"}', false,
        0, 0, 0, 1, 1.0)
"""
OLD_EVENT = "INSERT INTO job_events (job, seq, type, at, data) VALUES (1, 1, 'state', 1.0, '{\"state\": \"queued\"}')"


def raw_engine(tmp_path: Path, url: str | None) -> sa.Engine:
    return sqlite_engine(tmp_path / "ups.sqlite") if url is None else postgresql_engine(url)


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
def test_every_older_version_is_brought_up_with_its_jobs(
    tmp_path: Path, database_url: str | None, version: int
) -> None:
    engine = raw_engine(tmp_path, database_url)
    assert migrate(engine, MIGRATIONS[:version]) == 0
    with engine.begin() as connection:
        connection.exec_driver_sql(OLD_JOB)
        connection.exec_driver_sql(OLD_EVENT)
        if version >= 2:
            connection.exec_driver_sql("UPDATE jobs SET model = 'numerical'")
    engine.dispose()
    database = open_database(tmp_path, database_url)
    store, leases = JobStore(database), Leases(database)
    job = store.get("eval-old")
    assert (job.state, job.model) == (JobState.QUEUED, "numerical")
    assert store.uses("numerical") == "eval-old"
    lease = leases.claim("worker")
    assert lease is not None
    leases.succeed(lease, {})
    assert [event.seq for event in store.events("eval-old")[0]] == [1, 2, 3]
    database.close()


def test_the_migrations_make_the_tables_that_are_used(database: Database) -> None:
    inspector = sa.inspect(database.engine)
    for table in metadata.sorted_tables:
        found = {column["name"]: column["nullable"] for column in inspector.get_columns(table.name)}
        numbers = {"number"}  # SQLite calls an integer primary key nullable
        assert found.keys() == {column.name for column in table.columns}
        for column in table.columns:
            assert column.name in numbers or found[column.name] == column.nullable, column


def test_opening_again_changes_nothing(tmp_path: Path, database_url: str | None) -> None:
    for _ in range(2):
        open_database(tmp_path, database_url).close()
    engine = raw_engine(tmp_path, database_url)
    assert migrate(engine) == len(MIGRATIONS)
    engine.dispose()


OPENED_ELSEWHERE = """
import sys
from pathlib import Path
from ups_server.jobs.database import open_database
database = open_database(Path(sys.argv[1]))
with database.write() as connection:
    connection.exec_driver_sql("UPDATE jobs SET priority = priority + 1")
database.close()
"""


def test_opening_twice_leaves_the_first_its_log(tmp_path: Path) -> None:
    """A process that ends beside them takes itself for the last, and deletes the log, where their locks are gone."""
    first = open_database(tmp_path)
    store = JobStore(first)
    job, _ = store.create(EvaluationSpec(model="numerical", file="f"))
    second = open_database(tmp_path)
    for _ in range(2):
        subprocess.run([sys.executable, "-c", OPENED_ELSEWHERE, str(tmp_path)], check=True)
        assert (tmp_path / "ups.sqlite-wal").is_file()
    for database in (first, second):
        with database.read() as connection:
            assert connection.exec_driver_sql("SELECT priority FROM jobs").scalar_one() == job.priority + 2
        database.close()


def test_a_later_version_s_database_is_refused(tmp_path: Path, database_url: str | None) -> None:
    engine = raw_engine(tmp_path, database_url)
    migrate(engine, [*MIGRATIONS, lambda connection: None])
    engine.dispose()
    with pytest.raises(UserError) as caught:
        open_database(tmp_path, database_url)
    assert caught.value.code == "database_too_new"


def test_a_failed_step_leaves_the_version_before(tmp_path: Path, database_url: str | None) -> None:
    def broken(connection: sa.Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE half (x INTEGER)")
        raise RuntimeError("power cut")

    engine = raw_engine(tmp_path, database_url)
    with pytest.raises(RuntimeError):
        migrate(engine, [*MIGRATIONS, broken])
    assert "half" not in sa.inspect(engine).get_table_names()
    assert migrate(engine) == len(MIGRATIONS)
    engine.dispose()
