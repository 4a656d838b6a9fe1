"""State files: SQLite, with snapshots and written blocks in it."""

import shutil
import sqlite3
from contextlib import contextmanager, suppress

from fuzzing import device, mutators
from fuzzing.case import Case, Digest, Format
from fuzzing.kinds.state_edits import CLASSES, document_of, edit_inside, scalar

from edgemem.bank.written.written_blocks import WrittenBlocks
from edgemem.errors import EdgeMemError

KILLED = ("", "-wal", "-promised")  # files, by the end of their names
TABLES = ("about", "snapshot", "part", "block", "payload")
JSON_CELLS = (
    ("snapshot", "counters"), ("snapshot", "parts"), ("block", "provenance"), ("about", "value"),
)  # fmt: skip
ENDLESS = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
    "SELECT i AS version, 0 AS written, counters, parts, sha256 FROM n, t"
)
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
    f"ALTER TABLE snapshot RENAME TO t; CREATE VIEW snapshot AS {ENDLESS}",
    "PRAGMA user_version = 2",
    "PRAGMA application_id = 7",
    "DELETE FROM {table}",
    "DELETE FROM about WHERE name = 'bundle'",
    "UPDATE about SET value = 'x' WHERE name = 'bundle'",
)
CELLS = (*mutators.VALUES[:2], *mutators.NUMBERS, *mutators.TEXTS)


class StateFormat(Format):
    name, share = "state", 0.20

    def __init__(self, folder):
        self.path, self.intact = folder / "state.db", folder / "intact.db"
        batches, open_path = device.frames(), folder / "open.db"
        device.live(self.intact, batches)
        shutil.copy(self.intact, open_path)
        # As a process leaves it that is killed while somebody reads: the log is full then.
        with (
            device.runtime(open_path) as found,
            device.opened_state(open_path, read_only=True) as reader,
            reading(reader),
        ):
            found.step(batches[0])
            found.flush()
            self.killed = {
                name: open_path.with_name(f"open.db{name}").read_bytes() for name in KILLED
            }
        self.size = self.intact.stat().st_size
        with sqlite3.connect(self.intact) as database:
            self.counts = {t: scalar(database, f"SELECT count(*) FROM {t}") for t in TABLES}
            self.columns = {
                t: [row[1] for row in database.execute(f"PRAGMA table_info({t})")] for t in TABLES
            }
            self.documents = {
                (table, column): [
                    document_of(value)
                    for (value,) in database.execute(f"SELECT {column} FROM {table}")
                ]
                for table, column in JSON_CELLS
            }
            self.contents = {
                table: [row[0] for row in database.execute(f"SELECT content FROM {table}")]
                for table in ("part", "payload")
            }
        database.close()

    def invent(self, rng):
        edit = rng.choice(
            (self._file, self._file, self._cell, self._json, self._tensors, self._other)
        )
        if edit == self._file and rng.random() < 0.4:
            return Case([self._file(rng, rng.choice(KILLED))], base="killed")
        edits = [edit(rng) for _ in range(rng.choice((1, 1, 1, 2)))]
        return Case(edits, sealed=edit != self._file and rng.random() < 0.7)

    def _file(self, rng, name=""):
        size = len(self.killed[name]) if name else self.size
        if rng.random() < 0.3:
            pages = max(1, size // 4096)
            at, other = (4096 * rng.randrange(pages) for _ in range(2))
            return ["file", name, rng.choice((["swap", at, other, 4096], ["fill", at, 4096, 0]))]
        edit = mutators.flip_edit if rng.random() < 0.4 else mutators.bytes_edit
        return ["file", name, edit(rng, size)]

    def _cell(self, rng):
        table = rng.choice([t for t in TABLES if self.counts[t]])
        return [
            "cell",
            table,
            rng.randrange(64),
            rng.choice(self.columns[table]),
            rng.choice(CELLS),
        ]

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
            return ["classes", mutators.json_edit(rng, CLASSES)]
        return [kind, table, rng.randrange(64), rng.choice((0, 1, -1, 5, 2**53))]

    def build(self, case):
        for path in self.path.parent.glob("state.db*"):
            path.unlink()
        killed = case.base == "killed"
        contents = dict(self.killed) if killed else {"": self.intact.read_bytes()}
        inside = [edit for edit in case.edits if edit[0] != "file"]
        for _, name, edit in (edit for edit in case.edits if edit[0] == "file"):
            contents[name] = mutators.edited_bytes(contents[name], edit)
        for name, content in contents.items():
            self.path.with_name(f"state.db{name}").write_bytes(content)
        if inside and not killed:
            edit_inside(self.path, inside, sealed=case.sealed)

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

    def go_on(self):
        with device.runtime(self.path) as found:
            found.step(device.frames()[2])
        with device.opened_state(self.path) as state:
            blocks = WrittenBlocks(state)
            with suppress(EdgeMemError):  # where damage was told
                blocks.rollback("root")
            blocks.compact()
        with device.runtime(self.path) as found:
            found.step(device.frames()[2][:1])


@contextmanager
def reading(state):
    """Be in the middle of reading a state file."""
    state.rows("BEGIN")
    state.rows("SELECT count(*) FROM snapshot")
    yield
    state.rows("ROLLBACK")
