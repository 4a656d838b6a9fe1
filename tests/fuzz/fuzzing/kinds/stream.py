"""Recorded streams as `edgemem run` reads them: .npz, and other files under its name."""

import io
import struct
import zipfile

import numpy as np
import safetensors.numpy
from fuzzing import device, mutators
from fuzzing.case import Case, Digest, Format
from numpy.lib import format as npy

from edgemem.runtime.frames import checked
from edgemem.runtime.tools.stream import Stream

FIELDS = (
    ("descr", ("<f4", "<f8", ">f4", "|u1", "|O", "<U9999", "|S0", "<c8", "|V8", "|b1", "<M8[s]",
               "x", "", 7)),
    ("fortran_order", (True, 1, None, "no")),
    ("shape", ((), (0,), (24,), (-24, 1, 8, 8), (1 << 40, 1, 8, 8), (1 << 62, 1 << 62), (24, 64),
               24, None, (24.0, 1, 8, 8), (True, 1536), (24, 1, 8, 8, 1), (0, 1, 8, 8), (24, 0),
               (1536, 1, 1, 1), (24, 1 << 40, 0))),
)  # fmt: skip
RAW_HEADERS = (
    "", "{", "{}", "[]", "0", "{'descr': '<f4', 'fortran_order': False, 'shape': (24,), 'more': 1}",
    "(" * 5000, "__import__('os').getcwd()",
    "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (24,)}",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 5000 + ",)}", "\0" * 64,
    "-" * 9000 + "1",
)  # fmt: skip
NAMES = ("x.npy", "y.npy", "context.npy", "X.npy", "x", "../x.npy", "/x.npy", "z.npy", "x.npy/", "")
WAYS = {"deflate": zipfile.ZIP_DEFLATED, "bzip": zipfile.ZIP_BZIP2, "lzma": zipfile.ZIP_LZMA}
BOMB = 9 << 26  # bytes of zeros, which take a few megabytes


class StreamFormat(Format):
    name, share = "stream", 0.18

    def __init__(self, folder):
        self.folder = folder
        x = np.concatenate(device.frames()[:2])[:24]
        frames = {"uint8": x, "float32": x.astype(np.float32) / 255}
        y, names = np.arange(24) % 10, np.array(["clear", "fog"]).repeat(12)
        self.columns = {kind: {"x": f, "y": y, "context": names} for kind, f in frames.items()}
        self.members = {
            kind: {f"{name}.npy": _npy(array) for name, array in columns.items()}
            for kind, columns in self.columns.items()
        }
        self.intact = {kind: _zip(list(members.items())) for kind, members in self.members.items()}
        self.path, self.bombs = folder / "stream.npz", {}

    def invent(self, rng):
        kind = rng.choice(("uint8", "float32"))
        how = rng.choice(
            ("flip", "bytes", "member", "member", "header", "header", "raw", "names", "other")
        )
        edits, sealed = [["kind", kind]], how not in ("flip", "bytes")
        for _ in range(rng.choice((1, 1, 2))):
            edits.append(self._edit(rng, kind, how))
        return Case(edits, sealed)

    def _edit(self, rng, kind, how):
        member = rng.choice(("x.npy", "x.npy", "y.npy", "context.npy"))
        if how in ("flip", "bytes"):
            edit = mutators.flip_edit if how == "flip" else mutators.bytes_edit
            return ["zip", edit(rng, len(self.intact[kind]))]
        if how == "member":
            return ["member", member, mutators.bytes_edit(rng, len(self.members[kind][member]))]
        if how == "header":
            field, values = rng.choice(FIELDS)
            return ["header", member, field, rng.choice(values)]
        if how == "raw":
            return [
                "raw",
                member,
                rng.choice(RAW_HEADERS),
                rng.choice(([1, 0], [2, 0], [3, 0], [9, 9])),
            ]
        if how == "names":
            return [rng.choice(("rename", "copy")), member, rng.choice(NAMES)]
        return rng.choice(
            (
                ["drop", member], ["bomb", member], ["deflate"], ["bzip"], ["lzma"],
                ["npy", member],
                ["safetensors", rng.choice((None, mutators.bytes_edit(rng, 2000)))],
                ["number", rng.randrange(1 << 16), rng.randrange(len(mutators.FLOATS))],
            )
        )  # fmt: skip

    def build(self, case):
        bombs = [edit[1] for edit in case.edits if edit[0] == "bomb"]
        if bombs:  # takes a second to make, so other edits have to wait
            self.path.write_bytes(self._bomb(case.edits[0][1], bombs[0]))
            return
        kind = case.edits[0][1] if case.edits else "uint8"
        members = list(self.members[kind].items())
        content, how = None, zipfile.ZIP_STORED
        for edit in case.edits[1:]:
            what, *rest = edit
            if what == "zip":
                content = mutators.edited_bytes(content or self.intact[kind], rest[0])
            elif what in WAYS:
                how = WAYS[what]
            elif what == "npy":
                content = dict(self.members[kind])[rest[0]]
            elif what == "safetensors":
                arrays = {name: a for name, a in self.columns[kind].items() if name != "context"}
                content = safetensors.numpy.save(arrays)
                content = mutators.edited_bytes(content, rest[0]) if rest[0] else content
            else:
                members = _edited_members(members, edit)
        self.path.write_bytes(_zip(members, how) if content is None else content)

    def _bomb(self, kind, member):
        """A small file with an array in it that is larger than a worker may become."""
        if (kind, member) not in self.bombs:
            held = io.BytesIO()
            header = {"descr": "|u1", "fortran_order": False, "shape": (BOMB,)}
            with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                for name, content in self.members[kind].items():
                    if name != member:
                        archive.writestr(name, content)
                with archive.open(member, "w") as file:
                    file.write(_header(repr(header)))
                    for _ in range(BOMB >> 20):
                        file.write(bytes(1 << 20))
            self.bombs[kind, member] = held.getvalue()
        return self.bombs[kind, member]

    def use(self):
        digest = Digest()
        stream = Stream(self.path)
        bad = stream.bad_frames()
        if len(bad):
            stream = stream.without(bad)
        for place, frames in stream.chunks(7):
            digest.add(place, checked(frames, device.bundle().manifest.frames))
        for column in (stream.labels, stream.contexts):
            digest.add(None if column is None else column.tolist())
        return digest.output(told=bool(len(bad)))


def _npy(array):
    held = io.BytesIO()
    npy.write_array(held, array, allow_pickle=False)
    return held.getvalue()


def _zip(members, how=zipfile.ZIP_STORED):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", how) as archive:
        for name, content in members:
            entry = zipfile.ZipInfo(name)
            entry.compress_type = how
            archive.writestr(entry, content)
    return held.getvalue()


def _edited_members(members, edit):
    kind, *rest = edit
    if kind == "number":
        member = "x.npy"
        content = dict(members).get(member, b"\0" * 10)  # an edit before may have taken it away
        begin = 10 + int.from_bytes(content[8:10], "little")
        array = np.frombuffer(
            bytearray(content[begin:]), "<f4" if len(content) > 4000 else "|u1"
        ).copy()
        if len(array) == 0:
            return members
        array[rest[0] % len(array)] = (
            mutators.FLOATS[rest[1]] if array.dtype.kind == "f" else rest[0] % 256
        )
        changed = content[:begin] + array.tobytes()
        return [(n, changed if n == member else c) for n, c in members]
    member, *rest = rest
    if kind == "drop":
        return [(n, c) for n, c in members if n != member]
    if kind == "rename":
        return [(rest[0] if n == member else n, c) for n, c in members]
    if kind == "copy":
        return [*members, *((rest[0], c) for n, c in members if n == member)]
    return [(name, _edited_member(c, kind, rest) if name == member else c) for name, c in members]


def _edited_member(content, kind, rest):
    if kind == "member":
        return mutators.edited_bytes(content, rest[0])
    data = content[10 + int.from_bytes(content[8:10], "little") :]
    if kind == "raw":
        return _header(rest[0], tuple(rest[1])) + data
    try:
        with io.BytesIO(content) as file:
            npy.read_magic(file)
            shape, fortran, dtype = npy.read_array_header_1_0(file)
    except ValueError:
        return content
    fields = {"descr": npy.dtype_to_descr(dtype), "fortran_order": fortran, "shape": shape}
    value = tuple(rest[1]) if isinstance(rest[1], list) else rest[1]
    return _header(repr(fields | {rest[0]: value})) + data


def _header(text, version=(1, 0)):
    length = struct.pack("<H" if version[0] == 1 else "<I", min(len(text), 65_000))
    return b"\x93NUMPY" + bytes(version) + length + text[:65_000].encode()
