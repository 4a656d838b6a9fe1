"""Levels of a shipped bank: safetensors with check sums of rows, keys and index."""

import json
import zlib

import numpy as np
from fuzzing import mutators
from fuzzing.case import Case, Digest, Format

from edgemem.bank.levels.level_checks import verify_bank
from edgemem.bank.levels.level_header import INDEX, LevelShape, encode_header
from edgemem.bank.levels.level_writer import write_level
from edgemem.bank.read.shipped_bank import ShippedBank

BRANCH, LENGTH, ELEMENTS = 3, 4, 6
SHAPES = {
    "level-1.safetensors": LevelShape(1, BRANCH, LENGTH, ELEMENTS, "float32"),
    "level-2.safetensors": LevelShape(2, BRANCH, LENGTH, ELEMENTS, "int8"),
    "level-3.safetensors": LevelShape(3, BRANCH, LENGTH, ELEMENTS, "float16"),
}
# Shapes of a file that is mostly hole: number, branch, key_length, elements.
HUGE = (
    (1, 2, 1, 1 << 31), (1, 2, 1 << 31, 6), (1, 1 << 28, 4, 6), (28, 2, 4, 6), (1, 2, 4, 1 << 26),
    (1, 1 << 16, 4, 6), (32, 2, 1, 0), (1, 2, 1 << 22, 0), (1, 1 << 20, 4, 0),
)  # fmt: skip
DTYPES = {"I64": "<i8", "F32": "<f4", "F16": "<f2", "U32": "<u4", "I8": "|i1"}


class LevelFormat(Format):
    name, share = "level", 0.25

    def __init__(self, folder):
        self.folder = folder / "bank"
        self.folder.mkdir()
        numbers, self.intact = np.random.default_rng(1), {}
        for name, shape in SHAPES.items():
            keys = numbers.normal(size=(shape.rows, LENGTH)).astype(np.float32)
            count = np.full(shape.rows, BRANCH ** (3 - shape.number), np.int64)
            rows = numbers.normal(size=(shape.rows, ELEMENTS)).astype(np.float32)
            write_level(self.folder / name, shape, keys, count, rows)
            self.intact[name] = (self.folder / name).read_bytes()
        self.keys = numbers.normal(size=(12, LENGTH)).astype(np.float32)

    def invent(self, rng):
        name, sealed = rng.choice(sorted(self.intact)), rng.random() < 0.5
        content = self.intact[name]
        kind = rng.choice(("tensors", "tensors", "tensors", "flip", "bytes", "other"))
        if kind == "tensors":
            edits = [
                [name, mutators.tensors_edit(rng, content)] for _ in range(rng.choice((1, 1, 2)))
            ]
        elif kind == "other":
            edits, sealed = [[name, _other_edit(rng)]], True  # nothing in a folder lists its files
        else:
            edit = mutators.flip_edit if kind == "flip" else mutators.bytes_edit
            edits, sealed = [[name, ["bytes", edit(rng, len(content))]]], False
        return Case(edits, sealed)

    def build(self, case):
        for path in self.folder.iterdir():
            path.unlink()
        for name, content in self.intact.items():
            changed = content
            for _, edit in (edit for edit in case.edits if edit[0] == name):
                if edit[0] in ("missing", "take", "hole"):
                    changed = self._otherwise(name, edit)
                else:
                    changed = mutators.edited_tensors(changed, edit)
            if changed is not None:
                # As somebody would who leaves the header, and so the layout, as it was.
                (self.folder / name).write_bytes(_sealed(changed) if case.sealed else changed)

    def _otherwise(self, name, edit):
        if edit[0] == "take":
            return self.intact[edit[1]]
        if edit[0] == "hole":
            header = encode_header(LevelShape(*edit[1], "float32"))
            shape = LevelShape(*edit[1], "float32")
            size = len(header) + shape.index_bytes + shape.rows * shape.row_bytes
            (self.folder / name).write_bytes(header)
            with (self.folder / name).open("r+b") as file:
                file.truncate(min(size, 1 << 45))
        return None

    def use(self):
        digest, told = Digest(), False
        with ShippedBank(self.folder, ELEMENTS, cache_bytes=1 << 16) as bank:
            for key in self.keys:
                if bank.key_length != LENGTH:
                    digest.add("keys of", bank.key_length)
                    break
                found = bank.fetch(key)
                told = told or bool(found.faults)
                digest.add(found.path)
                digest.add_finite("values of a fetch", found.values)
        faults = list(verify_bank(self.folder))
        if faults and not told:
            digest.add("told by verify")  # which is why somebody would look
        return digest.output(told=told or bool(faults))


def _other_edit(rng):
    kind = rng.choice(("missing", "take", "hole"))
    if kind == "take":
        return ["take", rng.choice(sorted(SHAPES))]
    return ["hole", rng.choice(HUGE)] if kind == "hole" else ["missing"]


def _sealed(content):
    """The file with every check sum computed anew, as far as its header says where they are."""
    try:
        header, data = mutators.split_tensors(content)
        data, arrays = bytearray(data), {}
        for name in (*INDEX, "blocks"):
            if name in header:
                first, last = header[name]["data_offsets"]
                shape, dtype = header[name]["shape"], DTYPES[header[name]["dtype"]]
                arrays[name] = np.frombuffer(
                    data, dtype, (last - first) // np.dtype(dtype).itemsize, first
                )
                arrays[name] = arrays[name].reshape(shape)
        arrays["key_crc"][:] = [zlib.crc32(key.tobytes()) for key in arrays["keys"]]
        for row, block in enumerate(arrays["blocks"]):
            crc = zlib.crc32(block.tobytes())
            if "scale" in arrays:
                crc = zlib.crc32(arrays["scale"][row].tobytes(), crc)
            arrays["crc"][row] = crc
        index = 0
        for name in INDEX:
            if name in arrays:
                index = zlib.crc32(arrays[name].tobytes(), index)
        header["__metadata__"]["index_crc"] = f"{index:08x}"
        return mutators.joined_tensors(json.dumps(header), bytes(data))
    except (
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        AttributeError,
        RecursionError,
        OverflowError,
    ):
        return content
