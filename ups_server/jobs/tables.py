"""The tables as this version reads and writes them. `migrations` makes them; a test compares the two."""

import sqlalchemy as sa

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
