"""Keyword spotting that gets used to whoever speaks.

Without arguments, six words are spoken by generated voices in generated rooms; only the first voice
is like those that the model was trained on. Every answer is from before the update it leads to.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from features import features, microphone_words, wav_words
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from voices import SPEAKERS, WORDS, speak

sys.path.append(str(Path(__file__).resolve().parents[1]))
from score import Score

import edgemem
from edgemem.stopping import stopping

HERE = Path(__file__).parent
EXAMPLES = """examples:
  python examples/keyword_spotting/keywords.py
  python examples/keyword_spotting/keywords.py --input recordings --state voices.db
  python examples/keyword_spotting/keywords.py --input microphone
"""
Word = tuple[str, str, NDArray[np.float32]]  # speaker, word ("" = unknown), features


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--input", default="generated",
        help="generated (default), microphone, or a wav file or folder of them",
    )  # fmt: skip
    parser.add_argument("--bundle", type=Path, default=HERE / "keywords.edgemem")
    parser.add_argument("--state", type=Path, help="file to keep what is learnt in")
    parser.add_argument("--words", type=int, default=96, help="generated words of a visit")
    parser.add_argument("--visits", type=int, default=3, help="generated visits of each voice")
    parser.add_argument("--seed", type=int, default=1, help="of what is generated")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of the picture")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def generated(words: int, visits: int, seed: int, quiet: bool) -> Iterator[Word]:
    """Each voice speaks so many random words, and comes back; the voices take turns."""
    rng = np.random.default_rng(seed)
    turns = [name for _ in range(visits) for name in SPEAKERS for _ in range(words)]
    console = Console(stderr=True)
    for name in track(turns, "words", console=console, transient=True, disable=quiet):
        word = str(rng.choice(WORDS))
        voice, room = SPEAKERS[name]
        yield name, word, features(speak(word, voice, room, rng))


def words_of(options: argparse.Namespace) -> Iterator[Word]:
    """What `--input` asks for."""
    if options.input == "generated":
        if min(options.words, options.visits) < 1:
            raise edgemem.InputError("--words and --visits", "are too small", "Use 1 or more")
        return generated(options.words, options.visits, options.seed, options.json)
    if options.input == "microphone":
        return (("speaker", "", word) for word in microphone_words())
    return wav_words(Path(options.input))


def listen(options: argparse.Namespace) -> tuple[Score, float]:
    """Answer every word, and learn from it; the score and the milliseconds of a word."""
    score, seconds = Score("words"), 0.0
    tells = options.input != "generated" and not options.json
    with stopping() as stop, edgemem.open(options.bundle, options.state, threads=1) as runtime:
        labels = runtime.bundle.manifest.labels
        try:
            for speaker, word, frame in words_of(options):
                began = time.perf_counter()
                with stop.later():
                    result = runtime.step(frame)
                seconds += time.perf_counter() - began
                truth = labels.index(word) if word in labels else -1
                score.add(speaker, np.array([truth]), runtime.predict(frame, frozen=True), result)
                if tells:
                    tell(labels[result.labels[0]], result)
        except KeyboardInterrupt:  # how one stops listening
            pass
    return score, 1000 * seconds / max(score.frames, 1)


def tell(word: str, result: edgemem.Result) -> None:
    """One line for a word that was heard."""
    odds = np.exp(result.logits[0] - result.logits[0].max())
    events = " ".join(event.kind for event in result.events)
    print(f"{word:8} {odds.max() / odds.sum():6.1%}  {result.context:12} {events}", flush=True)


def main() -> int:
    """Exit code 2 for bad input, with one line that says what and why."""
    options = arguments()
    try:
        score, milliseconds = listen(options)
        picture = score.draw(options.out / "keywords.png", "Six words by other voices", window=50)
    except edgemem.EdgeMemError as error:
        print(f"keywords.py: {error}", file=sys.stderr)
        return 2
    score.show(options.json, picture, milliseconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
