"""Writes the bundle of tests/runtime/language anew, and what transformers answers with its blocks.

So that the tests of a device need neither torch nor transformers.
python tests/helpers/train/build_language_bundle.py
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "runtime" / "language"
LENGTH = 20
BLOCKS = ("off", "generic", "fetched", "0", "1/2")
PROMPT, TEXT = "The river", " Oder floods the meadows"


def recorded(layers, network, spec, runtime):
    """What transformers says greedily and of a text, with the blocks that a runtime takes."""
    import torch
    from made_memories import TEXTS

    from edgemem.block import Block
    from edgemem.models.memory.feed_forward import tensors_of, with_block

    def beside(prompt, block):
        memory = runtime.memory(prompt, block)
        return memory, with_block(layers, spec, tensors_of(Block(memory.arrays)))

    found = []
    for prompt in ("The river Oder", *TEXTS[2:5:2], "é"):
        ids = torch.tensor([runtime._tokens.encode(prompt)])
        for block in BLOCKS:
            memory, hooked = beside(prompt, block)
            with torch.no_grad(), hooked:
                answer = network.generate(
                    ids, attention_mask=torch.ones_like(ids), max_new_tokens=LENGTH,
                    do_sample=False, pad_token_id=0,
                )  # fmt: skip
            tokens = answer[0, ids.shape[1] :].tolist()
            about = {"prompt": prompt, "block": block, "path": memory.path}
            found.append(about | {"ids": ids[0].tolist(), "tokens": tokens})
    losses = {}
    ids = torch.tensor([runtime._tokens.encode(PROMPT + TEXT)])
    start = len(runtime._tokens.encode(PROMPT))
    for block in BLOCKS[:3]:
        with torch.no_grad(), beside(PROMPT, block)[1]:
            logits = network(input_ids=ids, use_cache=False).logits[0, start - 1 : -1]
        told = torch.nn.functional.cross_entropy(logits, ids[0, start:], reduction="none")
        losses[block] = [round(float(loss), 6) for loss in told]
    return {"answers": found, "losses": losses}


def main():
    """Export, record, and put both in their place."""
    from language_models import export

    import edgemem

    with tempfile.TemporaryDirectory() as place:
        exported = export(Path(place), num_hidden_layers=2)
        with edgemem.open_language(exported.bundle) as runtime:
            answers = recorded(exported.layers, exported.anchor.network, exported.spec, runtime)
        shutil.rmtree(FOLDER / "tiny.edgemem", ignore_errors=True)
        shutil.copytree(exported.bundle, FOLDER / "tiny.edgemem")
    (FOLDER / "answers.json").write_text(json.dumps(answers, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    main()
