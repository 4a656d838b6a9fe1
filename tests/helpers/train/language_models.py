"""Tiny language models of every family, random, in folders as transformers saves them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from made_memories import make_memories, spec_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from edgemem.export.language_models.text_bundle_writer import export_language
from edgemem.export.language_models.text_parity import TextParity
from edgemem.models.memory.anchor import Anchor, load_anchor
from edgemem.models.memory.feed_forward import FeedForward, feed_forward_layers, placed

VOCABULARY = 256 + 2
END = 0
SHARED = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 96,
    "eos_token_id": END,
    "bos_token_id": None,
    "pad_token_id": None,
    "initializer_range": 0.3,
}
GPT2 = {
    "vocab_size": VOCABULARY,
    "n_positions": 96,
    "n_embd": 16,
    "n_layer": 3,
    "n_head": 4,
    "eos_token_id": END,
    "bos_token_id": END,
    "initializer_range": 0.3,
}
CONFIGS = {
    "llama": (transformers.LlamaConfig, SHARED),
    "qwen2": (transformers.Qwen2Config, SHARED),
    "qwen3": (transformers.Qwen3Config, SHARED),
    "gemma": (transformers.GemmaConfig, SHARED),
    "gemma2": (transformers.Gemma2Config, SHARED | {"sliding_window": 8}),
    "gemma3": (
        transformers.Gemma3TextConfig,
        SHARED
        | {
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "mistral": (transformers.MistralConfig, SHARED | {"sliding_window": 8}),
    "smollm3": (transformers.SmolLM3Config, SHARED),
    "gpt2": (transformers.GPT2Config, GPT2),
}
FAMILIES = tuple(CONFIGS)


def tiny(family="llama", seed=0, **changes):
    """A random model of a family, in eval mode."""
    kind, fields = CONFIGS[family]
    torch.manual_seed(seed)
    config = kind(**(fields | changes))
    config._attn_implementation = "eager"
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def tokenizer():
    """Bytes as tokens, an end, and one word."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<end>", *alphabet, "th"]
    vocabulary = {name: number for number, name in enumerate(names)}
    made = Tokenizer(models.BPE(vocabulary, [("t", "h")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<end>"])
    return made


def save(folder, model):
    """Write a model and its tokenizer as Hugging Face does; the folder."""
    model.save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer(), eos_token="<end>"
    ).save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Exported:
    """A bundle, and all that it was made from."""

    bundle: Path
    folder: Path
    bank: Path
    anchor: Anchor
    layers: tuple[FeedForward, ...]
    made: Any
    parity: TextParity

    @property
    def spec(self):
        """Of its memories."""
        return self.made[0].memories.spec


def export(place, family="llama", **changes):
    """A bundle of a tiny model of a family, with random memories in its last two layers."""
    folder = save(place / "model", tiny(family, **changes))
    anchor = load_anchor(folder)
    layers = placed(feed_forward_layers(anchor.network), 2)
    spec = spec_of(
        anchor.sha256,
        anchor.tokenizer_sha256,
        layers=tuple(layer.name for layer in layers),
        width=layers[0].width,
        gated=layers[0].gated,
    )
    made = make_memories(place / "town.memories", spec, size=0.3, storage="float16")
    bundle = place / "tiny.edgemem"
    parity = export_language(folder, bundle, place / "town.memories")
    return Exported(bundle, folder, place / "town.memories", anchor, layers, made, parity)
