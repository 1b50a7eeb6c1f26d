from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.drawings import draw

from react_pipeline.corpus.images import BadImage, contact_sheet, decode_image, decode_what_is_there

MAX_PIXELS = 1_000_000


def saved(image: Image.Image, extension: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=extension, **options)
    return buffer.getvalue()


def grey16(value: int) -> Image.Image:
    return Image.fromarray(np.full((4, 6), value, dtype=np.uint16))


def test_short_files_decoded_by_many_threads_are_refused() -> None:
    data = saved(Image.effect_noise((200, 200), 80).convert("RGB"), "JPEG")[:-2_000]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: decode_what_is_there(data, MAX_PIXELS), range(40)))
    assert {image.size for image, _ in found} == {(200, 200)}
    assert decode_what_is_there(data, MAX_PIXELS)[1]
    with pytest.raises(BadImage, match="truncated"):
        decode_image(data, MAX_PIXELS)


# FAULTS 13
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(saved(Image.new("RGB", (6, 4), (10, 20, 30)), "PNG"), (10, 20, 30), id="rgb"),
        pytest.param(saved(Image.new("L", (6, 4), 7), "PNG"), (7, 7, 7), id="grey"),
        pytest.param(saved(Image.new("1", (6, 4), 1), "PNG"), (255, 255, 255), id="one bit"),
        pytest.param(
            saved(Image.new("RGBA", (6, 4), (9, 9, 9, 0)), "PNG"),
            (255, 255, 255),
            id="transparent is white",
        ),
        pytest.param(
            saved(Image.new("RGBA", (6, 4), (0, 0, 0, 51)), "PNG"),
            (204, 204, 204),
            id="one fifth black",
        ),
        pytest.param(
            saved(Image.new("RGBA", (6, 4), (0, 0, 0, 0)), "WEBP"),
            (255, 255, 255),
            id="transparent webp",
        ),
        pytest.param(
            saved(Image.new("LA", (6, 4), (0, 0)), "PNG"), (255, 255, 255), id="grey with alpha"
        ),
        pytest.param(
            saved(Image.new("P", (6, 4), 0), "PNG", transparency=0),
            (255, 255, 255),
            id="clear palette",
        ),
        pytest.param(
            saved(Image.new("RGB", (6, 4), (1, 2, 3)), "PNG", transparency=(1, 2, 3)),
            (255, 255, 255),
            id="colour key",
        ),
        pytest.param(
            saved(Image.new("CMYK", (6, 4), (0, 255, 255, 0)), "TIFF"), (255, 0, 0), id="cmyk"
        ),
        pytest.param(
            saved(Image.new("CMYK", (6, 4), (0, 255, 255, 0)), "JPEG"), (254, 0, 0), id="cmyk jpeg"
        ),
        pytest.param(saved(grey16(0x8040), "PNG"), (0x80,) * 3, id="16 bits"),
        pytest.param(saved(Image.new("P", (6, 4), 0), "GIF"), (0, 0, 0), id="gif"),
    ],
)
def test_every_mode_becomes_rgb_in_one_way(data: bytes, expected: tuple[int, int, int]) -> None:
    image = decode_image(data, MAX_PIXELS)
    assert (image.mode, image.size) == ("RGB", (6, 4))
    assert image.getpixel((3, 2)) == pytest.approx(expected, abs=1)
    assert image.tobytes() == decode_image(data, MAX_PIXELS).tobytes()


@pytest.mark.parametrize("extension", ["PNG", "WEBP", "JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(extension: str, orientation: int) -> None:
    upright = Image.new("RGB", (32, 16), "white")
    upright.paste("red", (0, 0, 16, 8))
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(back[orientation]) if orientation in back else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode_image(saved(stored, extension, exif=exif), MAX_PIXELS)
    assert image.size == (32, 16)
    assert image.getpixel((4, 3))[1] < 60 and image.getpixel((24, 12))[1] > 200


def test_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for extension in ("GIF", "WEBP", "PNG"):
        data = saved(frames[0], extension, save_all=True, append_images=frames[1:])
        red, _, blue = decode_image(data, MAX_PIXELS).getpixel((4, 4))
        assert red > 200 and blue < 50


def test_programs_are_never_run_for_a_format() -> None:
    with pytest.raises(BadImage) as caught:
        decode_image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", MAX_PIXELS)
    assert caught.value.reason == "not_an_image"


def test_contact_sheet_shows_a_row_for_each_title(tmp_path: Path) -> None:
    images = [draw("circle", "red", seed) for seed in range(3)]
    contact_sheet(
        [("circle", images), ("nothing <b>here</b>\n", [])], tmp_path / "sheet.png", tile_pixels=40
    )
    sheet = decode_image((tmp_path / "sheet.png").read_bytes(), MAX_PIXELS)
    assert sheet.width >= 3 * 40 and sheet.height >= 2 * 40
    red = np.asarray(sheet)[..., 1] < 60
    assert red[:66].sum() > 100
