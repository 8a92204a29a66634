"""The tables. Text holds JSON, so that SQLite and PostgreSQL store the same and any tool can read it."""

from sqlalchemy import Column, ForeignKey, Integer, LargeBinary, MetaData, String, Table, Text

VERSION = 1
"""Raised with every change of the tables; a store of a newer version is refused."""

metadata = MetaData()

schema_version = Table("paretoprune_schema", metadata, Column("version", Integer, primary_key=True))

campaigns = Table(
    "campaigns",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("name", Text, nullable=False),
    Column("created", String(40), nullable=False),  # ISO 8601, UTC: sorts as text
    Column("status", String(16), nullable=False),
    Column("config", Text, nullable=False),
    Column("fingerprint", String(128), nullable=False, index=True),
    Column("fingerprints", Text, nullable=False),
    Column("description", Text, nullable=False),
)

trials = Table(
    "trials",
    metadata,
    Column("campaign_id", String(80), ForeignKey("campaigns.id"), primary_key=True),
    Column("stage", String(16), primary_key=True),  # who asked: the search, a calibration, finalise ...
    Column("number", Integer, primary_key=True),
    # SHA-256 of the five columns after it: PostgreSQL cannot index a genome of some hundred groups.
    Column("identity", String(64), nullable=False, index=True),
    Column("fingerprint", String(128), nullable=False),
    Column("genome", Text, nullable=False),
    Column("rung", String(64), nullable=False),
    Column("replicate", Integer, nullable=False),
    Column("fold", Integer, nullable=False),
    Column("status", String(16), nullable=False),
    Column("measured", Text, nullable=False),
    Column("costs", Text, nullable=False),
    Column("timings", Text, nullable=False),
    Column("error", Text),
    Column("per_case", LargeBinary, nullable=False),
)

test_openings = Table(
    "test_openings",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("campaign_id", String(80), ForeignKey("campaigns.id"), nullable=False, index=True),
    Column("opened", String(40), nullable=False),
    Column("test_fingerprint", String(128), nullable=False, index=True),
    Column("points", Text, nullable=False),
)
