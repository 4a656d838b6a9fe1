"""Files of `edgemem bank export`, taken in by a state that has blocks of its own."""

import hashlib
import json
import shutil

from fuzzing import device, mutators
from fuzzing.case import Case, Digest, Format

from edgemem.bank.building.collected import open_learnt
from edgemem.bank.written.record import COLUMNS, seal
from edgemem.bank.written.transfer import export_blocks, import_blocks
from edgemem.bank.written.written_blocks import WrittenBlocks
from edgemem.errors import EdgeMemError


class ImportFormat(Format):
    name, share = "import", 0.15

    def __init__(self, folder):
        self.path, self.state = folder / "blocks.safetensors", folder / "state.db"
        self.built = folder / "built"
        self.built.mkdir()
        batches, other = device.frames(), folder / "other.db"
        self.own, self.fresh = folder / "own.db", folder / "fresh.db"
        with device.opened_state(self.fresh) as state, state.transaction():
            pass
        device.live(other, batches[:4])
        _export(other, self.path)
        shutil.copy(self.fresh, self.own)
        with device.opened_state(self.own) as state:  # blocks that are older than those to come
            import_blocks(state, self.path)
        device.live(other, batches[4:])
        _export(other, self.path)
        self.content = self.path.read_bytes()

    def invent(self, rng):
        kind = rng.choice(("row", "row", "payload", "payload", "tensors", "bytes", "flip", "own"))
        edits, sealed = (
            [self._edit(rng, kind)],
            kind not in ("bytes", "flip") and rng.random() < 0.7,
        )
        return Case(edits, sealed, rng.choice(("own", "own", "fresh")))

    def _edit(self, rng, kind):
        header, data = mutators.split_tensors(self.content)
        rows = json.loads(header["__metadata__"]["blocks"])
        number = rng.randrange(len(rows))
        if kind == "row":
            return ["row", mutators.json_edit(rng, rows)]
        if kind == "own":
            return [
                "provenance",
                number,
                mutators.json_edit(rng, json.loads(rows[number]["provenance"])),
            ]
        if kind == "payload":
            first, last = header[f"payload.{number}"]["data_offsets"]
            return ["payload", number, mutators.tensors_edit(rng, data[first:last])]
        if kind == "tensors":
            return ["tensors", mutators.tensors_edit(rng, self.content)]
        edit = mutators.flip_edit if kind == "flip" else mutators.bytes_edit
        return ["tensors", ["bytes", edit(rng, len(self.content))]]

    def build(self, case):
        content = self.content
        for edit in case.edits:
            content = _edited(content, edit)
        self.path.write_bytes(_sealed(content) if case.sealed else content)
        into = self.fresh if case.base == "fresh" else self.own
        self.state.unlink(missing_ok=True)
        shutil.copy(into, self.state)
        for path in self.built.iterdir():
            path.unlink()

    def use(self):
        digest = Digest()
        before = self._blocks()
        try:
            with device.opened_state(self.state) as state:
                found = import_blocks(state, self.path)
        except EdgeMemError:
            if self._blocks() != before:
                raise AssertionError("an import that was refused has changed the state") from None
            raise
        digest.add(vars(found), self._blocks())
        try:
            with device.runtime(self.state) as runtime:
                answer = runtime.step(device.frames()[1][:1])
                told = any(event.kind == "damaged" for event in answer.events)
                digest.add_finite("logits", answer.logits)
        except EdgeMemError as error:
            raise AssertionError(f"what was imported locks the state: {error}"[:200]) from error
        try:
            source = open_learnt(device.bundle(), [self.path], self.built)
            digest.add_finite("keys of a new bank", source.keys)
            digest.add_finite("blocks of a new bank", source.blocks)
        except EdgeMemError as error:
            digest.add(f"no new bank: {type(error)}")
        return digest.output(told=told)

    def go_on(self):
        with device.runtime(self.state) as runtime:
            runtime.step(device.frames()[2])
        with device.runtime(self.state) as runtime:
            runtime.step(device.frames()[2][:1])

    def _blocks(self):
        with device.opened_state(self.state, read_only=True) as state:
            records = WrittenBlocks(state).listing().records
            return [
                [r.id, r.path, r.version, r.count, r.payload_sha256, r.key.tolist()]
                for r in records
            ]


def _export(state, path):
    with device.opened_state(state, read_only=True) as opened:
        export_blocks(opened, path)


def _edited(content, edit):
    kind, *rest = edit
    if kind == "tensors":
        return mutators.edited_tensors(content, rest[0])
    header, data = mutators.split_tensors(content)
    rows = json.loads(header["__metadata__"]["blocks"])
    if kind == "row":
        header["__metadata__"]["blocks"] = mutators.edited_json(rows, rest[0])
    elif kind == "provenance":
        origin = json.loads(rows[rest[0]]["provenance"])
        rows[rest[0]]["provenance"] = mutators.edited_json(origin, rest[1])
        header["__metadata__"]["blocks"] = json.dumps(rows)
    else:
        name = f"payload.{rest[0]}"
        first, last = header[name]["data_offsets"]
        payload = mutators.edited_tensors(data[first:last], rest[1])
        longer = len(payload) - (last - first)
        data = data[:first] + payload + data[last:]
        for other, entry in header.items():
            if other != "__metadata__":
                start, stop = entry["data_offsets"]
                after = start >= last
                entry["data_offsets"] = [
                    start + longer * after,
                    stop + longer * (after or other == name),
                ]
        header[name]["shape"] = [len(payload)]
    return mutators.joined_tensors(json.dumps(header), data)


def _sealed(content):
    """Hashes computed anew, of all blocks whose columns and arrays can be found."""
    try:
        header, data = mutators.split_tensors(content)
        rows = json.loads(header["__metadata__"]["blocks"])
        for number, row in enumerate(rows):
            try:
                first, last = header[f"payload.{number}"]["data_offsets"]
                payload, key = data[first:last], header[f"key.{number}"]["data_offsets"]
                row |= {
                    "nbytes": len(payload),
                    "payload_sha256": hashlib.sha256(payload).hexdigest(),
                }
                values = {**row, "key": data[key[0] : key[1]]}
                row["sha256"] = seal(tuple(values.get(name) for name in COLUMNS[:-1]))
            except (KeyError, TypeError, AttributeError, ValueError, IndexError):
                continue
        header["__metadata__"]["blocks"] = json.dumps(rows)
        return mutators.joined_tensors(json.dumps(header), data)
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError, OverflowError):
        return content
