"""The builder: counts against descent, quality against scikit-learn, balance, determinism."""

import zipfile

import numpy as np
import pytest
from safetensors.numpy import load_file
from sklearn.cluster import KMeans

from edgemem.bank.building import hierarchy
from edgemem.bank.building.hierarchy import build_bank
from edgemem.bank.building.keys import open_keys
from edgemem.bank.building.kmeans import LARGEST_SHARE, KMeansSettings, cluster, nearest
from edgemem.bank.levels.level_checks import verify_bank
from edgemem.bank.read.shipped_bank import ShippedBank
from edgemem.bank.read.tree import squared_distances
from edgemem.errors import InputError


def blobs(sizes, length=8, spread=6.0, seed=0):
    """Keys around as many centres as there are sizes, shuffled."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(len(sizes), length)) * spread
    keys = np.concatenate(
        [c + random.normal(size=(n, length)) for c, n in zip(centres, sizes, strict=True)]
    )
    return random.permutation(keys).astype(np.float32)


def saved(folder, keys, name="keys.npy"):
    path = folder / name
    if path.suffix == ".npz":
        np.savez_compressed(path, keys=keys)
    else:
        np.save(path, keys)
    return path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_count_is_the_number_of_keys_that_descend_there(tmp_path):
    keys = blobs([300, 500, 100, 50, 700])
    counts = build_bank(saved(tmp_path, keys), tmp_path / "bank", levels=3, branch=4, elements=2)
    expected = [np.zeros(4**level, np.int64) for level in (1, 2, 3)]
    with ShippedBank(tmp_path / "bank", 2) as bank:
        for key in keys:
            found = bank.fetch(key)
            assert found.faults == [] and not found.values.any()
            for level, row in enumerate(found.path):
                expected[level][row] += 1
    for level, count in enumerate(counts):
        np.testing.assert_array_equal(count, expected[level])
        stored = load_file(tmp_path / "bank" / f"level-{level + 1}.safetensors")
        np.testing.assert_array_equal(stored["count"], count)
        assert count.sum() == len(keys)
    assert list(verify_bank(tmp_path / "bank")) == []


@pytest.mark.parametrize("step_keys", [6400, 300])
@pytest.mark.parametrize("length", [2, 32])
def test_inertia_is_near_that_of_scikit_learn(length, step_keys):
    keys = blobs([400] * 16, length)
    random = np.random.default_rng(1)
    recipe = KMeansSettings(step_keys=step_keys)

    def samples():
        while True:
            order = random.permutation(len(keys))
            size = min(step_keys, len(keys))
            for first in range(0, len(keys) - size + 1, size):
                yield keys[order[first : first + size]]

    found = cluster(samples(), 16, recipe, random)
    theirs = KMeans(16, n_init=3, random_state=0).fit(keys).inertia_
    ours = sum(squared_distances(found, key).min() for key in keys)
    assert ours < theirs * (1.03 if step_keys == 6400 else 1.08)


def test_labels_are_those_of_differences_even_far_from_zero_and_in_ties():
    random = np.random.default_rng(0)
    for offset in (0, 1e6):
        points = (offset + random.integers(-2, 3, (500, 3))).astype(np.float32)
        centroids = np.unique((offset + random.integers(-2, 3, (9, 3))).astype(np.float32), axis=0)
        expected = [int(squared_distances(centroids, point).argmin()) for point in points]
        assert nearest(points, centroids).tolist() == expected


def test_large_clusters_share_with_small_ones(tmp_path):
    # One context has half of the keys: k-means alone leaves it whole, as others lie far apart.
    keys = blobs([5000, *[250] * 20], spread=20.0)
    (count,) = build_bank(saved(tmp_path, keys), tmp_path / "bank", levels=1, branch=16)
    theirs = np.bincount(KMeans(16, n_init=1, random_state=0).fit(keys).labels_)
    assert theirs.max() >= 5000 and (count > 0).sum() == 16
    assert count.max() < 1.2 * LARGEST_SHARE / 16 * len(keys)


def test_equal_keys_make_one_child_and_the_others_are_absent(tmp_path):
    keys = np.repeat(np.float32([[1, 2], [3, 4], [5, 6]]), [700, 20, 1], axis=0)
    first, second = build_bank(saved(tmp_path, keys), tmp_path / "bank", levels=2, branch=4)
    assert sorted(first.tolist()) == [0, 1, 20, 700]
    assert sorted(second[second > 0].tolist()) == [1, 20, 700]
    stored = load_file(tmp_path / "bank" / "level-1.safetensors")
    np.testing.assert_array_equal(np.unique(keys, axis=0), stored["keys"][stored["count"] > 0])
    assert (stored["keys"][stored["count"] == 0] == np.inf).all()


def test_the_same_seed_gives_the_same_files_from_any_kind_of_file(tmp_path):
    keys = blobs([200, 300, 400])
    sources = [
        saved(tmp_path, keys),
        saved(tmp_path, keys, "keys.npz"),
        saved(tmp_path, keys.astype(np.float64), "wide.npy"),
        saved(tmp_path, np.asfortranarray(keys), "columns.npy"),
    ]
    found = []
    for number, source in enumerate(sources):
        build_bank(source, tmp_path / f"bank{number}", levels=2, branch=5, elements=3)
        found.append(contents(tmp_path / f"bank{number}"))
    assert found[0] == found[1] == found[2] == found[3]
    build_bank(sources[0], tmp_path / "other", levels=2, branch=5, elements=3, seed=1)
    assert contents(tmp_path / "other") != found[0]


def test_small_chunks_change_nothing(tmp_path, monkeypatch):
    source = saved(tmp_path, blobs([200, 300, 400]), "keys.npz")
    build_bank(source, tmp_path / "one", levels=2, branch=4)
    monkeypatch.setattr(hierarchy, "CHUNK_BYTES", 1000)
    monkeypatch.setattr("edgemem.bank.building.keys.CHUNK_BYTES", 1000)
    build_bank(source, tmp_path / "two", levels=2, branch=4)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_progress_ends_at_the_total_of_every_stage(tmp_path):
    seen = {}
    build_bank(
        saved(tmp_path, blobs([50, 60])), tmp_path / "bank", levels=2, branch=3,
        progress=lambda stage, done, total: seen.update({stage: (done, total)}),
    )  # fmt: skip
    assert seen == {"check keys": (110, 110), "level 1 of 2": (1, 1), "level 2 of 2": (3, 3)}


def test_nothing_is_left_behind_and_the_old_bank_stays_after_an_error(tmp_path, monkeypatch):
    source = saved(tmp_path, blobs([50, 60]))
    build_bank(source, tmp_path / "bank", levels=1, branch=3)
    before = contents(tmp_path / "bank")

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hierarchy, "write_level", fail)
    with pytest.raises(InputError, match="No space left"):
        build_bank(source, tmp_path / "bank", levels=2, branch=3)
    assert contents(tmp_path / "bank") == before
    assert {path.name for path in tmp_path.iterdir()} == {"bank", "keys.npy"}


@pytest.mark.parametrize(
    "options",
    [
        {"levels": 0}, {"branch": 1}, {"levels": 10**9}, {"levels": 7}, {"elements": -1},
        {"storage": "int4"},
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(tmp_path, options):
    with pytest.raises(InputError):
        build_bank(saved(tmp_path, blobs([9])), tmp_path / "bank", **options)


def test_a_folder_of_other_things_is_not_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="other files"):
        build_bank(saved(tmp_path, blobs([9])), tmp_path / "mine")
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def refused(path, folder):
    with pytest.raises(InputError) as caught:
        open_keys(path, folder, lambda done, total: None)
    return str(caught.value)


@pytest.mark.parametrize("name", ["bad.npy", "bad.npz"])
def test_keys_that_do_not_fit_are_refused(tmp_path, name):
    for keys in (np.zeros(3), np.zeros((0, 3)), np.zeros((3, 0)), np.zeros((3, 3), int)):
        assert "no readable keys" in refused(saved(tmp_path, keys, name), tmp_path)
    for bad in (np.nan, np.inf, 1e39):
        keys = np.zeros((9, 2))
        keys[7, 1] = bad
        assert "key 7" in refused(saved(tmp_path, keys, name), tmp_path)
    path = saved(tmp_path, np.zeros((90, 20)), name)
    path.write_bytes(path.read_bytes()[:-60])
    assert "no readable keys" in refused(path, tmp_path)
    path.write_bytes(b"")
    assert "no readable keys" in refused(path, tmp_path)
    assert "does not exist" in refused(tmp_path / "none.npy", tmp_path)


def test_an_archive_without_keys_or_with_a_lying_size_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", x=np.zeros((3, 2)))
    assert "no readable keys" in refused(tmp_path / "other.npz", tmp_path)
    np.save(tmp_path / "keys.npy", np.zeros((3, 2), np.float32))
    content = (tmp_path / "keys.npy").read_bytes().replace(b"(3, 2)", b"(3, 9)")
    with zipfile.ZipFile(tmp_path / "lying.npz", "w") as archive:
        archive.writestr("keys.npy", content)
    assert "bytes are not" in refused(tmp_path / "lying.npz", tmp_path)
