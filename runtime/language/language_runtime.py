"""What `edgemem.open_language` gives: a language model that fetches memories and generates."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

import numpy as np

from edgemem.bank.memories.memory_bank import FetchedMemory, MemoryBank
from edgemem.bank.memories.memory_path import read_path, shown_path
from edgemem.bank.memories.text_key import text_key
from edgemem.block import Block
from edgemem.bundle.text.text_opening import Memories, TextBundle, open_text_bundle
from edgemem.errors import InputError
from edgemem.printable import shown
from edgemem.runtime.engines.choice import EngineSettings
from edgemem.runtime.language.decoding import Decoding, open_decoder
from edgemem.runtime.language.generated import FETCHED, GENERIC, OFF, Generated, Memory
from edgemem.runtime.language.generation import Generation
from edgemem.runtime.language.tokens import Tokens
from edgemem.runtime.result import Event, EventKind, tell


def open_language(
    bundle: Path | str, *, threads: int = 0, deny: Collection[str] = ()
) -> LanguageRuntime:
    """Open a bundle of text and verify it.

    Args:
        bundle: folder written by `edgemem export-lm`.
        threads: of the inference engine; 0 = all cores.
        deny: paths of the bank, such as "3/51", whose blocks and all below are never read. This
            controls access to blocks; what else knows the same stays as it is.

    Returns:
        The runtime. Close it, or use it in a `with` block.

    Raises:
        BundleError: the bundle is missing, damaged, altered, or of frames.
        InputError: a number of threads that no engine should start, or a path that is none.
        MissingExtraError: the library tokenizers is not installed.
    """
    threads = EngineSettings(threads).threads
    paths = [read_path(path) for path in ([deny] if isinstance(deny, str) else deny)]
    opened = open_text_bundle(bundle)
    if paths and opened.memories is None:
        raise InputError(f"bundle {opened.path.name!r}", "has no bank to deny", "Leave deny out")
    name = opened.manifest.tokenizer
    tokens = Tokens(opened.files.read(opened.path / name), f"{opened.path.name}/{name}")
    bank = None
    if opened.memories is not None:
        bank = MemoryBank(opened.memories.folder, opened.memories.spec, paths)
    return LanguageRuntime(opened, tokens, bank, threads)


class LanguageRuntime:
    """A language model on a device. For one thread at a time; `open_language` makes one.

    Attributes:
        bundle: what was opened; `bundle.manifest.text` says how long a text may be.
    """

    def __init__(
        self, bundle: TextBundle, tokens: Tokens, bank: MemoryBank | None, threads: int
    ) -> None:
        self.bundle = bundle
        self._tokens, self._bank = tokens, bank
        self._closed = False
        try:
            self._graph = open_decoder(bundle, threads)
        except BaseException:
            self.close()
            raise

    def generate(
        self, prompt: str, how: Generation | None = None, *, block: str = FETCHED
    ) -> Generated:
        """Continue a text; iterate over what comes back to get pieces of the answer.

        The block is fetched once, by the key of the prompt. A damaged one is replaced by the
        generic block, which is an event of the answer and a warning in the log.

        Args:
            prompt: text to go on from.
            how: see `Generation`; None = its defaults.
            block: "fetched", "generic", "off" (the anchor alone), or a path such as "3/51".

        Raises:
            InputError: an empty prompt, one that does not fit into the context, or a block that
                is not there.
            BundleError: the graph fails.
        """
        ids = self._encoded(prompt)
        memory = self.memory(prompt, block)
        decoding = Decoding(self._graph, self.bundle, memory.arrays)
        text = self.bundle.manifest.text
        return Generated(decoding, ids, self._tokens.stream(ids), text, how or Generation(), memory)

    def losses(self, prompt: str, answer: str, *, block: str = FETCHED) -> list[float]:
        """Negative log-likelihood of each token of an answer after a prompt, in nats.

        Args:
            prompt: what comes before; its key chooses the block.
            answer: what is judged; prompt and answer are read as one text.
            block: as for `generate`.

        Raises:
            InputError: as `generate`; or answer and prompt together do not begin with the prompt's
                tokens, so that it has no tokens of its own.
            BundleError: the graph fails.
        """
        before, ids = self._encoded(prompt), self._encoded(prompt + answer)
        count = len(ids) - len(before)
        if ids[: len(before)] != before or count < 1:
            reason = "has no tokens of its own behind this prompt"
            raise InputError("answer", reason, "Let it begin with a space or on a new line")
        decoding = Decoding(self._graph, self.bundle, self.memory(prompt, block).arrays)
        logits = decoding.add(ids[:-1], count).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        sums = np.log(np.exp(logits).sum(axis=1))
        told = logits[np.arange(count), ids[len(before) :]]
        return [float(loss) for loss in sums - told]

    def memory(self, text: str, block: str = FETCHED) -> Memory:
        """The block that a text is read with; see `generate`.

        Raises:
            InputError: a block that is not there.
        """
        self._check_open()
        held = self.bundle.memories
        if held is None or self._bank is None:
            if block in (FETCHED, OFF):
                return Memory(OFF, Block({}))
            raise InputError(
                f"block {shown(block)}", "is of a bank, and the bundle has none", "Leave it out"
            )
        if block == OFF:
            return Memory(OFF, held.spec.inputs().zero())
        key = text_key(text, held.spec.key, held.weights) if block == FETCHED else None
        # Where no word tells where to look, none is better than any.
        if block == GENERIC or (key is not None and not key.any()):
            return Memory(GENERIC, held.generic)
        found = self._bank.at(read_path(block)) if key is None else self._bank.fetch(key)
        return _memory(found, held)

    def close(self) -> None:
        """Close the files of the bank; closing twice does no harm."""
        self._closed = True
        if self._bank is not None:
            self._bank.close()

    def __enter__(self) -> LanguageRuntime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _encoded(self, prompt: str) -> list[int]:
        self._check_open()
        ids, context = self._tokens.encode(prompt), self.bundle.manifest.text.context
        if len(ids) >= context:
            reason = f"has {len(ids):,} tokens; with one of an answer at most {context:,} fit"
            raise InputError("prompt", reason, "Shorten it")
        if max(ids) >= self.bundle.manifest.text.vocabulary:
            raise InputError("prompt", "has tokens that the model does not know", "Reword it")
        return ids

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("runtime", "is closed", "Open the bundle again")


def _memory(found: FetchedMemory, held: Memories) -> Memory:
    """What was fetched, or what takes its place."""
    if found.block is None:
        instead = "No block" if found.denied else "The generic block"
        told = f"{found.fault} {instead} is used instead."
        events = tell((Event(EventKind.DAMAGED, told, logging.WARNING),))
        if found.denied:  # the generic block was learnt from denied texts, too
            return Memory(OFF, held.spec.inputs().zero(), denied=True, events=events)
        return Memory(GENERIC, held.generic, events=events)
    if not found.path:
        return Memory(OFF, found.block, denied=found.denied)
    return Memory(FETCHED, found.block, shown_path(found.path), found.denied)
