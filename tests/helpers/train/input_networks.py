"""Networks that take more than frames: a vector, a mask, token ids; with examples of their inputs.

Their norms are none of a batch, so that a step is plain torch on their own scales and shifts.
"""

import numpy as np
import torch
from torch import nn


class PictureAndVector(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6)
        self.hidden = nn.Linear(6 + 4, 8)
        self.after = nn.LayerNorm(8)
        self.answer = nn.Linear(8, 5)

    def forward(self, x, vector):
        seen = self.norm(self.conv(x)).relu().mean((2, 3))
        return self.answer(self.after(self.hidden(torch.cat([seen, vector], 1))))


class MaskedSequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 8)
        self.norm = nn.LayerNorm(8)
        self.answer = nn.Linear(8, 5)

    def forward(self, x, hidden_places):
        y = self.norm(self.inner(x)).relu()
        seen = (~hidden_places).unsqueeze(2).to(y.dtype)
        return self.answer((y * seen).sum(1) / seen.sum(1).clamp(min=1.0))


def bert():
    """A small classifier of text."""
    import transformers

    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=12, num_labels=3,
        attn_implementation="eager",
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def examples(name, count, seed=0):
    """Frames of a network of that name, and what comes beside them."""
    rng = np.random.default_rng(seed)
    if name == "vector":
        vectors = rng.normal(size=(count, 4)).astype(np.float32)
        return rng.random((count, 3, 6, 6), np.float32), {"vector": vectors}
    lengths = rng.integers(3, 9, (count, 1))
    if name == "mask":
        return rng.random((count, 8, 3), np.float32), {"hidden_places": np.arange(8) >= lengths}
    mask = (np.arange(8) < lengths).astype(np.int64)
    return rng.integers(0, 50, (count, 8)), {"attention_mask": mask}


NETWORKS = {"vector": PictureAndVector, "mask": MaskedSequence, "bert": bert}
