"""What the tests of a device take for the truth is what transformers says."""

import json

import numpy as np
from build_language_bundle import FOLDER, recorded
from language_models import tiny

import edgemem
from edgemem.models.memory.anchor import weights_hash
from edgemem.models.memory.feed_forward import named_layers


def test_recorded_answers_are_those_of_transformers():
    network = tiny(num_hidden_layers=2)
    with edgemem.open_language(FOLDER / "tiny.edgemem", threads=1) as runtime:
        manifest = runtime.bundle.manifest
        assert manifest.anchor == weights_hash(network)
        spec = manifest.memories
        found = recorded(named_layers(network, spec), network, spec, runtime)
    expected = json.loads((FOLDER / "answers.json").read_text(encoding="utf-8"))
    assert found["answers"] == expected["answers"]
    for block, losses in expected["losses"].items():
        np.testing.assert_allclose(found["losses"][block], losses, rtol=1e-4, atol=1e-5)
