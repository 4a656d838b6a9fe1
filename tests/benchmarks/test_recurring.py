"""The streams of the recurring benchmark, and what it notes of them."""

import numpy as np
import pytest
from recurring_streams import BATCH, CONTEXTS, PROTOCOLS, VISIT, class_priors, visits
from recurring_ways import Noted

from edgemem.runtime.result import Event, make_result


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_priors_are_probabilities_of_the_classes_of_each_context(protocol):
    priors = class_priors(protocol, np.random.default_rng(0))
    assert priors.shape == (len(CONTEXTS), 10)
    np.testing.assert_allclose(priors.sum(1), 1)
    if protocol == "contradicting":
        even, odd = priors[::2].sum(0) > 0, priors[1::2].sum(0) > 0
        assert not (even & odd).any()
    elif protocol != "skewed":
        np.testing.assert_allclose(priors, 0.1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_visit_shows_every_context_with_frames_of_the_right_labels(protocol):
    labels = np.arange(200) % 10
    frames = {name: np.stack([labels, np.full(200, k)], 1) for k, name in enumerate(CONTEXTS)}
    seen = list(visits(protocol, 2, frames, labels, 3))
    order = [(visit, k, batch) for visit, k, batch, _, _ in seen]
    assert order == [
        (v, k, b) for v in range(2) for k in range(len(CONTEXTS)) for b in range(VISIT // BATCH)
    ]
    for _, k, _, x, y in seen:
        assert len(x) == BATCH
        np.testing.assert_array_equal(x[:, 0], y)
        assert set(x[:, 1]) == {k}


def test_batches_are_recognised_by_a_name_that_their_context_had_before():
    noted, logits = Noted(2), np.eye(2, dtype=np.float32)
    names = {(0, 0): "aab", (0, 1): "ccc", (1, 0): "bxa", (1, 1): "cac"}
    for (visit, k), found in names.items():
        for batch, name in enumerate(found):
            events = [Event("context", "")] if batch == 0 else []
            noted.take(visit, k, batch, make_result(logits, name, events), [0, 0], 0.1 + batch)
    figures = noted.figures(True)
    assert figures["recognised"] == 4 / 6
    assert figures["error"] == pytest.approx(12 * 0.5 / len(CONTEXTS) / noted.wrong.size)
    assert figures["switch_ms"] == pytest.approx(100 - 1600)
