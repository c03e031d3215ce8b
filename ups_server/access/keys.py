"""API keys: made, listed, revoked, recognised.

A key is `ups_ID_SECRET`; the id is public and finds the row, the hash of the whole is compared in constant time.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field

from ups_server.access.scopes import Scope, granted
from ups_server.errors import UserError
from ups_server.jobs.database import Database, now
from ups_server.jobs.store import metadata

PATTERN = re.compile(r"ups_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
DAY_S = 86_400.0


class KeyLimits(BaseModel):
    """What a key may use; null: what the settings say for all keys."""

    model_config = ConfigDict(frozen=True)
    requests_per_minute: int | None = Field(default=None, ge=1)
    stored_bytes: int | None = Field(
        default=None, ge=0, lt=2**63, description="Of its files and of the results of its asynchronous rollouts."
    )
    compute_seconds: float | None = Field(default=None, ge=0, description="A day: of the engine and of its jobs.")


class ApiKey(KeyLimits):
    """What is known of a key; never the key itself. Times are Unix times in seconds."""

    id: str
    name: str
    scopes: tuple[Scope, ...] = Field(description="As given; `read` is always included, `admin` includes all.")
    created_at: float
    expires_at: float | None = Field(description="null: never.")
    revoked_at: float | None

    def allows(self, scope: Scope) -> bool:
        return scope in granted(self.scopes)

    def state(self, at: float) -> str:
        """`active`, `expired` or `revoked` at a time."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= at else "active"


keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double),
    sa.Column("revoked_at", sa.Double),
    sa.Column("requests_per_minute", sa.Integer),
    sa.Column("stored_bytes", sa.BigInteger),
    sa.Column("compute_seconds", sa.Double),
)
"""One row a key. hash: sha256 of the whole key, in hexadecimal; the key itself is stored nowhere.

A key is 256 random bits, so that a fast hash is as good as a slow one: there is no dictionary to try.
requests_per_minute, stored_bytes, compute_seconds (a day): its limits; null: those of the settings.
"""


class KeyStore:
    """The table of keys. Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self, name: str, scopes: Iterable[Scope], days: float | None, limits: KeyLimits | None = None
    ) -> tuple[ApiKey, str]:
        """(what is known of the new key, the key itself, which is stored nowhere).

        Args:
            days: until it expires; None: never.

        Raises:
            UserError: ``invalid_key_name``.
        """
        if not 1 <= len(name) <= 64 or not name.isprintable():
            raise UserError("invalid_key_name", "a key has a printable name", got=name, expected="1 to 64 characters")
        key_id = secrets.token_hex(6)
        key = f"ups_{key_id}_{secrets.token_urlsafe(32)}"
        wanted = sorted(set(scopes) or {Scope.READ}, key=list(Scope).index)
        row = sa.insert(keys).values(
            id=key_id,
            name=name,
            hash=_hash(key),
            scopes=" ".join(wanted),
            created_at=now(),
            expires_at=None if days is None else now() + days * DAY_S,
            **(limits or KeyLimits()).model_dump(),
        )
        with self._database.write() as connection:
            return _key_of(connection.execute(row.returning(*keys.c)).mappings().one()), key

    def all(self) -> list[ApiKey]:
        """Every key, the latest first."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(keys).order_by(keys.c.created_at.desc(), keys.c.id)).mappings()
            return [_key_of(row) for row in rows]

    def any(self) -> bool:
        """Has a key ever been made (and not deleted)? From then on the service answers nobody without one."""
        with self._database.read() as connection:
            return connection.execute(sa.select(keys.c.id).limit(1)).first() is not None

    def any_active(self) -> bool:
        """Is there a key that opens anything?"""
        with self._database.read() as connection:
            return connection.execute(sa.select(keys.c.id).where(_active()).limit(1)).first() is not None

    def revoke(self, key_id: str) -> ApiKey:
        """From now on the key opens nothing. Raises UserError ``unknown_key``."""
        changed = sa.update(keys).where(keys.c.id == key_id)
        with self._database.write() as connection:
            row = (
                connection.execute(
                    changed.values(revoked_at=sa.func.coalesce(keys.c.revoked_at, now())).returning(*keys.c)
                )
                .mappings()
                .one_or_none()
            )
        if row is None:
            raise _unknown(key_id)
        return _key_of(row)

    def delete(self, key_id: str) -> None:
        """Removes a key that opens nothing any more; without any key the service is open on loopback again.

        Raises:
            UserError: ``unknown_key``, ``key_in_use``.
        """
        with self._database.write() as connection:
            if connection.execute(sa.delete(keys).where(keys.c.id == key_id, ~_active())).rowcount:
                return
            if connection.execute(sa.select(keys.c.id).where(keys.c.id == key_id)).first() is None:
                raise _unknown(key_id)
        raise UserError("key_in_use", f"{key_id} is active", got=key_id, hint="revoke it first")

    def find(self, key: str) -> ApiKey:
        """The key that somebody shows.

        Raises:
            UserError: ``invalid_key`` where it is not one of ours, or is revoked or expired; says nothing more.
        """
        form = PATTERN.fullmatch(key)
        if form is not None:
            with self._database.read() as connection:
                query = sa.select(keys, _active().label("active")).where(keys.c.id == form[1])
                row = connection.execute(query).mappings().one_or_none()
            if row is not None and hmac.compare_digest(row["hash"], _hash(key)) and row["active"]:
                return _key_of(row)
        raise UserError("invalid_key", "this API key opens nothing", hint="`ups keys list` says which keys are active")


def _active() -> sa.ColumnElement[bool]:
    unexpired = sa.or_(keys.c.expires_at.is_(None), keys.c.expires_at > now())
    return sa.and_(keys.c.revoked_at.is_(None), unexpired)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _key_of(row: sa.RowMapping) -> ApiKey:
    known: dict[str, Any] = {name: row[name] for name in ApiKey.model_fields if name != "scopes"}
    return ApiKey(scopes=tuple(Scope(name) for name in row["scopes"].split()), **known)


def _unknown(key_id: str) -> UserError:
    return UserError("unknown_key", f"there is no key {key_id!r}", got=key_id, hint="`ups keys list` lists them")
