"""From a stream and from devices to a bundle with levels, as a user does it."""

import json
import shutil

import numpy as np
import pytest
from commands import run_command

import edgemem
from edgemem.bundle.opening import open_bundle
from edgemem.demo import BUNDLE
from edgemem.runtime.contexts.source_in_bundle import source_keys
from edgemem.testing import session_of

THREADS = ("--threads", 1)


def run(*arguments, code=0):
    """Standard output and standard error of a command that ends with `code`."""
    finished = run_command(*arguments)
    assert finished.returncode == code, finished.stderr
    assert "Traceback" not in finished.stderr
    return finished.stdout, finished.stderr


def refused(*arguments):
    """The one line that a command ends with."""
    lines = run(*arguments, code=2)[1].splitlines()
    assert sum(line.startswith("edgemem: ") for line in lines) == 1
    return lines[-1]


@pytest.fixture
def stream(tmp_path, digits_stream):
    np.savez(tmp_path / "stream.npz", x=digits_stream[0][:650])
    return tmp_path / "stream.npz"


@pytest.mark.slow
def test_from_a_stream_to_a_bundle_with_levels(tmp_path, stream):
    out, _ = run(
        "bank", "keys", BUNDLE, "--input", stream, "--out", tmp_path / "keys.npz", *THREADS,
    )  # fmt: skip
    assert "40 keys of 48 numbers, 0 left out" in out and "bank build" in out
    out, _ = run(
        "bank", "build", tmp_path / "keys.npz", "--bundle", BUNDLE, "--levels", 2,
        "--branch", 3, "--storage", "int8", "--out", tmp_path / "bank", "--json",
    )  # fmt: skip
    assert [level["elements"] for level in json.loads(out)["levels"]] == [42_972] * 2
    new = tmp_path / "new.edgemem"
    out, _ = run("bank", "ship", tmp_path / "bank", BUNDLE, "--out", new, "--json")
    made = json.loads(out)
    assert made["identity"] == open_bundle(new).identity and len(made["levels"]) == 2
    assert "9 files as written" in run("verify", new, *THREADS)[0]
    assert "as it was written" in run("bank", "verify", new)[0]
    assert json.loads(run("bank", "ls", new, "--json")[0])["branch"] == 3
    assert "bank/level-2.safetensors" in run("inspect", new)[0]
    text = run("bank", "ship", new, BUNDLE, "--out", tmp_path / "again.edgemem")[0]
    assert "State files of the old bundle do not go on" in text and made["identity"][:12] in text


def test_keys_are_those_that_the_device_compares(tmp_path, stream, digits_stream):
    out = tmp_path / "keys.npz"
    told, _ = run("bank", "keys", BUNDLE, "--input", stream, "--out", out, "--json", *THREADS)
    assert json.loads(told) == {"out": str(out), "keys": 40, "left_out": 0}
    with np.load(out) as data:
        keys = data["keys"]
    assert keys.dtype == np.float32 and keys.shape == (40, 48)
    with edgemem.open(BUNDLE, tmp_path / "s.db", threads=1) as runtime:
        result = runtime.step(digits_stream[0][:16])
        known = session_of(runtime).contexts.policy.known
    (context,) = known.values()
    assert result.events
    np.testing.assert_allclose(context.key, keys[0], atol=1e-4)
    assert np.linalg.norm(keys, axis=1).max() < 1000 * source_keys(open_bundle(BUNDLE)).novelty


@pytest.mark.slow
def test_from_devices_to_a_bundle_with_what_they_learnt(tmp_path, digits_stream):
    files = []
    for name, part in (("a", slice(0, 480)), ("b", slice(2000, 2480))):
        np.savez(tmp_path / f"{name}.npz", x=digits_stream[0][part])
        state, file = tmp_path / f"{name}.db", tmp_path / f"{name}.safetensors"
        run("run", BUNDLE, "--input", tmp_path / f"{name}.npz", "--state", state, *THREADS)
        run("bank", "export", state, "--out", file)
        files.append(file)
    bank = tmp_path / "bank"
    build = ("bank", "build", *files, "--levels", 2, "--branch", 2, "--out", bank)
    found = json.loads(run(*build, "--bundle", BUNDLE, "--json")[0])
    assert found["levels"][0]["elements"] == 42_972
    run("bank", "ship", bank, BUNDLE, "--out", tmp_path / "new.edgemem")
    run("verify", tmp_path / "new.edgemem", *THREADS)
    assert "needs the bundle" in refused(*build)
    assert "other bundle" in refused(*build, "--bundle", tmp_path / "new.edgemem")
    mixed = ("bank", "build", files[0], tmp_path / "a.npz", "--bundle", BUNDLE, "--out", bank)
    assert "are not all of edgemem bank export" in refused(*mixed)
    assert "is not the bundle's 42972" in refused(*build, "--bundle", BUNDLE, "--elements", 5)


def test_verify_of_a_bundle_hashes_its_levels(shipped_bundle):
    path = shipped_bundle / "bank/level-2.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "level-2.safetensors: does not have the hash" in refused("verify", shipped_bundle)
    assert "row 3" in refused("bank", "verify", shipped_bundle)
    run("inspect", shipped_bundle)


def test_keys_that_cannot_be_made_are_one_clear_error(tmp_path, stream, bundle, seal):
    def error(place=bundle, input_=stream, out="keys.npz"):
        return refused("bank", "keys", place, "--input", input_, "--out", tmp_path / out, *THREADS)

    assert "is no .npz" in error(out="keys.npy")
    assert "cannot be written" in error(out="none/keys.npz")
    np.savez(tmp_path / "short.npz", x=np.zeros((9, 1, 8, 8), np.uint8))
    assert "holds 9 frames, no full batch" in error(input_=tmp_path / "short.npz")
    np.savez(tmp_path / "wide.npz", x=np.zeros((99, 1, 9, 9), np.uint8))
    assert "this bundle takes" in error(input_=tmp_path / "wide.npz")
    assert "does not exist" in error(input_=tmp_path / "gone.npz")
    seal(bundle, lambda m: (m.update(source=None), m["files"].pop("source.safetensors")))
    (bundle / "source.safetensors").unlink()
    assert "has no source keys" in error()
    assert not (tmp_path / "keys.npz").exists()


def test_shipping_what_does_not_fit_is_one_clear_error(tmp_path, demo_levels, bundle):
    out = tmp_path / "new.edgemem"
    assert "has no level-1" in refused("bank", "ship", tmp_path / "none", bundle, "--out", out)
    assert "not a folder" in refused("bank", "ship", demo_levels, tmp_path / "no", "--out", out)
    assert "lie in each other" in refused("bank", "ship", demo_levels, bundle, "--out", bundle)
    shutil.rmtree(bundle / "bank")
    assert "generic" in refused("bank", "ship", demo_levels, bundle, "--out", out)
    assert not out.exists()


def test_help_shows_examples():
    for command in ("keys", "ship", "build"):
        assert f"Example: edgemem bank {command}" in run("bank", command, "--help")[0]
