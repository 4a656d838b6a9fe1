"""Edits of bytes, JSON, safetensors and npy: each a list that JSON can hold, and how to apply it.

What invents an edit takes a generator of random numbers and what is to be edited, and nothing else.
"""

import json
import struct

import numpy as np

# Written in place of a JSON value, for what `json.dumps` cannot write or would not.
RAW = {
    "deep": "[" * 100_000 + "]" * 100_000,
    "digits": "9" * 5000,
    "1e999": "1e999",
    "nan": "NaN",
    "infinity": "-Infinity",
    "surrogate": '"\\ud800"',
    "nul": '"a\\u0000b"',
    "long": '"' + "x" * 100_000 + '"',
    "unclosed": '{"a": ',
}
NUMBERS = (
    0, 1, -1, 2, 3, 7, 255, 256, 65_535, 1 << 20, 2**31 - 1, 2**31, 2**32, 1 << 48, 2**53,
    2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64, 10**30, 0.0, -0.0, 0.5, 1.5, -3.25, 1e-320, 1e38,
    3.5e38, 1e308,
)  # fmt: skip
TEXTS = (
    "", " ", "0", "-1", "nan", "inf", "..", "../x", "/etc/passwd", "a/../b", "a\\b", "x" * 300,
    "\0", "\n", "\x1b[2J", "ſ", "١", "\u202e", "float32", "float64", "int64", "F32", "BF16", "I64",
    "null", "manifest.json", "weights.bin", "predict.onnx", "bank/level-1.safetensors", "__proto__",
)  # fmt: skip
VALUES = (None, True, False, [], {}, [[]], [0], [1, 2], {"a": 1}, *NUMBERS, *TEXTS)
FLOATS = (
    float("nan"),
    float("inf"),
    float("-inf"),
    3.4e38,
    -3.4e38,
    3e17,
    1e-40,
    0.0,
    -0.0,
    1.0,
    -7.5,
)


def bytes_edit(rng, size):
    """An edit of `size` bytes."""
    at = rng.randrange(max(size, 1))
    count = min(rng.choice((1, 2, 4, 8, 16, 512, 4096)), max(size - at, 1))
    return rng.choice(
        (
            ["flip", at, rng.randrange(8)],
            ["flip", at, rng.randrange(8)],
            ["put", at, rng.randbytes(rng.choice((1, 2, 4, 8, 64))).hex()],
            ["fill", at, count, rng.choice((0, 255, 127, 128))],
            ["cut", at],
            ["swap", at, rng.randrange(max(size, 1)), count],
            ["insert", at, rng.randbytes(rng.choice((1, 3, 8))).hex()],
            ["remove", at, count],
            ["repeat", at, count],
        )
    )


def flip_edit(rng, size):
    """One bit, which is what a disk or a memory most often gets wrong."""
    return ["flip", rng.randrange(max(size, 1)), rng.randrange(8)]


def edited_bytes(content, edit):
    """The bytes after an edit; places beyond the end count from the beginning again."""
    kind, at, *rest = edit
    found = bytearray(content)
    at %= max(len(found), 1)
    if kind == "flip" and found:
        found[at] ^= 1 << rest[0]
    elif kind == "put":
        put = bytes.fromhex(rest[0])
        found[at : at + len(put)] = put
    elif kind == "fill":
        found[at : at + rest[0]] = bytes([rest[1]]) * len(found[at : at + rest[0]])
    elif kind == "cut":
        del found[at:]
    elif kind == "swap":
        other, count = rest[0] % max(len(found), 1), rest[1]
        one, two = found[at : at + count], found[other : other + count]
        found[at : at + len(two)], found[other : other + len(one)] = two, one
    elif kind == "insert":
        found[at:at] = bytes.fromhex(rest[0])
    elif kind == "remove":
        del found[at : at + rest[0]]
    elif kind == "repeat":
        found[at:at] = found[at : at + rest[0]]
    return bytes(found)


def json_edit(rng, document):
    """An edit of one value of a JSON document, at any depth."""
    places = list(_places(document))
    place = rng.choice(places)
    kind = rng.choice(("set", "set", "set", "near", "near", "drop", "add", "copy", "raw"))
    if kind == "set":
        return ["set", place, rng.choice(VALUES)]
    if kind == "near":
        return ["set", place, _near(rng, _at(document, place))]
    if kind == "copy":
        return ["set", place, _at(document, rng.choice(places))]
    if kind == "raw":
        return ["raw", place, rng.choice(sorted(RAW))]
    if kind == "add":
        return ["add", place, rng.choice(TEXTS), rng.choice(VALUES)]
    return ["drop", place]


def edited_json(document, edit):
    """The text of the document after an edit that fits it; of the document itself otherwise."""
    kind, place, *rest = edit
    document, raw = json.loads(json.dumps(document)), ""
    if kind == "raw":
        rest, raw = ["@raw@"], RAW[rest[0]]
    try:
        if not place:
            document = rest[-1] if rest else None
        elif kind == "drop":
            del _at(document, place[:-1])[place[-1]]
        elif kind == "add":
            inner = _at(document, place)
            inner.append(rest[1]) if isinstance(inner, list) else inner.update({rest[0]: rest[1]})
        else:
            _at(document, place[:-1])[place[-1]] = rest[0]
    except (KeyError, IndexError, TypeError, AttributeError):
        pass
    return json.dumps(document).replace('"@raw@"', raw)


def _places(document, place=()):
    yield list(place)
    if not isinstance(document, dict | list):
        return
    inner = document.items() if isinstance(document, dict) else enumerate(document)
    for name, value in inner:
        if isinstance(value, dict | list):
            yield from _places(value, (*place, name))
        else:
            yield [*place, name]


def _at(document, place):
    for name in place:
        document = document[name]
    return document


def _near(rng, value):
    """A value of the same kind: what is plausible comes furthest."""
    kinds = {
        bool: _near_flag,
        int: _near_int,
        float: _near_float,
        str: _near_text,
        list: _near_list,
    }
    change = kinds.get(type(value)) if value or isinstance(value, bool | int | float) else None
    return change(rng, value) if change else rng.choice(VALUES)


def _near_flag(_, value):
    return not value


def _near_int(rng, value):
    return value + rng.choice((-2, -1, 1, 2, 16, -value, value))


def _near_float(rng, value):
    return value * rng.choice((-1.0, 0.5, 2.0, 1e3, 1e-3, 1e30)) + rng.choice((0.0, 1e-3))


def _near_text(rng, value):
    at = rng.randrange(len(value))
    return value[:at] + rng.choice("0aZ/.\0é") + value[at + rng.randrange(2) :]


def _near_list(rng, value):
    return rng.choice((value[:-1], value + value[-1:], value[::-1], value * 2))


def tensors_edit(rng, content):
    """An edit of a safetensors file: of its header by field, of its numbers, or of its bytes."""
    header, data = split_tensors(content)
    kind = rng.choice(("header", "header", "number", "number", "data", "bytes", "length"))
    arrays = sorted(name for name in header if name != "__metadata__")
    if kind == "header":
        return ["header", json_edit(rng, header)]
    if kind == "number" and arrays:
        return [
            "number",
            rng.choice(arrays),
            rng.randrange(1 << 20),
            rng.choice(range(len(FLOATS))),
        ]
    if kind == "data":
        return ["data", bytes_edit(rng, len(data))]
    if kind == "length":
        return ["length", rng.choice((0, 1, 2, 7, 8, 1 << 16, 1 << 31, 1 << 40, 2**63, 2**64 - 1))]
    return ["bytes", bytes_edit(rng, len(content))]


def edited_tensors(content, edit):
    """The file after such an edit."""
    kind, *rest = edit
    if kind == "bytes":
        return edited_bytes(content, rest[0])
    if kind == "length":
        return struct.pack("<Q", rest[0]) + content[8:]
    try:
        header, data = split_tensors(content)
        return _edited_apart(header, data, kind, rest)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return content  # an edit before this one has broken it


def _edited_apart(header, data, kind, rest):
    if kind == "header":
        return joined_tensors(edited_json(header, rest[0]), data)
    if kind == "data":
        return joined_tensors(json.dumps(header), edited_bytes(data, rest[0]))
    name, place, value = rest
    first, last = header[name]["data_offsets"]
    dtype = {"F32": "<f4", "F16": "<f2"}.get(header[name]["dtype"], "|i1")
    array = np.frombuffer(bytearray(data[first:last]), dtype).copy()
    if len(array):
        floats = dtype.startswith("<f")
        with np.errstate(over="ignore"):
            array[place % len(array)] = FLOATS[value] if floats else (value * 37) % 256 - 128
    return joined_tensors(json.dumps(header), data[:first] + array.tobytes() + data[last:])


def split_tensors(content):
    """Header as a document, and data, of a file that is intact."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined_tensors(header, data):
    """A file of a header as text, whatever it says."""
    text = header.encode("utf-8", "surrogatepass")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data
