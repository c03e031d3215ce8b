"""Databases for tests: SQLite files, and a real PostgreSQL server where its programs are installed."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from ups_server.jobs.database import Database, open_database, postgresql_engine
from ups_server.jobs.leases import Leases
from ups_server.jobs.spec import EvaluationSpec
from ups_server.jobs.store import JobStore

BACKENDS = ("sqlite", "postgresql")


def postgresql_programs() -> Path | None:
    """Debian keeps them out of PATH, one folder a version."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).parent
    versions = sorted(Path(os.sep, "usr", "lib", "postgresql").glob("*/bin/initdb"), reverse=True)
    return versions[0].parent if versions else None


def unprivileged() -> list[str]:
    """PostgreSQL does not run as root: the prefix of a command that runs as somebody else."""
    if os.getuid() != 0:
        return []
    for name in ("postgres", "nobody"):
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return ["setpriv", f"--reuid={name}", "--clear-groups", "--regid", str(pwd.getpwnam(name).pw_gid)]
    pytest.skip("there is no user that PostgreSQL could run as")


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a server of our own in a temporary folder; skips where PostgreSQL is not installed."""
    programs = postgresql_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    prefix = unprivileged()
    # Not below pytest's own folder, which is closed to other users whenever a session starts.
    folder = Path(tempfile.mkdtemp(prefix="ups-postgresql-"))
    if prefix:
        shutil.chown(folder, prefix[1].removeprefix("--reuid="))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    data = folder / "data"
    locale = ["--encoding=UTF8", "--locale=C"]
    initdb = [*prefix, str(programs / "initdb"), "-D", str(data), "-U", "ups", "-A", "trust", *locale]
    subprocess.run(initdb, check=True, capture_output=True, cwd=folder)
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories='{folder}' -c fsync=off"
    control = [*prefix, str(programs / "pg_ctl"), "-D", str(data), "-w"]
    subprocess.run([*control, "-l", str(folder / "log"), "-o", options, "start"], check=True, cwd=folder)
    try:
        yield f"postgresql://ups@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, cwd=folder, stdout=subprocess.DEVNULL)
        shutil.rmtree(folder)


@pytest.fixture(params=BACKENDS)
def database_url(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """A fresh database: None for SQLite in the data folder, else a URL."""
    if request.param == "sqlite":
        yield None
        return
    server: str = request.getfixturevalue("postgresql")
    name = f"ups_{uuid.uuid4().hex}"
    admin = postgresql_engine(server).execution_options(isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    yield server.removesuffix("postgres") + name
    with admin.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def database(database_url: str | None, tmp_path: Path) -> Iterator[Database]:
    opened = open_database(tmp_path, database_url)
    yield opened
    opened.close()


@pytest.fixture
def store(database: Database) -> JobStore:
    return JobStore(database)


@pytest.fixture
def leases(database: Database) -> Leases:
    return Leases(database)


@pytest.fixture
def spec() -> EvaluationSpec:
    return EvaluationSpec(model="persistence", file="burgers")
