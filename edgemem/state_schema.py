"""The tables of a state file, and whether a file has them."""

from __future__ import annotations

import sqlite3

APPLICATION_ID = 0x45444D4D  # "EDMM", so that other SQLite files are recognised
SCHEMA_VERSION = 3
SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE snapshot (
    version INTEGER PRIMARY KEY,
    written REAL NOT NULL,
    counters TEXT NOT NULL,
    parts TEXT NOT NULL,
    sha256 TEXT NOT NULL
);
CREATE TABLE part (row INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, content BLOB NOT NULL);
CREATE TABLE block (
    row INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    path TEXT NOT NULL,
    version INTEGER NOT NULL,
    parent INTEGER NOT NULL,
    key BLOB NOT NULL,
    count INTEGER NOT NULL,
    created INTEGER NOT NULL,
    provenance TEXT NOT NULL,
    nbytes INTEGER NOT NULL,
    payload_sha256 TEXT NOT NULL,
    sha256 TEXT NOT NULL
);
CREATE TABLE payload (row INTEGER PRIMARY KEY, content BLOB NOT NULL);
CREATE TABLE used (id TEXT PRIMARY KEY, clock INTEGER NOT NULL);
"""


def is_empty(database: sqlite3.Connection) -> bool:
    """Whether there are no tables at all."""
    return _number(database, "SELECT count(*) FROM sqlite_master") == 0


def create(database: sqlite3.Connection, bundle_identity: str) -> None:
    """Make the tables, in one transaction."""
    database.execute("BEGIN IMMEDIATE")
    for statement in SCHEMA.split(";"):
        database.execute(statement)
    database.execute("INSERT INTO about VALUES ('bundle', ?)", (bundle_identity,))
    database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    database.execute("COMMIT")


def mismatch(database: sqlite3.Connection, wanted: str | None) -> tuple[str, str] | None:
    """Why this is not a state file of the wanted bundle (None: of any), and the remedy."""
    if is_empty(database) or _number(database, "PRAGMA application_id") != APPLICATION_ID:
        return "is not an EdgeMem state file", "Pass another path"
    version = _number(database, "PRAGMA user_version")
    if version != SCHEMA_VERSION:
        return (
            f"has schema version {version}; this EdgeMem reads {SCHEMA_VERSION}",
            "Update EdgeMem, or start with a new state file",
        )
    owner = identity(database)
    if not owner or wanted not in (None, owner):
        return (
            "belongs to another bundle",
            "Open it with the bundle that wrote it, or start with a new state file",
        )
    return None


def identity(database: sqlite3.Connection) -> str:
    """Identity of the bundle that the file belongs to; empty if damage took it."""
    row = database.execute("SELECT value FROM about WHERE name = 'bundle'").fetchone()
    return row[0] if row is not None and isinstance(row[0], str) else ""


def _number(database: sqlite3.Connection, statement: str) -> int:
    return int(database.execute(statement).fetchone()[0])
