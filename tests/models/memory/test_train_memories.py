"""A bank is trained whose memories help with their own texts, and not with those of a sibling."""

import json
import random

import numpy as np
import pytest
import torch
from commands import run_command
from language_models import save, tiny

from edgemem.bank.levels.level_checks import verify_bank
from edgemem.bank.memories.memory_bank import MemoryBank
from edgemem.bank.memories.text_key import text_key
from edgemem.bundle.text.text_opening import open_memories
from edgemem.errors import InputError
from edgemem.models.memory.anchor import load_anchor
from edgemem.models.memory.documents import read_windows
from edgemem.models.memory.feed_forward import named_layers, tensors_of
from edgemem.models.memory.memory_training import MemoryRecipe, loss_of
from edgemem.models.memory.train_memories import MemoryForm, train_memories

TOPICS = {"a": "abcdefg", "b": "hijklmn", "c": "opqrst", "d": "uvwxyz"}
FORM = MemoryForm(ranks=(3, 3), branch=2, layers=2, window=40, key_length=256, storage="float32")
RECIPE = MemoryRecipe(epochs=24, batch=2, rate=0.02)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("anchor") / "model", tiny(num_hidden_layers=2))


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """Two documents a topic, each of a few words of its own letters."""
    place, draw = tmp_path_factory.mktemp("documents"), random.Random(0)
    for name, letters in TOPICS.items():
        words = ["".join(draw.choices(letters, k=4)) for _ in range(5)]
        for number in range(2):
            text = " ".join(draw.choices(words, k=16))
            (place / f"{name}{number}.txt").write_text(text)
    return place


@pytest.fixture(scope="module")
def trained(folder, documents, tmp_path_factory):
    """The bank, and what was told of it."""
    out = tmp_path_factory.mktemp("bank") / "letters.memories"
    stages = []
    told = train_memories(
        folder, documents, out, FORM, RECIPE, lambda stage, *_: stages.append(stage)
    )
    assert len(set(stages)) == 3 and stages[-1] == "generic block"
    return open_memories(out), told


@torch.no_grad()
def losses(folder, documents, memories):
    """Loss of each window with the block that a device fetches, and with that of every other."""
    anchor, spec = load_anchor(folder), memories.spec
    layers = named_layers(anchor.network, spec)
    bank = MemoryBank(memories.folder, spec)
    windows = read_windows(documents, anchor.tokenizer, FORM.window)
    fetched = [bank.fetch(text_key(w.text, spec.key, memories.weights)) for w in windows]
    found = np.array(
        [
            [loss_of(anchor, layers, spec, tensors_of(f.block), [w]).item() for f in fetched]
            for w in windows
        ]
    )
    plain = [loss_of(anchor, layers, spec, tensors_of(spec.inputs().zero()), [w]).item()
             for w in windows]  # fmt: skip
    generic = [loss_of(anchor, layers, spec, tensors_of(memories.generic), [w]).item()
               for w in windows]  # fmt: skip
    bank.close()
    topics = np.array([window.document[0] for window in windows])
    return found, np.array(plain), np.array(generic), topics, [f.path for f in fetched]


def test_a_fetched_memory_helps_with_its_own_text_and_a_siblings_does_not(
    folder, documents, trained
):
    bank, told = trained
    found, plain, generic, topics, paths = losses(folder, documents, bank.memories)
    own = np.diag(found)
    assert (own < plain - 1.0).all() and own.mean() < generic.mean() - 0.1
    for row, topic in enumerate(topics):
        others = [n for n, path in enumerate(paths) if path != paths[row] and topics[n] != topic]
        assert others and (found[row, others] > own[row] + 1.0).all(), topic
    siblings = [
        (one, other)
        for one, path in enumerate(paths)
        for other, beside in enumerate(paths)
        if path[0] == beside[0] and path != beside and topics[one] != topics[other]
    ]
    assert siblings  # of one subtree, so that level 2 tells them apart
    np.testing.assert_allclose(
        [told.anchor, told.fetched, told.generic],
        [plain.mean(), own.mean(), generic.mean()],
        rtol=1e-4,
    )
    assert told.windows == len(plain) and told.nodes == (2, 4)


def test_the_anchor_is_as_it_was_and_the_bank_is_whole(folder, trained):
    bank, _ = trained
    assert bank.manifest.memories.anchor == load_anchor(folder).sha256
    assert list(verify_bank(bank.memories.folder)) == []
    assert bank.manifest.trained_on["recipe"] == vars(RECIPE)


def test_the_same_seed_gives_the_same_bank(folder, documents, tmp_path):
    recipe = MemoryRecipe(epochs=1, batch=2, rate=0.02, seed=5)
    for name in ("one", "two"):
        train_memories(folder, documents, tmp_path / name, FORM, recipe)
    one, two = (open_memories(tmp_path / name) for name in ("one", "two"))
    assert one.manifest.files == two.manifest.files


def test_the_command_trains_a_bank(folder, documents, tmp_path):
    out = tmp_path / "letters.memories"
    found = run_command(
        "train-memories", folder, "--documents", documents, "--out", out, "--ranks", "2,1",
        "--branch", 2, "--layers", 1, "--placement", "uniform", "--window", 40, "--epochs", 2,
        "--json",
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    told = json.loads(found.stdout)
    assert told["fetched"] < told["anchor"] and told["out"] == str(out)
    spec = open_memories(out).manifest.memories
    assert [level.rank for level in spec.levels] == [2, 1] and len(spec.layers) == 1


@pytest.mark.parametrize(
    "content, reason",
    [
        ({}, "holds no documents"),
        ({"a.txt": b""}, "holds no text"),
        ({"a.txt": b" \n\t"}, "holds no text"),
        ({"a.txt": b"good", "b.md": b"caf\xe9"}, r"b\.md: is not UTF-8 \(at byte 3\)"),
        ({"a.pdf": b"%PDF"}, "holds no documents"),
    ],
)
def test_documents_that_are_none_are_refused(folder, tmp_path, content, reason):
    place = tmp_path / "documents"
    place.mkdir()
    for name, text in content.items():
        (place / name).write_bytes(text)
    with pytest.raises(InputError, match=reason):
        train_memories(folder, place, tmp_path / "bank", FORM, RECIPE)
    assert not (tmp_path / "bank").exists()


@pytest.mark.parametrize(
    "form, reason",
    [
        ({"ranks": ()}, "make no block"),
        ({"ranks": (0,)}, "make no block"),
        ({"layers": 9}, "cannot have memories"),
        ({"placement": "early"}, "is unknown"),
        ({"window": 96}, "do not fit into a context of 96"),
        ({"window": 1}, "teach nothing"),
        ({"branch": 1}, "make no tree"),
        ({"storage": "bfloat16"}, "is unknown"),
    ],
)
def test_a_form_that_cannot_be_is_refused(folder, documents, tmp_path, form, reason):
    form = MemoryForm(**(vars(FORM) | form))
    with pytest.raises(InputError, match=reason):
        train_memories(folder, documents, tmp_path / "bank", form, RECIPE)


@pytest.mark.parametrize(
    "recipe", [{"epochs": 0}, {"batch": 0}, {"rate": 0}, {"rate": float("nan")}, {"seed": -1}]
)
def test_a_recipe_that_cannot_be_is_refused(recipe):
    with pytest.raises(InputError, match=next(iter(recipe))):
        MemoryRecipe(**recipe)
