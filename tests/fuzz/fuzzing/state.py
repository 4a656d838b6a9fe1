"""State files: SQLite, with snapshots and written blocks in it."""

import hashlib
import json
import shutil
import sqlite3

import numpy as np
from fuzzing import device, mutators
from fuzzing.case import Case, Digest, Format

from edgemem.bank.record import COLUMNS, seal
from edgemem.bank.written import WrittenBlocks
from edgemem.block import pack

TABLES = ("about", "snapshot", "part", "block", "payload", "used")
JSON_CELLS = (
    ("snapshot", "counters"), ("snapshot", "parts"), ("block", "provenance"), ("about", "value"),
)  # fmt: skip
SCHEMA_EDITS = (
    "DROP TABLE {table}",
    "ALTER TABLE {table} ADD COLUMN more",
    "ALTER TABLE {table} RENAME TO old_{table}",
    "ALTER TABLE snapshot RENAME COLUMN counters TO count",
    "CREATE TRIGGER t AFTER INSERT ON {table} BEGIN DELETE FROM {table}; END",
    "CREATE TRIGGER t AFTER INSERT ON {table} BEGIN SELECT RAISE(ROLLBACK, 'no'); END",
    "CREATE TRIGGER t AFTER DELETE ON {table} BEGIN SELECT RAISE(IGNORE); END",
    "CREATE VIEW v AS SELECT * FROM {table}",
    "CREATE INDEX i ON {table} (rowid)",
    "CREATE INDEX i ON block (id)",
    "CREATE TABLE other (x)",
    "CREATE TABLE copied AS SELECT * FROM {table}",
    "ALTER TABLE {table} RENAME TO t; CREATE VIEW {table} AS SELECT * FROM t",
    "ALTER TABLE snapshot RENAME TO t; CREATE VIEW snapshot AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL"
    " SELECT i + 1 FROM n) SELECT i AS version, 0 AS written, counters, parts, sha256 FROM n, t",
    "PRAGMA user_version = 2",
    "PRAGMA application_id = 7",
    "DELETE FROM {table}",
    "DELETE FROM about WHERE name = 'bundle'",
    "UPDATE about SET value = 'x' WHERE name = 'bundle'",
)
CELLS = (*mutators.VALUES[:2], *mutators.NUMBERS, *mutators.TEXTS)


class StateFormat(Format):
    name, share = "state", 0.25

    def __init__(self, folder):
        self.path, self.intact = folder / "state.db", folder / "intact.db"
        batches, open_path = device.frames(), folder / "open.db"
        device.live(self.intact, batches)
        shutil.copy(self.intact, open_path)
        with device.runtime(open_path) as found:  # a copy as a killed process leaves it
            found.step(batches[0])
            found.flush()
            for suffix in ("", "-wal"):
                shutil.copy(f"{open_path}{suffix}", folder / f"killed.db{suffix}")
        self.killed = folder / "killed.db"
        self.wal_size = (folder / "killed.db-wal").stat().st_size
        self.size = self.intact.stat().st_size
        with sqlite3.connect(self.intact) as database:
            self.counts = {t: _scalar(database, f"SELECT count(*) FROM {t}") for t in TABLES}
            self.columns = {
                t: [row[1] for row in database.execute(f"PRAGMA table_info({t})")] for t in TABLES
            }
            self.documents = {
                (table, column): [
                    _document(value) for (value,) in database.execute(f"SELECT {column} FROM {table}")
                ]
                for table, column in JSON_CELLS
            }
            self.contents = {
                table: [row[0] for row in database.execute(f"SELECT content FROM {table}")]
                for table in ("part", "payload")
            }
        database.close()

    def invent(self, rng):
        edit = rng.choice((self._file, self._file, self._cell, self._json, self._tensors, self._other))
        if edit == self._file and rng.random() < 0.4:
            return Case([self._file(rng, rng.choice(("", "-wal")))], base="killed")
        edits = [edit(rng) for _ in range(rng.choice((1, 1, 1, 2)))]
        return Case(edits, sealed=edit != self._file and rng.random() < 0.7)

    def _file(self, rng, name=""):
        size = self.wal_size if name else self.size
        if rng.random() < 0.3:
            pages = size // 4096
            at, other = (4096 * rng.randrange(pages) for _ in range(2))
            return ["file", name, rng.choice((["swap", at, other, 4096], ["fill", at, 4096, 0]))]
        edit = mutators.flip_edit if rng.random() < 0.4 else mutators.bytes_edit
        return ["file", name, edit(rng, size)]

    def _cell(self, rng):
        table = rng.choice([t for t in TABLES if self.counts[t]])
        return ["cell", table, rng.randrange(64), rng.choice(self.columns[table]), rng.choice(CELLS)]

    def _json(self, rng):
        table, column = rng.choice(JSON_CELLS)
        documents = self.documents[table, column]
        number = rng.randrange(len(documents))
        return ["json", table, column, number, mutators.json_edit(rng, documents[number])]

    def _tensors(self, rng):
        table = rng.choice(("part", "payload"))
        number = rng.randrange(len(self.contents[table]))
        return ["tensors", table, number, mutators.tensors_edit(rng, self.contents[table][number])]

    def _other(self, rng):
        kind = rng.choice(("sql", "delete", "copy", "classes"))
        table = rng.choice(TABLES)
        if kind == "sql":
            return ["sql", rng.choice(SCHEMA_EDITS).format(table=table)]
        if kind == "classes":
            table = {"classes": [[n, str(n), 0] for n in range(10)], "taught": []}
            return ["classes", mutators.json_edit(rng, table)]
        return [kind, table, rng.randrange(64), rng.choice((0, 1, -1, 5, 2**53))]

    def build(self, case):
        for suffix in ("", "-wal", "-shm", "-journal"):
            self.path.with_name(f"state.db{suffix}").unlink(missing_ok=True)
        killed = case.base == "killed"
        content = (self.killed if killed else self.intact).read_bytes()
        wal = self.killed.with_name("killed.db-wal").read_bytes() if killed else b""
        inside = [edit for edit in case.edits if edit[0] != "file"]
        for _, name, edit in (edit for edit in case.edits if edit[0] == "file"):
            if name:
                wal = mutators.edited_bytes(wal, edit)
            else:
                content = mutators.edited_bytes(content, edit)
        self.path.write_bytes(content)
        if killed:
            self.path.with_name("state.db-wal").write_bytes(wal)
        if inside and not killed:
            _edit_inside(self.path, inside, sealed=case.sealed)

    def use(self):
        digest, events = Digest(), []
        with device.runtime(self.path) as found:
            answer = found.step(device.frames()[1][:1])
            events += answer.events
            digest.add_finite("logits", answer.logits)
            digest.add(answer.context, found.counters, [vars(c) for c in found.classes()])
        with device.opened_state(self.path, read_only=True) as state:
            blocks = WrittenBlocks(state)
            damage = blocks.verify()
            for record in blocks.listing().records:
                digest.add(record.id, record.version, record.payload_sha256)
            snapshot = state.read()
            for name, array in sorted(snapshot.arrays.items()) if snapshot else ():
                digest.add_finite(f"array {name!r}", array)
        return digest.output(told=bool(damage) or any(e.kind == "damaged" for e in events))


def _edit_inside(path, edits, *, sealed):
    database = sqlite3.connect(path)
    try:
        for edit in edits:
            try:
                _edit_one(database, edit)
            except sqlite3.Error:
                pass  # SQLite does not let anybody make such a file
            except (OverflowError, UnicodeEncodeError):
                pass
        if sealed:
            _seal_all(database)
        database.commit()
    finally:
        database.close()


def _edit_one(database, edit):
    kind, *rest = edit
    if kind == "sql":
        database.executescript(rest[0])
        return
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
        document = _document(_scalar(database, f"SELECT {column} FROM {table} WHERE rowid = {row}"))
        text = mutators.edited_json(document, change)
        database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (text, row))
    elif kind == "tensors":
        number, change = rest
        row = _row(database, table, number)
        content = _scalar(database, f"SELECT content FROM {table} WHERE rowid = {row}")
        content = mutators.edited_tensors(content, change)
        database.execute(f"UPDATE {table} SET content = ? WHERE rowid = ?", (content, row))
    elif kind == "delete":
        database.execute(f"DELETE FROM {table} WHERE rowid = ?", (_row(database, table, rest[0]),))
    elif kind == "copy":
        _copy_row(database, table, *rest)


def _copy_row(database, table, number, shift):
    """The same row once more, under a number or version that differs by `shift`."""
    row = _row(database, table, number)
    values = database.execute(f"SELECT * FROM {table} WHERE rowid = ?", (row,)).fetchone()
    names = [entry[1] for entry in database.execute(f"PRAGMA table_info({table})")]
    values = dict(zip(names, values, strict=True))
    for name in ("version", "clock", "row"):
        if type(values.get(name)) is int and (name != "row" or "version" not in values):
            values[name] += shift
    values.pop("row" if table in ("block", "part") else "", None)
    marks = ", ".join("?" * len(values))
    database.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", [*values.values()])


def _put_classes(database, change):
    table = {"classes": [[n, str(n), 0] for n in range(10)], "taught": []}
    text = mutators.edited_json(table, change).encode("utf-8", "surrogatepass")
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
        except (sqlite3.Error, TypeError, ValueError, AttributeError, OverflowError, UnicodeError):
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
    rows = database.execute("SELECT rowid, counters, parts FROM snapshot").fetchall()
    for row, counters, parts in rows:
        digest = hashlib.sha256(f"{counters}\0{parts}".encode("utf-8", "surrogatepass")).hexdigest()
        database.execute("UPDATE snapshot SET sha256 = ? WHERE rowid = ?", (digest, row))


def _seal_blocks(database):
    names = [f"block.{name}" for name in COLUMNS]
    rows = database.execute(
        f"SELECT block.row, payload.content, {', '.join(names)} FROM block LEFT JOIN payload"
        " ON payload.row = block.row"
    ).fetchall()
    for row, content, *values in rows:
        changed = dict(zip(COLUMNS, values, strict=True))
        if isinstance(content, bytes) and changed["payload_sha256"] != hashlib.sha256(content).hexdigest():
            changed |= {"nbytes": len(content), "payload_sha256": hashlib.sha256(content).hexdigest()}
        changed["sha256"] = seal(tuple(changed.values())[:-1])
        sets = ", ".join(f"{name} = ?" for name in COLUMNS)
        database.execute(f"UPDATE block SET {sets} WHERE row = ?", [*changed.values(), row])


def _seal_tally(database):
    digests = [digest for (digest,) in database.execute("SELECT sha256 FROM block")]
    total = sum(int(digest, 16) for digest in digests) % (1 << 256)
    clock, _, _ = json.loads(_scalar(database, "SELECT value FROM about WHERE name = 'tally'"))
    value = json.dumps([clock, len(digests), f"{total:064x}"])
    database.execute("UPDATE about SET value = ? WHERE name = 'tally'", (value,))


def _row(database, table, number):
    rows = [row for (row,) in database.execute(f"SELECT rowid FROM {table} ORDER BY rowid")]
    return rows[number % len(rows)] if rows else 0


def _scalar(database, statement):
    row = database.execute(statement).fetchone()
    return None if row is None else row[0]


def _document(text):
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return text
