"""The tables of keys and of their use as this version reads and writes them; `jobs.migrations` makes them."""

import sqlalchemy as sa

from ups_server.jobs.tables import metadata

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
"""Seconds that the engine worked for a key; a day is a number of days since 1970, in UTC. Jobs tell their own time."""
