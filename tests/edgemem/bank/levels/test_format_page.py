"""The example of docs/formats/bank.md is a file that we write."""

import re
from pathlib import Path

import numpy as np

from edgemem.bank.levels.level_header import LevelShape
from edgemem.bank.levels.level_writer import write_level

PAGE = Path(__file__).resolve().parents[4] / "docs" / "formats" / "bank.md"


def test_the_bytes_of_the_example_are_those_of_the_file(tmp_path):
    path = tmp_path / "level-1.safetensors"
    rows = [np.array([value], np.float32) for value in (0.5, 0)]
    keys = np.array([[1.0], [np.inf]], np.float32)
    write_level(path, LevelShape(1, 2, 1, 1), keys, np.array([7, 0]), rows)
    content = path.read_bytes()
    text = PAGE.read_text()
    lines = re.search(r"```\n(parent .*?)```", text, re.DOTALL)[1].splitlines()
    # Name, bytes, and perhaps a remark after five spaces.
    stored = b"".join(bytes.fromhex(line[8:].split(" " * 5)[0]) for line in lines)
    assert len(stored) == 64 and content.endswith(stored)
    index_crc = re.search(r"`index_crc` of this file is `(\w{8})`", text)[1]
    assert f'"index_crc":"{index_crc}"'.encode() in content
