"""`edgemem verify` of bundles of text: what this device computes beside what transformers said."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import run_command
from made_memories import make_memories, spec_of
from sealing import reseal

from edgemem.block import pack, unpack
from edgemem.bundle.text.text_opening import open_text_bundle
from edgemem.bundle.text.text_reference import read_text_reference
from edgemem.errors import BundleError
from edgemem.runtime.language.text_verification import verify_text


def changed(bundle, name, change):
    """Alter arrays of a file and seal the bundle again, as whoever does it on purpose."""
    path = bundle / name
    arrays = dict(unpack(path.read_bytes(), name, BundleError, ""))
    path.write_bytes(pack(change(arrays)))
    reseal(bundle)
    return bundle


def test_logits_are_those_of_transformers(tiny):
    found = verify_text(tiny, threads=1)
    assert set(found.differences) == {"anchor", "generic"}
    assert max(found.differences.values()) <= 1e-5 < found.limit


def test_the_command_tells_of_every_block(tiny):
    found = run_command("verify", tiny)
    assert found.returncode == 0 and "generic" in found.stdout and "anchor" in found.stdout
    told = json.loads(run_command("verify", tiny, "--json").stdout)
    assert told["files"] == len(open_text_bundle(tiny).manifest.files)
    assert 0 < told["differences"]["generic"] <= told["limit"]


def test_another_generic_block_is_noticed(copied):
    def louder(arrays):
        return {name: 2 * array for name, array in arrays.items()}

    changed(copied, "bank/generic.safetensors", louder)
    with pytest.raises(BundleError, match="logits of the generic differ by"):
        verify_text(copied)


def test_other_weights_are_noticed(copied):
    path = copied / "weights.bin"
    weights = np.fromfile(path, np.float32)
    (weights * np.float32(1.01)).tofile(path)
    reseal(copied)
    with pytest.raises(BundleError, match="logits of the anchor differ by"):
        verify_text(copied)
    found = run_command("verify", copied)
    assert found.returncode == 2 and "Traceback" not in found.stderr


def test_a_damaged_level_is_found(copied):
    path = copied / "bank" / "level-2.safetensors"
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    found = run_command("verify", copied)
    assert found.returncode == 2 and "level-2.safetensors" in found.stderr


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a | {"ids": a["ids"][:3]},
        lambda a: a | {"ids": a["ids"] + 10_000},
        lambda a: a | {"ids": -1 - a["ids"]},
        lambda a: a | {"ids": np.zeros(0, np.int64)},
        lambda a: a | {"ids": a["ids"].astype(np.float32)},
        lambda a: a | {"anchor": a["anchor"][:, :-1]},
        lambda a: a | {"anchor": a["anchor"] * np.float32(np.inf)},
        lambda a: {name: array for name, array in a.items() if name != "generic"},
        lambda a: a | {"more": a["ids"]},
    ],
)
def test_a_reference_that_cannot_be_is_refused(copied, change):
    changed(copied, "reference.safetensors", change)
    with pytest.raises(BundleError, match=r"copy.edgemem/reference.safetensors"):
        verify_text(copied)


def test_a_reference_that_is_not_there_or_too_large_is_refused(copied):
    with pytest.raises(BundleError, match="'none' is not listed"):
        reseal(copied, lambda document: document.update(reference="none"))
        open_text_bundle(copied)
    (copied / "reference.safetensors").write_bytes(bytes(5 << 20))
    reseal(copied, lambda document: document.update(reference="reference.safetensors"))
    with pytest.raises(BundleError, match="has more than 4,194,304 bytes"):
        open_text_bundle(copied)


def test_a_bundle_without_memories_has_no_generic_block(tiny):
    content = Path(tiny / "reference.safetensors").read_bytes()
    arrays = dict(unpack(content, "x", BundleError, ""))
    size = open_text_bundle(tiny).manifest.text.vocabulary
    del arrays["generic"]
    found = read_text_reference(pack(arrays), "x", size, memories=False)
    assert set(found.logits) == {"anchor"}
    assert read_text_reference(pack(found.arrays()), "x", size, memories=False).ids.tolist()


def test_a_bank_of_memories_is_hashed(tmp_path):
    make_memories(tmp_path / "bank", spec_of())
    found = run_command("verify", tmp_path / "bank")
    assert found.returncode == 0 and "files as written" in found.stdout
    path = tmp_path / "bank" / "bank" / "level-1.safetensors"
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    found = run_command("verify", tmp_path / "bank")
    assert found.returncode == 2 and "level-1.safetensors" in found.stderr
