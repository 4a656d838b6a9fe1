"""What is forgotten is gone from the bytes of the file, and compacting gives its space back."""

from contextlib import closing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgemem
from edgemem.bank.written.record import Provenance
from edgemem.bank.written.written_blocks import WrittenBlocks
from edgemem.state.store import Snapshot, State

ORIGIN = Provenance("bundle", 1, 0.5, "flush")


def put(blocks, name, arrays):
    return blocks.put(name, arrays, path="1", key=[1, 2], count=1, provenance=ORIGIN)


def bytes_on_disk(path):
    """All there is of a state: the file and whatever lies beside it."""
    return b"".join(file.read_bytes() for file in sorted(path.parent.glob(f"{path.name}*")))


def marked(seed, size):
    """Arrays whose every 16 bytes occur nowhere else."""
    return {"w": np.random.default_rng(seed).integers(0, 256, size).astype(np.int8)}


def traces(path, arrays):
    content = bytes_on_disk(path)
    raw = arrays["w"].tobytes()
    return [i for i in range(0, len(raw) - 15, 16) if raw[i : i + 16] in content]


@settings(max_examples=25)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(16, 9000)), min_size=1, max_size=14))
def test_no_byte_of_any_version_is_left(tmp_path_factory, course):
    path = tmp_path_factory.mktemp("forget") / "s.db"
    with closing(State(path, "bundle")) as state:
        blocks, secret = WrittenBlocks(state), []
        for seed, (name, size) in enumerate([*course, ("a", 100)]):
            put(blocks, name, marked(seed, size))
            secret += [marked(seed, size)] if name == "a" else []
        assert traces(path, secret[-1])
        blocks.forget("a")
        assert [traces(path, arrays) for arrays in secret] == [[]] * len(secret)
        assert blocks.verify() == []
    assert [traces(path, arrays) for arrays in secret] == [[]] * len(secret)


def test_inside_a_transaction_it_is_gone_with_the_commit(tmp_path):
    path, secret = tmp_path / "s.db", marked(1, 5000)
    with closing(State(path, "bundle")) as state:
        blocks = WrittenBlocks(state)
        put(blocks, "a", secret)
        with state.transaction():
            blocks.forget("a")
            state.write(Snapshot({}, {"steps": 1}))
        assert traces(path, secret) == [] and state.read().counters == {"steps": 1}


def test_a_forget_that_is_taken_back_forgets_nothing(tmp_path):
    with closing(State(tmp_path / "s.db", "bundle")) as state:
        blocks = WrittenBlocks(state)
        put(blocks, "a", marked(1, 500))
        with pytest.raises(RuntimeError), state.transaction():
            blocks.forget("a")
            raise RuntimeError
        assert blocks.read("a")[0].version == 1 and blocks.verify() == []
        put(blocks, "b", marked(1, 500))


def test_a_reader_that_holds_the_old_bytes_is_named(tmp_path):
    path, secret = tmp_path / "s.db", marked(1, 5000)
    with closing(State(path, "bundle")) as state:
        blocks = WrittenBlocks(state)
        put(blocks, "a", secret)
        with closing(State(path, None, read_only=True)) as reader:
            reader.rows("BEGIN")
            assert len(WrittenBlocks(reader).listing().records) == 1
            with pytest.raises(edgemem.StateError, match="is being read.*edgemem bank compact"):
                blocks.forget("a")
            assert blocks.listing().records == []
        blocks.compact()
        assert traces(path, secret) == []


def test_compacting_gives_the_bytes_back_and_says_how_many(tmp_path):
    path = tmp_path / "s.db"
    with closing(State(path, "bundle")) as state:
        blocks = WrittenBlocks(state)
        for seed in range(8):
            put(blocks, str(seed), marked(seed, 100_000))
        assert blocks.evict(300_000) == ["0", "1", "2", "3", "4", "5"]
        given = blocks.compact()
        assert path.stat().st_size < 260_000 and given > 600_000
        assert blocks.compact() == 0
        np.testing.assert_array_equal(blocks.read("7")[1]["w"], marked(7, 100_000)["w"])
        assert blocks.verify() == []


def test_compacting_in_the_middle_of_a_commit_is_refused(tmp_path):
    with closing(State(tmp_path / "s.db", "bundle")) as state:
        blocks = WrittenBlocks(state)
        with (
            pytest.raises(edgemem.StateError, match="cannot be compacted now"),
            state.transaction(),
        ):
            put(blocks, "a", marked(1, 100))
            blocks.compact()
        assert blocks.listing().records == []
