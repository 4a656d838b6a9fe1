"""The tables of a state file, and whether a file has them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import cache
from typing import Any

from edgemem.state.connection import Connection

APPLICATION_ID = 0x45444D4D  # "EDMM", so that other SQLite files are recognised
SCHEMA_VERSION = 4
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
"""


def is_empty(database: Connection) -> bool:
    """Whether there is nothing in it at all."""
    return not database.rows("SELECT 1 FROM sqlite_master LIMIT 1")


def create(database: Connection, bundle_identity: str) -> None:
    """Make the tables, in one transaction."""
    database.rows("BEGIN IMMEDIATE")
    for statement in SCHEMA.split(";"):
        database.rows(statement)
    database.rows("INSERT INTO about VALUES ('bundle', ?)", (bundle_identity,))
    database.rows(f"PRAGMA application_id = {APPLICATION_ID}")
    database.rows(f"PRAGMA user_version = {SCHEMA_VERSION}")
    database.rows("COMMIT")


def mismatch(database: Connection, wanted: str | None) -> tuple[str, str] | None:
    """Why this is not a state file of the wanted bundle (None: of any), and the remedy."""
    if is_empty(database) or _number(database, "PRAGMA application_id") != APPLICATION_ID:
        return "is not an EdgeMem state file", "Pass another path"
    version = _number(database, "PRAGMA user_version")
    if version != SCHEMA_VERSION:
        return (
            f"has schema version {version}; this EdgeMem reads {SCHEMA_VERSION}",
            "Update EdgeMem, or start with a new state file",
        )
    if complaint := foreign(database):
        return complaint
    owner = identity(database)
    if not owner or wanted not in (None, owner):
        return (
            "belongs to another bundle",
            "Open it with the bundle that wrote it, or start with a new state file",
        )
    return None


def foreign(database: Connection) -> tuple[str, str] | None:
    """What the schema has that it should not have, or has not, and the remedy.

    A trigger, a view or an index is SQL that runs whenever the file is used, so nothing is read
    from a file before its whole schema is known to be ours.
    """
    found, ours = _schema(database), _ours()
    pages = database.rows("SELECT count(DISTINCT rootpage) FROM sqlite_master LIMIT 100")[0][0]
    if found == ours and pages == len(ours):
        return None
    strange = [row[1] for row in found if row not in ours] or [row[1] for row in ours]
    return (
        f"is not as EdgeMem made it: see {strange[0]!r} in its schema",
        "Do not use it; restore a copy, or start with a new state file",
    )


def identity(database: Connection) -> str:
    """Identity of the bundle that the file belongs to; empty if damage took it."""
    rows = database.rows("SELECT value FROM about WHERE name = 'bundle'")
    return rows[0][0] if rows and isinstance(rows[0][0], str) else ""


def _schema(database: Connection) -> list[tuple[Any, ...]]:
    return database.rows(
        "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name LIMIT 100"
    )


@cache
def _ours() -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(":memory:", factory=Connection)) as database:
        database.executescript(SCHEMA)
        return _schema(database)


def _number(database: Connection, statement: str) -> int:
    return int(database.rows(statement)[0][0])
