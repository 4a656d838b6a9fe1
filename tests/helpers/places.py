"""Where the arrays of a safetensors file begin, by its format; to damage them."""

import json
import struct


def begin_of(path):
    """First byte of each array, by name."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    return {name: 8 + length + about["data_offsets"][0] for name, about in header.items()}
