"""Edits of a state file through SQL, and the hashes that go with them."""

import hashlib
import json
import sqlite3
from contextlib import suppress

import numpy as np
from fuzzing import mutators

from edgemem.bank.written.record import COLUMNS, seal
from edgemem.block import pack

UNREADABLE = (TypeError, ValueError, AttributeError, OverflowError, RecursionError)
CLASSES = {"classes": [[n, str(n), 0] for n in range(10)], "taught": []}


def edit_inside(path, edits, *, sealed):
    """Edit rows, seal them again if that is wanted, and then whatever makes statements do more."""
    database = sqlite3.connect(path)
    try:
        for edit in (edit for edit in edits if edit[0] != "sql"):
            # SQLite does not let anybody make such a file, or another edit took the place away.
            with suppress(sqlite3.Error, OverflowError, UnicodeEncodeError, TypeError, ValueError):
                _edit_one(database, edit)
        if sealed:
            _seal_all(database)
        database.commit()
        for _, text in (edit for edit in edits if edit[0] == "sql"):
            with suppress(sqlite3.Error):
                database.executescript(text)
    finally:
        database.close()


def _edit_one(database, edit):
    kind, *rest = edit
    if kind == "classes":
        _put_classes(database, rest[0])
        return
    table, *rest = rest
    if kind == "cell":
        number, column, value = rest
        row = _row(database, table, number)
        database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, row))
    elif kind == "json":
        column, number, change = rest
        row = _row(database, table, number)
        document = document_of(
            scalar(database, f"SELECT {column} FROM {table} WHERE rowid = {row}")
        )
        text = mutators.edited_json(document, change)
        database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (text, row))
    elif kind == "tensors":
        number, change = rest
        row = _row(database, table, number)
        content = scalar(database, f"SELECT content FROM {table} WHERE rowid = {row}")
        content = mutators.edited_tensors(content, change)
        database.execute(f"UPDATE {table} SET content = ? WHERE rowid = ?", (content, row))
    elif kind == "delete":
        database.execute(f"DELETE FROM {table} WHERE rowid = ?", (_row(database, table, rest[0]),))
    elif kind == "copy":
        _copy_row(database, table, *rest)


def _copy_row(database, table, number, shift):
    """The same row once more, under a number or version that differs by `shift`."""
    row = _row(database, table, number)
    values = database.execute(f"SELECT * FROM {table} WHERE rowid = ?", (row,)).fetchone() or ()
    names = [entry[1] for entry in database.execute(f"PRAGMA table_info({table})")]
    values = dict(zip(names, values, strict=False))
    for name in ("version", "clock", "row"):
        if type(values.get(name)) is int and (name != "row" or "version" not in values):
            values[name] += shift
    values.pop("row" if table in ("block", "part") else "", None)
    marks = ", ".join("?" * len(values))
    database.execute(
        f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", [*values.values()]
    )


def _put_classes(database, change):
    text = mutators.edited_json(CLASSES, change).encode("utf-8", "surrogatepass")
    content = pack({".table": np.frombuffer(text, np.uint8)})
    digest = hashlib.sha256(content).hexdigest()
    database.execute("INSERT INTO part (sha256, content) VALUES (?, ?)", (digest, content))
    version, parts = database.execute(
        "SELECT version, parts FROM snapshot ORDER BY version DESC"
    ).fetchone()
    parts = json.dumps({**json.loads(parts), "classes": digest})
    database.execute("UPDATE snapshot SET parts = ? WHERE version = ?", (parts, version))


def _seal_all(database):
    """Compute every hash anew, wherever what it covers can be read."""
    for step in (_seal_parts, _seal_snapshots, _seal_blocks, _seal_tally):
        try:
            step(database)
        except (sqlite3.Error, *UNREADABLE):
            continue  # such an edit has taken away what the hash is of


def _seal_parts(database):
    moved = {}
    for row, old, content in database.execute("SELECT rowid, sha256, content FROM part").fetchall():
        if isinstance(content, bytes):
            moved[old] = hashlib.sha256(content).hexdigest()
            database.execute("UPDATE part SET sha256 = ? WHERE rowid = ?", (moved[old], row))
    for row, parts in database.execute("SELECT rowid, parts FROM snapshot").fetchall():
        try:
            named = {name: moved.get(old, old) for name, old in json.loads(parts).items()}
        except (ValueError, TypeError, AttributeError, RecursionError):
            continue
        if named != json.loads(parts):
            database.execute(
                "UPDATE snapshot SET parts = ? WHERE rowid = ?", (json.dumps(named), row)
            )


def _seal_snapshots(database):
    rows = database.execute("SELECT rowid, version, counters, parts FROM snapshot").fetchall()
    for row, *sealed in rows:
        text = "\0".join(map(str, sealed))
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        database.execute("UPDATE snapshot SET sha256 = ? WHERE rowid = ?", (digest, row))


def _seal_blocks(database):
    names = [f"block.{name}" for name in COLUMNS]
    rows = database.execute(
        f"SELECT block.row, payload.content, {', '.join(names)} FROM block LEFT JOIN payload"
        " ON payload.row = block.row"
    ).fetchall()
    for row, content, *values in rows:
        changed = dict(zip(COLUMNS, values, strict=True))
        if (
            isinstance(content, bytes)
            and changed["payload_sha256"] != hashlib.sha256(content).hexdigest()
        ):
            changed |= {
                "nbytes": len(content),
                "payload_sha256": hashlib.sha256(content).hexdigest(),
            }
        changed["sha256"] = seal(tuple(changed.values())[:-1])
        sets = ", ".join(f"{name} = ?" for name in COLUMNS)
        database.execute(f"UPDATE block SET {sets} WHERE row = ?", [*changed.values(), row])


def _seal_tally(database):
    digests = [digest for (digest,) in database.execute("SELECT sha256 FROM block")]
    total = sum(int(digest, 16) for digest in digests) % (1 << 256)
    clock, *_ = json.loads(scalar(database, "SELECT value FROM about WHERE name = 'tally'"))
    numbers = [clock, len(digests), f"{total:064x}"]
    digest = hashlib.sha256(" ".join(map(str, numbers)).encode()).hexdigest()
    value = json.dumps([*numbers, digest])
    database.execute("UPDATE about SET value = ? WHERE name = 'tally'", (value,))


def _row(database, table, number):
    rows = [row for (row,) in database.execute(f"SELECT rowid FROM {table} ORDER BY rowid")]
    return rows[number % len(rows)] if rows else 0


def scalar(database, statement):
    row = database.execute(statement).fetchone()
    return None if row is None else row[0]


def document_of(text):
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return text
