"""Rendered text: lines for a recogniser and a classifier, pages for a detector, all by a seed.

Words are those of Python's own help texts, fonts are DejaVu as matplotlib has them: no data of
others is kept here. Frames are [n, 3, height, width] uint8.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics
from typing import NamedTuple

import matplotlib
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Frames = NDArray[np.uint8]
Colour = tuple[int, int, int]
FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono", "DejaVuSans-Oblique")
LINE, TURNED, PAGE = (48, 240), (48, 192), (192, 192)  # height, width
NUMBERS = 0.15  # share of words that are numbers
CONTRAST = 80  # least difference of ink and paper, of 255
MOST_ROWS = 4  # lines of a page


class Box(NamedTuple):
    """Of a line of text, in pixels; right and bottom are outside."""

    left: float
    top: float
    right: float
    bottom: float


class Lines(NamedTuple):
    """Frames with one line of text each."""

    frames: Frames
    texts: list[str]


class Pages(NamedTuple):
    """Frames with several lines each, and the boxes around these."""

    frames: Frames
    boxes: list[list[Box]]


def lines(count: int, seed: int) -> Lines:
    """Lines of text for a recogniser."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(count):
        found.append(_line(rng, LINE))
    return Lines(_stacked([image for image, _ in found]), [text for _, text in found])


def turned_lines(count: int, seed: int) -> tuple[Frames, NDArray[np.int64]]:
    """Lines for a classifier, and whether each stands upside down."""
    rng = np.random.default_rng(seed)
    images = [_line(rng, TURNED)[0] for _ in range(count)]
    turned = rng.integers(0, 2, count)
    return _stacked([i.rotate(180 * int(t)) for i, t in zip(images, turned, strict=True)]), turned


def pages(count: int, seed: int) -> Pages:
    """Pages for a detector."""
    rng = np.random.default_rng(seed)
    found = [_page(rng) for _ in range(count)]
    return Pages(_stacked([image for image, _ in found]), [boxes for _, boxes in found])


@cache
def words() -> tuple[str, ...]:
    """What the texts are made of."""
    return tuple(sorted(set(re.findall(r"\b[A-Za-z]{2,10}\b", " ".join(topics.values())))))


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(folder / f"{name}.ttf", size, layout_engine=ImageFont.Layout.BASIC)


def _word(rng: Generator) -> str:
    if rng.random() < NUMBERS:
        return str(rng.integers(10, 100_000))
    return str(rng.choice(words()))


def _fitting(rng: Generator, font: ImageFont.FreeTypeFont, width: float) -> str:
    """As many words as fit."""
    text = _word(rng)
    while font.getlength(longer := f"{text} {_word(rng)}") <= width:
        text = longer
    return text


def _line(rng: Generator, size: tuple[int, int]) -> tuple[Image.Image, str]:
    height, width = size
    while True:
        font = _font(str(rng.choice(FONTS)), int(rng.integers(24, 33)))
        text = _fitting(rng, font, width - 12)
        if font.getlength(text) <= width - 12:
            break
    paper, ink = _colours(rng)
    image = Image.new("RGB", (width, height), paper)
    place = (int(rng.integers(4, 9)), height // 2 + int(rng.integers(-2, 3)))
    ImageDraw.Draw(image).text(place, text, fill=ink, font=font, anchor="lm")
    return image, text


def _page(rng: Generator) -> tuple[Image.Image, list[Box]]:
    height, width = PAGE
    paper, ink = _colours(rng)
    image, boxes = Image.new("RGB", (width, height), paper), []
    draw, rows = ImageDraw.Draw(image), int(rng.integers(2, MOST_ROWS + 1))
    for row in range(rows):
        font = _font(str(rng.choice(FONTS)), int(rng.integers(16, 27)))
        left = int(rng.integers(6, width // 3))
        text = _fitting(rng, font, width - left - 6)
        place = (left, int((row + 0.5) * height / rows))
        draw.text(place, text, fill=ink, font=font, anchor="lm")
        box = draw.textbbox(place, text, font=font, anchor="lm")
        boxes.append(Box(box[0], box[1], min(box[2], width), box[3]))
    return image, boxes


def _colours(rng: Generator) -> tuple[Colour, Colour]:
    """Paper and ink, either of them the lighter one."""
    while True:
        paper, ink = rng.integers(0, 256, 3), rng.integers(0, 256, 3)
        if abs(float(paper.mean() - ink.mean())) >= CONTRAST:
            return _rgb(paper), _rgb(ink)


def _rgb(values: NDArray[np.int64]) -> Colour:
    red, green, blue = map(int, values)
    return red, green, blue


def _stacked(images: list[Image.Image]) -> Frames:
    return np.stack([np.asarray(image) for image in images]).transpose(0, 3, 1, 2).copy()
