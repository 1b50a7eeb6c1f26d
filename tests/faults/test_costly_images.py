"""FAULTS 54: small image files that would take gigabytes or minutes to decode, or kill who decodes
them.
"""

from __future__ import annotations

import io
import os
import resource
import signal
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.deadly_images import MARK, deadly_images

from react_pipeline.corpus import decoding_limits, decoding_process, images
from react_pipeline.corpus.decoding_process import decode_apart, load_batches
from react_pipeline.corpus.images import BadImage, decode_image

MAX_PIXELS = 1_000_000


def tiff_of_one_tile(side: int) -> bytes:
    """10 x 10 pixels in a tile of `side` x `side`, deflated."""
    data = zlib.compress(bytes(side * side), 9)
    places = {256: 10, 257: 10, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side}
    tags = {**places, 324: 8 + 2 + 12 * 10 + 4, 325: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


def jpeg_of_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is there `count` times."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * count + b"\xff\xd9"


def png(side: int, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (side, side), None).save(file, "PNG")
    return file.getvalue()


def reason_of(data: bytes, max_pixels: int = MAX_PIXELS) -> str:
    with pytest.raises(BadImage) as caught:
        decode_image(data, max_pixels)
    return caught.value.reason


def test_a_tile_much_larger_than_its_image_is_refused() -> None:
    assert decode_image(tiff_of_one_tile(64), MAX_PIXELS).size == (10, 10)
    data = tiff_of_one_tile(5_000)
    assert len(data) < 65_000
    assert reason_of(data) == "too_large_tiles"


def test_a_jpeg_of_many_scans_is_refused() -> None:
    assert decode_image(jpeg_of_scans(5), MAX_PIXELS).size == (64, 64)
    assert reason_of(jpeg_of_scans(100)) == "too_many_scans"


def test_an_image_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding_limits, "DECODE_SECONDS", -1.0)
    assert reason_of(png(8)) == "too_slow"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16", "CMYK"])
def test_bands_of_a_large_image_give_the_same_pixels(
    monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 20, 4), dtype=np.uint8))
    image = noise.convert("L").convert("I").point(lambda value: value * 200)
    image = image.convert("I;16") if mode == "I;16" else noise.convert("RGB").convert(mode)
    if mode == "RGBA":
        image = noise
    file = io.BytesIO()
    image.save(file, "TIFF" if mode == "CMYK" else "PNG")
    whole = decode_image(file.getvalue(), MAX_PIXELS)
    monkeypatch.setattr(images, "LARGE_PIXELS", 7 * 20)
    assert decode_image(file.getvalue(), MAX_PIXELS).tobytes() == whole.tobytes()


def test_a_decoding_process_gives_the_same_pixels_and_reasons() -> None:
    data = png(100, "RGBA")
    image, truncated = decode_apart(data, MAX_PIXELS)
    assert image.tobytes() == decode_image(data, MAX_PIXELS).tobytes() and not truncated
    large = io.BytesIO()
    Image.effect_noise((6_000, 3_000), 90).save(large, "JPEG")
    image, _ = decode_apart(large.getvalue(), 20 * MAX_PIXELS)
    assert image.tobytes() == decode_image(large.getvalue(), 20 * MAX_PIXELS).tobytes()
    noise = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(noise, "PNG")
    assert decode_apart(noise.getvalue()[:2_000], MAX_PIXELS, is_lenient=True)[1]
    with pytest.raises(BadImage) as caught:
        decode_apart(b"noise", MAX_PIXELS)
    assert caught.value.reason == "not_an_image"
    with pytest.raises(BadImage) as caught:
        decode_apart(png(100), 99)
    assert caught.value.reason == "too_many_pixels"


def test_what_kills_a_decoding_process_costs_one_image() -> None:
    decode_apart(png(8), MAX_PIXELS)
    process = decoding_process._decoder._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with pytest.raises(BadImage) as caught:
        decode_apart(png(8), MAX_PIXELS)
    assert caught.value.reason == "killed_decoder" and "SIGKILL" in caught.value.detail
    assert decode_apart(png(8), MAX_PIXELS)[0].size == (8, 8)


def test_a_decoding_process_has_limits_of_memory_and_time() -> None:
    decode_apart(png(8), MAX_PIXELS)
    process = decoding_process._decoder._process
    assert process is not None
    for limit in (resource.RLIMIT_AS, resource.RLIMIT_CPU):
        assert resource.prlimit(process.pid, limit)[0] != resource.RLIM_INFINITY


def test_an_image_beyond_the_memory_of_a_worker_is_counted() -> None:
    code = (
        "import sys; from react_pipeline.corpus import decoding_limits as limits, images;"
        "data = sys.stdin.buffer.read(); limits.WORKER_BYTES = 64 << 20; limits.limit_memory()\n"
        "try: images.decode_image(data, 1 << 30)\n"
        "except images.BadImage as error: sys.exit(error.reason)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=png(8_000), capture_output=True)
    assert b"too_much_memory" in done.stderr


@dataclass
class Files:
    """A dataset of torch: sizes of decoded images, or why there is none."""

    files: list[bytes]

    def __getitem__(self, number: int) -> tuple[int, int] | str:
        try:
            return decode_apart(self.files[number], MAX_PIXELS)[0].size
        except BadImage as error:
            return error.reason


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_kills_its_worker_costs_no_other(workers: int) -> None:
    files = [png(side) for side in range(1, 13)]
    files[5] += MARK
    batches = [range(start, start + 2) for start in range(0, 12, 2)]
    with deadly_images():
        loaded = list(load_batches(Files(files), batches, workers, list))
    expected: list[Any] = [(side, side) for side in range(1, 13)]
    expected[5] = "killed_decoder"
    assert [row for batch in loaded for row in batch] == expected


def test_batches_may_be_loaded_by_a_thread() -> None:
    with ThreadPoolExecutor(1) as pool:
        loaded = pool.submit(lambda: [*load_batches([7, 8], [[0], [1]], 0, list)])
        assert loaded.result() == [[7], [8]]
