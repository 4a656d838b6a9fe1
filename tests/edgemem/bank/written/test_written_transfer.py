"""Blocks that move to another device keep their provenance and versions, or are refused."""

import json
from contextlib import closing

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import edgemem
from edgemem.bank.written.record import COLUMNS, LARGEST, Provenance, seal
from edgemem.bank.written.transfer import export_blocks, import_blocks
from edgemem.bank.written.written_blocks import WrittenBlocks
from edgemem.state.store import Snapshot, State

ORIGIN = Provenance("bundle", 7, 0.25, "context left")


def put(state, name, value=1.0, size=6, key=(1, 2), path="2/9/+"):
    arrays = {"w": np.full(size, value, np.float32), "n": np.array(3, np.int64)}
    return WrittenBlocks(state).put(name, arrays, path=path, key=key, count=4, provenance=ORIGIN)


def current(state):
    blocks = WrittenBlocks(state)
    found = {record.id: blocks.read(record.id) for record in blocks.listing().records}
    return {name: (record.version, arrays["w"][0]) for name, (record, arrays) in found.items()}


@pytest.fixture
def here(tmp_path):
    with closing(State(tmp_path / "here.db", "bundle")) as state:
        yield state


@pytest.fixture
def there(tmp_path):
    with closing(State(tmp_path / "there.db", "bundle")) as state:
        yield state


@pytest.fixture
def file(tmp_path, here):
    put(here, "night", 1)
    put(here, "day", 2)
    put(here, "night", 3)
    export_blocks(here, tmp_path / "blocks.safetensors")
    return tmp_path / "blocks.safetensors"


def test_what_arrives_is_what_left(here, there, file):
    found = import_blocks(there, file)
    assert (sorted(found.taken), found.kept) == (["day", "night"], [])
    for name in ("day", "night"):
        left, arrived = (WrittenBlocks(state).read(name)[0] for state in (here, there))
        assert arrived.as_dict() == left.as_dict()
        np.testing.assert_array_equal(arrived.key, left.key)
    assert current(there) == {"day": (2, 2), "night": (3, 3)}
    assert WrittenBlocks(there).verify() == []
    assert put(there, "new").version == 4


def test_an_import_never_lowers_a_version(there, file):
    for value in (10, 11, 12):
        put(there, "night", value)
    found = import_blocks(there, file)
    assert (found.taken, found.kept) == (["day"], ["night"])
    assert current(there) == {"day": (2, 2), "night": (3, 12)}
    again = import_blocks(there, file)
    assert (again.taken, sorted(again.kept)) == ([], ["day", "night"])


def test_a_root_without_a_key_travels_with_the_others(tmp_path, here, there):
    put(here, "night", 1)
    put(here, "root", 2, key=())
    put(here, "zone", 3)
    export_blocks(here, tmp_path / "file")
    assert sorted(import_blocks(there, tmp_path / "file").taken) == ["night", "root", "zone"]
    put(here, "root", 4, key=())
    put(here, "odd", 5, key=(1, 2, 3))
    export_blocks(here, tmp_path / "file", ["root"])
    assert import_blocks(there, tmp_path / "file").taken == ["root"]
    export_blocks(here, tmp_path / "file", ["odd"])
    with pytest.raises(edgemem.InputError, match="the key is"):
        import_blocks(there, tmp_path / "file")


@pytest.mark.parametrize(
    ("left", "own", "refused"),
    [
        (["root", "night"], [], False),  # a new device
        (["root", "night"], ["day"], True),  # its root would change under "day"
        (["night"], ["root", "day"], True),  # "night" would stand on another root
        (["root", "night"], ["root", "root", "day"], True),  # likewise
        (["night"], ["day"], False),  # neither has a root
        (["root"], ["root", "root", "day"], False),  # older: nothing comes
    ],
)
def test_leaves_come_only_with_the_root_they_stand_on(tmp_path, here, there, left, own, refused):
    for state, names in ((here, left), (there, own)):
        for value, name in enumerate(names):
            put(state, name, value + 10 * (state is here), path="" if name == "root" else "+")
    export_blocks(here, tmp_path / "file")
    before = current(there)
    if refused:
        with pytest.raises(edgemem.InputError, match="leaves of another root"):
            import_blocks(there, tmp_path / "file")
        assert current(there) == before
    else:
        import_blocks(there, tmp_path / "file")


def test_a_device_takes_back_what_went_on_elsewhere(tmp_path, here, there):
    put(here, "root", 1, path="")
    put(here, "night", 2, path="+")
    put(here, "day", 3, path="+")
    export_blocks(here, tmp_path / "file")
    import_blocks(there, tmp_path / "file")
    put(there, "root", 4, path="")
    put(there, "night", 5, path="+")
    export_blocks(there, tmp_path / "file")
    found = import_blocks(here, tmp_path / "file")
    assert (sorted(found.taken), found.kept) == (["night", "root"], ["day"])


def test_only_the_named_blocks_leave(tmp_path, here, there, file):
    export_blocks(here, file, ["day", "day"])
    assert import_blocks(there, file).taken == ["day"]
    with pytest.raises(edgemem.InputError, match="block 'dusk': is not there"):
        export_blocks(here, tmp_path / "other", ["dusk"])
    assert not (tmp_path / "other").exists()


def test_blocks_of_another_bundle_are_refused(tmp_path, file):
    with closing(State(tmp_path / "s.db", "another")) as state:
        with pytest.raises(edgemem.InputError, match="holds blocks of another bundle"):
            import_blocks(state, file)
        assert current(state) == {}
    assert not (tmp_path / "s.db").exists()


def test_blocks_of_other_shapes_are_refused_all_together(there, file):
    put(there, "dusk", size=5)
    with pytest.raises(edgemem.InputError, match=r"array 'w' is float32\[6\], here float32\[5\]"):
        import_blocks(there, file)
    assert list(current(there)) == ["dusk"]


def test_keys_of_another_length_are_refused(there, file):
    put(there, "dusk", key=(1, 2, 3))
    with pytest.raises(edgemem.InputError, match=r"the key is float32\[2\], here float32\[3\]"):
        import_blocks(there, file)


@pytest.mark.parametrize(
    "array",
    [
        np.float32([1, np.nan]),
        np.float16([np.inf]),
        np.float32([-2e30]),
        np.float64([1.0]),
        np.array([True]),
    ],
)
def test_values_and_types_that_no_block_has_are_refused(tmp_path, here, there, array):
    put(here, "night")
    about = {"path": "2/9/+", "key": (1, 2), "count": 4, "provenance": ORIGIN}
    WrittenBlocks(here).put("day", {"odd": array}, **about)
    export_blocks(here, tmp_path / "file")
    with pytest.raises(edgemem.InputError, match="block 'day'.*no sound block has.*with --id"):
        import_blocks(there, tmp_path / "file")
    assert current(there) == {}
    export_blocks(here, tmp_path / "file", ["night"])  # the remedy
    assert import_blocks(there, tmp_path / "file").taken == ["night"]


def test_shapes_show_where_the_snapshot_has_lost_other_parts(there, file):
    there.write(Snapshot({"block.w": np.zeros(7, np.float32), "opt.w": np.zeros(7)}, {}))
    there.rows("UPDATE part SET content = x'00' WHERE row = 2")
    with pytest.raises(edgemem.InputError, match=r"array 'w' is float32\[6\], here float32\[7\]"):
        import_blocks(there, file)


def test_the_snapshot_shows_which_shapes_fit(there, file):
    there.write(Snapshot({"block.w": np.zeros(7, np.float32)}, {}))
    with pytest.raises(edgemem.InputError, match=r"array 'w' is float32\[6\], here float32\[7\]"):
        import_blocks(there, file)


def test_a_damaged_block_does_not_leave_but_a_newer_one_replaces_it(here, there, file):
    import_blocks(there, file)
    there.rows("UPDATE payload SET content = x'00' WHERE row = 1")
    with pytest.raises(edgemem.StateError, match="is damaged"):
        export_blocks(there, file)
    put(here, "night", 9)
    put(here, "day", 8)
    export_blocks(here, file)
    assert len(import_blocks(there, file).taken) == 2
    assert current(there) == {"night": (4, 9), "day": (5, 8)}


def altered(file, change):
    """The file again with other metadata or tensors."""
    with safetensors.safe_open(file, framework="np") as opened:
        about = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    blocks = json.loads(about["blocks"])
    changed = change(about, blocks, tensors)
    about = {**about, "blocks": json.dumps(blocks)} if changed is None else changed
    file.write_bytes(safetensors.numpy.save(tensors, about))


def sealed(blocks, tensors, **values):
    """Change columns of the first block and seal it again, as a forger would."""
    blocks[0].update(values)
    blocks[0]["key"] = tensors["key.0"].tobytes()
    blocks[0]["sha256"] = seal(tuple(blocks[0][name] for name in COLUMNS[:-1]))
    del blocks[0]["key"]


@pytest.mark.parametrize(
    "change",
    [
        lambda about, blocks, tensors: {},
        lambda about, blocks, tensors: {"format": about["format"]},
        lambda about, blocks, tensors: {**about, "format": "edgemem-blocks-2"},
        lambda about, blocks, tensors: {**about, "blocks": "{"},
        lambda about, blocks, tensors: {**about, "blocks": "{}"},
        lambda about, blocks, tensors: {**about, "blocks": "[" * 100_000},
        lambda about, blocks, tensors: blocks.append(5),
        lambda about, blocks, tensors: blocks.append({}),
        lambda about, blocks, tensors: blocks[0].update(path=None),
        lambda about, blocks, tensors: blocks[0].update(version=50),
        lambda about, blocks, tensors: blocks[0].update(provenance={}),
        lambda about, blocks, tensors: sealed(blocks, tensors, version=LARGEST - 1),
        lambda about, blocks, tensors: sealed(blocks, tensors, path="/etc"),
        lambda about, blocks, tensors: sealed(blocks, tensors, nbytes=1),
        lambda about, blocks, tensors: sealed(blocks, tensors, count=1 << 70),
        lambda about, blocks, tensors: tensors.update({"key.1": tensors["payload.1"]}),
        lambda about, blocks, tensors: tensors.update({"key.0": np.ones(2)}),
        lambda about, blocks, tensors: tensors.update({"key.0": np.ones((1, 2), np.float32)}),
        lambda about, blocks, tensors: tensors.update({"payload.0": np.ones(3, np.uint8)}),
    ],
)
def test_an_altered_file_is_refused_and_changes_nothing(there, file, change):
    altered(file, change)
    with pytest.raises(edgemem.InputError, match=r"blocks\.safetensors: .*\. (Export|Pass)"):
        import_blocks(there, file)
    assert current(there) == {}


@given(st.data())
def test_any_damage_to_the_file_is_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("transfer")
    with closing(State(folder / "s.db", "bundle")) as state:
        put(state, "night", 1)
        export_blocks(state, folder / "f")
    content = bytearray((folder / "f").read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (folder / "f").write_bytes(content)
    with closing(State(folder / "t.db", "bundle")) as state, pytest.raises(edgemem.InputError):
        import_blocks(state, folder / "f")


def test_files_that_are_not_there_or_not_ours_are_named(tmp_path, there):
    (tmp_path / "plain").write_bytes(safetensors.numpy.save({"a": np.ones(1)}))
    said = {"missing": "does not exist", "plain": "edgemem bank export", ".": "is a folder"}
    for name, text in said.items():
        with pytest.raises(edgemem.InputError, match=text):
            import_blocks(there, tmp_path / name)
