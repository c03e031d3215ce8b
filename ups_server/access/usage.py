"""What keys use: how often they ask, which files and jobs are theirs, how long was computed for them."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from ups_server.access.keys import DAY_S
from ups_server.jobs.database import Database, now
from ups_server.jobs.store import jobs, metadata

MINUTE_S = 60.0
RESERVED_S = 600.0
"""After so many seconds a reservation belongs to a process that is gone."""


resources = sa.Table(
    "key_resources",
    metadata,
    sa.Column("resource", sa.Text, primary_key=True, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("reserved", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("reserved_until", sa.Double, nullable=False, server_default="0"),
)
"""Which key made a file or a job. reserved: bytes it is going to take, until it is there or the Unix time comes."""


usage = sa.Table(
    "key_usage",
    metadata,
    sa.Column("key", sa.Text, primary_key=True, nullable=False),
    sa.Column("day", sa.Integer, primary_key=True, nullable=False),
    sa.Column("compute_seconds", sa.Double, nullable=False),
)
"""Seconds that the engine worked for a key; a day is a number of days since 1970, in UTC."""


class Meter:
    """Seconds of the engine that are not written down yet, by key."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def computed(self, key: str, seconds: float) -> None:
        with self._lock:
            self._seconds[key] += seconds

    def gathered(self, key: str) -> float:
        with self._lock:
            return self._seconds.get(key, 0.0)

    def drain(self) -> dict[str, float]:
        """Everything, which is then forgotten."""
        with self._lock:
            gathered, self._seconds = dict(self._seconds), defaultdict(float)
            return gathered


class RateLimiter:
    """Token buckets, one a key, in the memory of one process: as many requests at once as a minute allows, then evenly.

    Args:
        clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, who: str, per_minute: int) -> float:
        """0 where the request may pass, else the seconds until one may; a refusal costs nothing."""
        with self._lock:
            now = self._clock()
            left, at = self._buckets.get(who, (float(per_minute), now))
            left = min(float(per_minute), left + (now - at) * per_minute / MINUTE_S)
            if left >= 1.0:
                self._buckets[who] = (left - 1.0, now)
                return 0.0
            self._buckets[who] = (left, now)
            return (1.0 - left) * MINUTE_S / per_minute


class KeyUsage:
    """The account of all keys in the database. A day is one of UTC."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def _insert(self, table: sa.Table) -> "postgresql.Insert | sqlite.Insert":
        """An insertion that can say what to do about a conflict, which each dialect says in its way."""
        postgres = self._database.engine.dialect.name == "postgresql"
        return postgresql.insert(table) if postgres else sqlite.insert(table)

    def record_owner(self, key: str, resource: str) -> None:
        """A key has made a file or a job; the first one it belongs to keeps it."""
        row = self._insert(resources).values(resource=resource, key=key)
        with self._database.write() as connection:
            connection.execute(row.on_conflict_do_nothing(index_elements=[resources.c.resource]))

    def reserve(
        self, key: str, resource: str, size: int, allowed: int, measured: Callable[[Collection[str]], Mapping[str, int]]
    ) -> int:
        """Reserves bytes for what a key is going to make, in one transaction: of several at once, those that fit.

        Args:
            measured: what each of some resources takes on disk.

        Returns:
            The bytes that were left; fewer than `size`: nothing is reserved.
        """
        with self._database.write() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(key))))
            left = allowed - self._taken(connection, key, measured)
            if size <= left:
                until = {"reserved": size, "reserved_until": now() + RESERVED_S}
                row = self._insert(resources).values(resource=resource, key=key, **until)
                connection.execute(row.on_conflict_do_update(index_elements=[resources.c.resource], set_=until))
            return left

    def settle(self, resource: str) -> None:
        """What was reserved is there now, and counts for itself, or will not come."""
        this = resources.c.resource == resource
        with self._database.write() as connection:
            connection.execute(sa.update(resources).where(this).values(reserved=0, reserved_until=0))

    def taken(self, key: str, measured: Callable[[Collection[str]], Mapping[str, int]]) -> int:
        """Bytes of all that a key has made and is about to make."""
        with self._database.read() as connection:
            return self._taken(connection, key, measured)

    @staticmethod
    def _taken(connection: sa.Connection, key: str, measured: Callable[[Collection[str]], Mapping[str, int]]) -> int:
        pending = sa.case((resources.c.reserved_until > now(), resources.c.reserved), else_=0)
        query = sa.select(resources.c.resource, pending).where(resources.c.key == key)
        reserved = {resource: int(size) for resource, size in connection.execute(query)}
        sizes = measured(reserved)
        return sum(max(size, sizes.get(resource, 0)) for resource, size in reserved.items())

    def owned(self, key: str) -> set[str]:
        """Ids of all files and jobs a key has made."""
        with self._database.read() as connection:
            return set(connection.execute(sa.select(resources.c.resource).where(resources.c.key == key)).scalars())

    def add(self, seconds: Mapping[str, float]) -> None:
        """The engine has worked so many seconds for these keys."""
        with self._database.write() as connection:
            for key, more in seconds.items():
                row = self._insert(usage).values(key=key, day=_today(connection), compute_seconds=more)
                total = usage.c.compute_seconds + row.excluded.compute_seconds
                days = [usage.c.key, usage.c.day]
                connection.execute(row.on_conflict_do_update(index_elements=days, set_={"compute_seconds": total}))

    def compute_today(self, key: str) -> float:
        """Seconds of today: of the engine, and of the jobs that began today, the waits between attempts included."""
        with self._database.read() as connection:
            today = _today(connection)
            engine = sa.select(usage.c.compute_seconds).where(usage.c.key == key, usage.c.day == today)
            lasted = sa.func.coalesce(jobs.c.finished_at, now()) - jobs.c.started_at
            mine = sa.select(resources.c.resource).where(resources.c.key == key)
            worker = sa.select(sa.func.coalesce(sa.func.sum(lasted), 0.0)).where(
                jobs.c.id.in_(mine), jobs.c.started_at >= today * DAY_S
            )
            written = connection.execute(engine).scalar_one_or_none() or 0.0
            worked = connection.execute(worker).scalar_one()
        return float(written + worked)


def _today(connection: sa.Connection) -> int:
    return int(connection.execute(sa.select(now())).scalar_one() // DAY_S)
