"""Every family of models that is named in the docs, from its config to an answer on a device."""

import pytest
import torch
from language_models import CONFIGS, FAMILIES, export
from made_memories import TEXTS

import edgemem
from edgemem.export.language_models.text_parity import LIMIT

LENGTH = 30  # beyond the window of those that have one
QUICK = ("qwen2",)  # Llama and GPT-2 have tests of their own


@pytest.mark.parametrize(
    "family",
    [f if f in QUICK else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES],
)
def test_a_family_answers_as_in_transformers(tmp_path, family):
    exported = export(tmp_path, family)
    assert exported.parity.anchor < LIMIT and exported.parity.block < LIMIT
    with edgemem.open_language(exported.bundle, threads=1) as runtime:
        answer = runtime.generate(TEXTS[0], edgemem.Generation(LENGTH), block="off")
        answer.all()
        ids = torch.tensor([runtime._tokens.encode(TEXTS[0])])
    with torch.no_grad():
        found = exported.anchor.network.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=LENGTH, do_sample=False,
            pad_token_id=0,
        )  # fmt: skip
    assert answer.tokens == found[0, ids.shape[1] :].tolist()


def test_windows_are_shorter_than_the_answers():
    windows = [fields.get("sliding_window", LENGTH - 1) for _, fields in CONFIGS.values()]
    assert all(window < LENGTH for window in windows)
