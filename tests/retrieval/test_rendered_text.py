"""Rendered text: printed lines are seen in either colour, and drawings are not taken for text."""

from __future__ import annotations

import pytest
from PIL import Image, ImageDraw, ImageFont
from support.drawings import COLOURS, SHAPES, draw

from react_pipeline.retrieval.rendered_text import text_fraction


@pytest.mark.parametrize(
    ("ground", "ink"), [("white", "black"), ("black", "white"), ("navy", "yellow")]
)
@pytest.mark.parametrize("size", [20, 36])
def test_a_printed_line_covers_about_its_own_part_of_picture(
    ground: str, ink: str, size: int
) -> None:
    image = Image.new("RGB", (384, 384), ground)
    font = ImageFont.load_default(size=size)
    text = "the best summer garden"
    ImageDraw.Draw(image).text((10, 150), text, ink, font)
    left, top, right, bottom = font.getbbox(text)
    expected = min(right - left, 374) * (bottom - top) / 384**2
    assert 0.5 * expected < text_fraction(image) < 1.5 * expected


@pytest.mark.parametrize("shape", SHAPES)
def test_drawings_and_empty_pictures_have_none(shape: str) -> None:
    for colour in COLOURS:
        assert text_fraction(draw(shape, colour, 0)) == 0
    assert text_fraction(Image.new("RGB", (1, 300), "white")) == 0
