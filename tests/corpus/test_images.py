from __future__ import annotations

import io
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from PIL import Image

from react_pipeline.corpus.images import BadImage, decode_image, decode_what_is_there

MAX_PIXELS = 1_000_000


def saved(image: Image.Image, extension: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=extension, **options)
    return buffer.getvalue()


def test_short_files_decoded_by_many_threads_are_refused() -> None:
    data = saved(Image.effect_noise((200, 200), 80).convert("RGB"), "JPEG")[:-2_000]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: decode_what_is_there(data, MAX_PIXELS), range(40)))
    assert {image.size for image in found} == {(200, 200)}
    with pytest.raises(BadImage, match="truncated"):
        decode_image(data, MAX_PIXELS)


WHITE = (255, 255, 255)
MODES: list[tuple[str, Any, str, dict[str, Any], Any]] = [
    # mode, colour, format and options of the file, and what every pixel becomes
    ("RGB", (10, 20, 30), "PNG", {}, (10, 20, 30)),
    ("L", 7, "PNG", {}, (7, 7, 7)),
    ("1", 1, "PNG", {}, WHITE),
    ("RGBA", (0, 0, 0, 51), "PNG", {}, (204, 204, 204)),
    ("RGBA", (0, 0, 0, 0), "WEBP", {}, WHITE),
    ("LA", (0, 0), "PNG", {}, WHITE),
    ("P", 0, "PNG", {"transparency": 0}, WHITE),
    ("RGB", (1, 2, 3), "PNG", {"transparency": (1, 2, 3)}, WHITE),
    ("CMYK", (0, 255, 255, 0), "TIFF", {}, (255, 0, 0)),
    ("CMYK", (0, 255, 255, 0), "JPEG", {}, (254, 0, 0)),
    ("I;16", 0x8040, "PNG", {}, (0x80,) * 3),
    ("P", 0, "GIF", {}, (0, 0, 0)),
]


# FAULTS 13
@pytest.mark.parametrize(("mode", "colour", "extension", "options", "expected"), MODES)
def test_every_mode_becomes_rgb_in_one_way(
    mode: str, colour: Any, extension: str, options: Any, expected: Any
) -> None:
    data = saved(Image.new(mode, (6, 4), colour), extension, **options)
    image = decode_image(data, MAX_PIXELS)
    assert (image.mode, image.size) == ("RGB", (6, 4))
    assert image.getpixel((3, 2)) == pytest.approx(expected, abs=1)


def test_a_mode_without_a_known_meaning_is_refused() -> None:
    with pytest.raises(BadImage, match="unsupported_mode: LAB"):
        decode_image(saved(Image.new("LAB", (6, 4)), "TIFF"), MAX_PIXELS)


@pytest.mark.parametrize("extension", ["PNG", "WEBP", "JPEG", "TIFF"])
def test_exif_orientation_is_applied(extension: str) -> None:
    image = Image.new("RGB", (32, 16), "white")
    image.paste("red", (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    turned = decode_image(saved(image, extension, exif=exif), MAX_PIXELS)
    assert turned.size == (16, 32)
    assert turned.getpixel((12, 4))[1] < 60 and turned.getpixel((4, 4))[1] > 200


def test_exif_that_cannot_be_written_again_is_read() -> None:
    tags = struct.pack("<HHIHxx", 0x0112, 3, 1, 6) + struct.pack("<HHI4s", 0x0128, 2, 2, b"2")
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + tags + bytes(4)
    image = decode_image(saved(Image.new("RGB", (32, 16)), "JPEG", exif=exif), MAX_PIXELS)
    assert image.size == (16, 32)


def test_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for extension in ("GIF", "WEBP", "PNG"):
        data = saved(frames[0], extension, save_all=True, append_images=frames[1:])
        red, _, blue = decode_image(data, MAX_PIXELS).getpixel((4, 4))
        assert red > 200 and blue < 50


def test_programs_are_never_run_for_a_format() -> None:
    with pytest.raises(BadImage, match="not_an_image"):
        decode_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", MAX_PIXELS)
