"""Images from untrusted bytes: safe decoding into one deterministic form, and contact sheets.

Does not belong here: where the bytes come from, what becomes of a bad image, a model's own
preprocessing.
"""

import base64
import io
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import (
    Image,
    ImageDraw,
    ImageFile,
    ImageFont,
    ImageOps,
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401 - Pillow only knows formats by name whose plugin was imported
)

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM", "TIFF")
"""What is decoded. Pillow knows more, some of which run other programs (EPS)."""

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
"""Of files that are looked at in a folder, in lower case."""

MAX_ASPECT_RATIO = 100
"""A longer strip is refused: resizing its short side to a model's input makes the long one
enormous.
"""

LAZY_PIXELS = 1 << 24
"""The largest image that may come undecoded."""

THUMBNAIL_PIXELS = 88
TILE_GAP = 4
MANY_PIXELS = 1 << 30
"""Guards memory alone: what is shown or trained on was decoded before under the configured limit.
"""

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
_PLAIN_MODES = ("RGB", "1", "L", "P", "RGBX", "CMYK", "YCbCr", "HSV")

_tolerance = threading.Lock()
"""Pillow has one setting in a process for files that are truncated."""


class BadSample(Exception):  # noqa: N818 - names what was met; caught and counted, it never reaches a user
    """A sample that is skipped.

    Attributes:
        reason: `no_image`, `no_caption`, `empty_caption`, `caption_not_utf8`, `too_many_bytes`, or
            one of `BadImage`.
        detail: What exactly, for the ledger.
        attempts: How often it was tried to get it.
    """

    def __init__(self, reason: str, detail: str = "", attempts: int = 1) -> None:
        super().__init__(reason, detail, attempts)
        self.reason, self.detail, self.attempts = reason, detail, attempts

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


class BadImage(BadSample):
    """Bytes that give no usable image.

    Its reason is `empty`, `not_an_image`, `truncated`, `corrupt`, `too_many_pixels`,
    `too_elongated`, `too_slow`, `too_much_memory`, `killed_decoder` or
    `unsupported_mode`.
    """


def decode_image(data: bytes, max_pixels: int, *, lazy: bool = False) -> Image.Image:
    """Decode an image file into RGB, 8 bits a channel; equal bytes give equal pixels.

    Animations give their first frame; EXIF orientation is applied; transparency is composited on
    white; 16 bits are cut to the upper 8; CMYK is converted as Pillow does, without colour
    profiles.

    Args:
        max_pixels: Cap on width times height, checked before a pixel is decoded. Pillow's own limit
            (179 million) holds above it.
        lazy: An upright RGB JPEG may come undecoded, so that `draft` can still have it decoded at a
            half, a quarter or an eighth of its size; its size and first use are those of any image.

    Raises:
        BadImage: With a reason.
    """
    if not data:
        raise BadImage("empty")
    try:
        with warnings.catch_warnings():
            # Pillow's warnings about odd files: what it then decodes is used, what it cannot decode
            # is counted.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            _check_size(*image.size, max_pixels)
            if lazy and _can_wait(image):
                return image
            image.load()
            # After load(): Pillow turns a TIFF upright itself and drops the tag. Not by
            # `exif_transpose`, which writes the tags again and fails on unusual ones.
            turn = _UPRIGHT.get(image.getexif().get(_EXIF_ORIENTATION, 1))
            return _rgb(image if turn is None else image.transpose(turn))
    except BadImage:
        raise
    except MemoryError as error:
        raise BadImage("too_much_memory") from error
    except UnidentifiedImageError as error:
        raise BadImage("not_an_image", f"begins with {data[:16]!r}") from error
    except Image.DecompressionBombError as error:
        raise BadImage("too_many_pixels", str(error)) from error
    # Decoders of hostile bytes raise nearly anything (SyntaxError, struct.error, zlib.error, ...).
    except Exception as error:
        reason = "truncated" if "truncated" in str(error).lower() else "corrupt"
        raise BadImage(reason, f"{type(error).__name__}: {error}"[:200]) from error


def decode_what_is_there(data: bytes, max_pixels: int) -> Image.Image:
    """Decode a file, or the part that is there where it ends too early.

    Threads that decode at the same time may tolerate it too.
    """
    try:
        return decode_image(data, max_pixels)
    except BadImage as error:
        if error.reason != "truncated":
            raise
    with _tolerance:
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            return decode_image(data, max_pixels)
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False


def image_extension(data: bytes) -> str:
    """Return the extension of an image file in a shard, by its content: `png`, `webp`, or for
    all others `jpg`.
    """
    if data.startswith(b"\x89PNG"):
        return "png"
    return "webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else "jpg"


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[Image.Image]]], path: Path, tile_pixels: int = 96
) -> None:
    """Write a PNG with a row of RGB images for each title, fitted into squares of `tile_pixels`."""
    font = ImageFont.load_default(size=14)
    step, title_pixels = tile_pixels + TILE_GAP, 22
    columns = max([len(images) for _, images in rows], default=1)
    widest = max([int(font.getlength(title)) for title, _ in rows], default=0)
    width = max(columns * step, min(widest, 2_000)) + 2 * TILE_GAP
    sheet = Image.new("RGB", (width, max(len(rows), 1) * (title_pixels + step)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (title, images) in enumerate(rows):
        top = number * (title_pixels + step)
        pen.text((TILE_GAP, top + 2), " ".join(title.split()), fill="black", font=font)
        for column, image in enumerate(images):
            tile = ImageOps.pad(image, (tile_pixels, tile_pixels), color="white")
            sheet.paste(tile, (TILE_GAP + column * step, top + title_pixels))
    sheet.save(path, format="PNG")


def thumbnail(image: bytes) -> str:
    """Return a small JPEG of an image file, as a data URI for pages.

    Raises:
        BadImage: If the bytes are no image that can be shown.
    """
    small = ImageOps.contain(decode_image(image, MANY_PIXELS), (THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=78)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise BadImage("too_many_pixels", f"{width} x {height}, allowed are {max_pixels:,}")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise BadImage("too_elongated", f"{width} x {height}")


def _can_wait(image: Image.Image) -> bool:
    plain = (
        image.format == "JPEG" and image.mode == "RGB" and image.width * image.height <= LAZY_PIXELS
    )
    return plain and image.getexif().get(_EXIF_ORIENTATION, 1) == 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16-bit values at 255, which turns most of an image white.
        values = np.asarray(image)
        values = values if values.dtype.kind == "u" else values.clip(0, 65_535)
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    if image.mode not in _PLAIN_MODES:
        raise BadImage("unsupported_mode", image.mode)
    return image if image.mode == "RGB" else image.convert("RGB")
