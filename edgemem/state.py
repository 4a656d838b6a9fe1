"""State: what changes on the device, in one SQLite file that survives a power cut.

A snapshot is one row: block, optimiser slots, recent frames and counters as safetensors bytes with
their hash. Written blocks are rows of another table (`edgemem.bank.written`). Whatever is written
in one transaction is there after a power cut as a whole or not at all. The newest version wins.
"""

from __future__ import annotations

import hashlib
import json
import time

from edgemem.block import pack, unpack
from edgemem.errors import StateError
from edgemem.snapshot import Snapshot
from edgemem.state_file import StateFile

KEPT_VERSIONS = 2


class State(StateFile):
    """An open state file of one bundle: snapshots, and transactions for whatever else it holds.

    Opening and its errors are those of `StateFile`.
    """

    def read(self) -> Snapshot | None:
        """The newest snapshot, or None before the first commit.

        Raises:
            StateError: its payload is damaged.
        """
        found = self.rows(
            "SELECT counters, payload, sha256 FROM snapshot ORDER BY version DESC LIMIT 1"
        )
        if not found:
            return None
        counters, payload, digest = found[0]
        remedy = "Delete the state file to start again from the bundle"
        # Damage can change even the type of a column.
        typed = isinstance(counters, str) and isinstance(payload, bytes)
        if not typed or _digest(counters, payload) != digest:
            raise self._error("holds a damaged snapshot", remedy)
        return Snapshot(unpack(payload, str(self.path), StateError, remedy), json.loads(counters))

    def write(self, snapshot: Snapshot) -> None:
        """Commit a snapshot; when this returns, a power cut cannot lose it.

        Inside `transaction` it is committed with the rest, at the end.
        """
        counters, payload = json.dumps(snapshot.counters), pack(snapshot.arrays)
        values = (time.time(), counters, payload, _digest(counters, payload))
        with self.transaction():
            # The old row goes first: the new one then takes its place on the disk.
            self.rows(
                "DELETE FROM snapshot WHERE version <= (SELECT max(version) FROM snapshot) - ?",
                KEPT_VERSIONS - 1,
            )
            self.rows(
                "INSERT INTO snapshot (version, written, counters, payload, sha256) VALUES "
                "((SELECT coalesce(max(version), 0) + 1 FROM snapshot), ?, ?, ?, ?)",
                *values,
            )

    def drop_earlier(self) -> None:
        """Delete every snapshot but the newest; see `scrub` for their bytes in the log."""
        self.rows("DELETE FROM snapshot WHERE version < (SELECT max(version) FROM snapshot)")


def _digest(counters: str, payload: bytes) -> str:
    return hashlib.sha256(counters.encode() + b"\0" + payload).hexdigest()
