"""What devices learnt becomes a bank: keys and blocks of exports against sums by hand."""

from collections.abc import Mapping
from contextlib import closing

import numpy as np
import pytest

import edgemem
from edgemem.bank.building.collected import learnt_opener, open_learnt
from edgemem.bank.building.hierarchy import build_bank
from edgemem.bank.read.shipped_bank import ShippedBank
from edgemem.bank.written.record import Provenance
from edgemem.bank.written.transfer import export_blocks
from edgemem.bank.written.written_blocks import WrittenBlocks
from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE
from edgemem.state.store import State

SIZE = 42_972


class Device:
    """Blocks that a device might have written, and the file that it exports them to."""

    def __init__(self, folder, bundle, name, seed=0):
        self.bundle, self.random = bundle, np.random.default_rng(seed)
        self.spec, self.folder, self.name = bundle.manifest.block, folder, name

    def block(self):
        return self.random.normal(size=SIZE).astype(np.float32)

    def export(self, *blocks, identity=None):
        """blocks: id, path, values or arrays, and perhaps a key of another length."""
        identity = identity or self.bundle.identity
        path = self.folder / f"{self.name}.safetensors"
        with closing(State(self.folder / f"{self.name}.db", identity)) as state:
            for name, place, values, *length in blocks:
                arrays = values if isinstance(values, Mapping) else self.spec.unflatten(values)
                key = self.random.normal(size=length[0] if length else 48)
                origin = Provenance(identity, 7, 0.2, "flush")
                WrittenBlocks(state).put(
                    name, arrays, path=place, key=key, count=3, provenance=origin
                )
            self.records = {record.id: record for record in export_blocks(state, path)}
        return path


@pytest.fixture
def digits():
    return open_bundle(BUNDLE)


def opened(bundle, files, folder, progress=lambda *told: None):
    """Blocks by the bytes of their key."""
    (folder / "arrays").mkdir(exist_ok=True)
    source = open_learnt(bundle, files, folder / "arrays", progress)
    return {
        key.tobytes(): block for key, block in zip(source.keys, source.blocks, strict=True)
    }, source


def test_a_block_is_root_and_leaf_less_the_generic_one(tmp_path, digits):
    generic = digits.manifest.block.flatten(digits.generic)
    first, second = (Device(tmp_path, digits, name, seed) for seed, name in enumerate("ab"))
    root, leaves = first.block(), [first.block() for _ in range(3)]
    told = []
    found, source = opened(
        digits,
        [
            first.export(
                ("root", "", root, 0),
                ("context-1", "+", leaves[0]),
                ("context-20", "+", leaves[1]),
            ),
            second.export(("context-1", "+", leaves[2])),
        ],
        tmp_path,
        lambda *now: told.append(now),
    )
    assert source.keys.shape == (3, 48) and source.blocks.shape == (3, SIZE)
    expected = [
        (first.records["context-1"], leaves[0] + root - generic),
        (first.records["context-20"], leaves[1] + root - generic),
        (second.records["context-1"], leaves[2]),
    ]
    for record, values in expected:
        np.testing.assert_allclose(found[record.key.tobytes()], values, atol=1e-5)
    assert told == [("read contexts", n, 3) for n in (1, 2, 3)]


def test_shipped_rows_of_the_path_are_part_of_the_block(tmp_path, shipped_bundle):
    bundle = open_bundle(shipped_bundle)
    device = Device(tmp_path, bundle, "a")
    leaves = {"+": device.block(), "1/+": device.block(), "0/1/+": device.block()}
    file = device.export(*((f"context-{n}", *item) for n, item in enumerate(leaves.items())))
    found, _ = opened(bundle, [file], tmp_path)
    with ShippedBank(bundle.bank, SIZE) as bank:
        for record in device.records.values():
            rows = tuple(int(row) for row in record.path.split("/")[:-1])
            expected = bank.sum_rows(rows, []) + leaves[record.path]
            np.testing.assert_allclose(found[record.key.tobytes()], expected, atol=1e-5)


def test_a_bank_of_them_gives_each_context_its_block_back(tmp_path, digits):
    devices = [Device(tmp_path, digits, name, seed) for seed, name in enumerate("abc")]
    leaves, files = {}, []
    for device in devices:
        blocks = [(f"context-{n}", "+", device.block()) for n in range(4)]
        files.append(device.export(("root", "", digits.generic), *blocks))
        leaves |= {device.records[name].key.tobytes(): leaf for name, _, leaf in blocks}
    build_bank(learnt_opener(digits, files), tmp_path / "bank", levels=3, branch=4)
    with ShippedBank(tmp_path / "bank", SIZE) as bank:
        for key, leaf in leaves.items():
            found = bank.fetch(np.frombuffer(key, np.float32))
            np.testing.assert_allclose(found.values, leaf, atol=1e-5)


def refused(bundle, files, folder, *parts, kind=edgemem.InputError):
    with pytest.raises(kind) as caught:
        opened(bundle, files, folder)
    for part in parts:
        assert part in str(caught.value)
    assert caught.value.remedy


def test_blocks_that_are_of_no_context_of_the_bundle_are_refused(tmp_path, digits):
    device = Device(tmp_path, digits, "a")
    whole = digits.manifest.block.unflatten(device.block())
    name = next(iter(whole))
    cases = [
        (("node", "3/51", whole), "has the path 3/51, of no context"),
        (("short", "+", whole, 5), "has a key of 5 numbers, not 48"),
        (("deep", "1/+", whole), "has the path 1/+, which the bundle's bank does not have"),
        (("other", "+", {name: whole[name]}), "does not fit the bundle: array"),
        (("nan", "+", whole.replace({name: whole[name] * np.float32(np.nan)})), "holds NaN"),
        (("root", "", {name: whole[name]}), "does not fit the bundle: array"),
    ]
    for number, (block, reason) in enumerate(cases):
        device = Device(tmp_path, digits, f"case{number}")
        file = device.export(("context-1", "+", whole), block)
        refused(digits, [file], tmp_path, str(file), repr(block[0]), reason)
    roots = Device(tmp_path, digits, "roots")
    file = roots.export(("context-1", "+", whole), ("root", "", whole), ("too", "", whole))
    refused(digits, [file], tmp_path, "'too'", "is a second root")


def test_paths_that_the_bank_does_not_have_are_refused(tmp_path, shipped_bundle):
    bundle = open_bundle(shipped_bundle)
    for number, path in enumerate(["2/+", "0/2/+", "1/4/+", "0/1/2/+"]):
        device = Device(tmp_path, bundle, f"case{number}")
        file = device.export(("context-1", path, device.block()))
        refused(bundle, [file], tmp_path, f"has the path {path}, which the bundle's bank")


def test_a_damaged_shipped_row_is_named(tmp_path, shipped_bundle):
    path = shipped_bundle / "bank/level-2.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    bundle = open_bundle(shipped_bundle)
    device = Device(tmp_path, bundle, "a")
    good = device.export(("context-1", "1/2/+", device.block()))
    opened(bundle, [good], tmp_path)
    bad = device.export(("context-2", "1/3/+", device.block()))
    refused(bundle, [bad], tmp_path, "row 3", "is damaged", kind=edgemem.BankError)


def test_files_without_contexts_or_of_another_bundle_are_refused(tmp_path, digits):
    device = Device(tmp_path, digits, "a")
    file = device.export(("root", "", digits.generic))
    refused(digits, [file], tmp_path, "holds no block of a context")
    other = Device(tmp_path, digits, "b").export(("context-1", "+", device.block()), identity="x")
    refused(digits, [file, other], tmp_path, "b.safetensors", "holds blocks of another bundle")
    (tmp_path / "c.safetensors").write_bytes(b"no")
    refused(digits, [tmp_path / "c.safetensors"], tmp_path, "is not readable safetensors")
    refused(digits, [tmp_path / "none.safetensors"], tmp_path, "none.safetensors")
