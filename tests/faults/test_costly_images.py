"""FAULTS 54: small image files that would take gigabytes or minutes to decode, or kill who decodes
them.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from PIL import Image
from support.deadly_images import MARK, deadly_images

from react_pipeline.corpus import (
    BadImage,
    Decoder,
    decode_apart,
    decode_image,
    decoding,
    load_batches,
)
from react_pipeline.extensions.sources import downloads

MAX_PIXELS = 1_000_000


def png(side: int, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (side, side), None).save(file, "PNG")
    return file.getvalue()


def with_chunk(name: bytes) -> bytes:
    """A PNG with a chunk of compressed text that takes 256 MB."""
    data = b"a\0\0" + zlib.compress(bytes(1 << 28), 9)
    check = zlib.crc32(name + data)
    chunk = struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)
    return png(8)[:33] + chunk + png(8)[33:]


def tiff_of_one_tile(side: int) -> bytes:
    """10 x 10 pixels in a tile of `side` x `side`, deflated."""
    data = zlib.compress(bytes(side * side), 9)
    places = {256: 10, 257: 10, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side}
    tags = {**places, 324: 8 + 2 + 12 * 10 + 4, 325: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


HOSTILE = {
    "a text of 256 MB": lambda: with_chunk(b"zTXt"),
    "a profile of 256 MB": lambda: with_chunk(b"iCCP"),
    "a tile of 100 megapixels": lambda: tiff_of_one_tile(10_000),
    "a GIF of an enormous screen": lambda: b"GIF89a\xff\xff\xff\xff\0\0\0;",
    "a PPM that says much": lambda: b"P6 99999999 99999999 255\n",
    "a BMP of a negative size": lambda: b"BM" + bytes(12) + struct.pack("<Iii", 40, -5, -5),
    "a TIFF that points at itself": lambda: b"II*\0\x08\0\0\0" + b"\0\0\x08\0\0\0",
    "an SVG with an entity": lambda: b"<!DOCTYPE a [<!ENTITY b SYSTEM '/etc/passwd'>]><svg/>",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_image_is_decoded_or_refused(name: str) -> None:
    try:
        assert max(decode_apart(HOSTILE[name](), MAX_PIXELS).size) <= 10
    except BadImage as error:
        assert error.reason not in ("killed_decoder", "too_slow")


def test_a_decoding_process_gives_the_same_pixels_and_reasons() -> None:
    data = png(100, "RGBA")
    image = decode_apart(data, MAX_PIXELS)
    assert image.tobytes() == decode_image(data, MAX_PIXELS).tobytes()
    noise = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(noise, "PNG")
    assert decode_apart(noise.getvalue()[:2_000], MAX_PIXELS, is_lenient=True).size == (64, 64)
    for bad, most, reason in ((b"noise", 99, "not_an_image"), (data, 99, "too_many_pixels")):
        with pytest.raises(BadImage) as caught:
            decode_apart(bad, most)
        assert caught.value.reason == reason


def test_an_image_beyond_the_memory_of_its_process_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decoding, "WORKER_BYTES", 256 << 20)
    ((_, loaded),) = load_batches(replace(SIZES, max_pixels=1 << 30), [[png(10_000)]], 1)
    assert [error.reason for error in loaded] == ["too_much_memory"]


def test_what_takes_too_long_costs_one_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = io.BytesIO()
    Image.new("RGB", (4_000, 4_000)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    slow = data[:-2] + data[data.rindex(b"\xff\xda") : -2] * 10_000 + b"\xff\xd9"
    monkeypatch.setattr(decoding, "DECODE_SECONDS", 1)
    with pytest.raises(BadImage) as caught:
        decode_apart(slow, 1 << 30)
    assert caught.value.reason == "too_slow"
    assert caught.value.reason in downloads.PERMANENT
    assert decode_apart(png(8), MAX_PIXELS).size == (8, 8)


def as_it_is(file: bytes) -> bytes:
    return file


def sizes(image: Image.Image) -> torch.Tensor:
    return torch.tensor(image.size)


SIZES = Decoder(as_it_is, sizes, MAX_PIXELS)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_kills_its_worker_costs_no_other(workers: int) -> None:
    files = [png(side) for side in range(1, 13)]
    files[5] += MARK
    batches = [files[start : start + 2] for start in range(0, 12, 2)]
    with deadly_images():
        loaded = list(load_batches(SIZES, batches, workers))
    assert [batch for batch, _ in loaded] == batches
    results = [one for _, results in loaded for one in results]
    assert results.pop(5).reason == "killed_decoder"
    assert [one.tolist() for one in results] == [[side, side] for side in range(1, 13) if side != 6]


def test_batches_may_be_loaded_by_a_thread() -> None:
    with ThreadPoolExecutor(1) as pool:
        loaded = pool.submit(lambda: [*load_batches(SIZES, [[png(7)], [png(8)]], 0)])
        assert [results[0].tolist() for _, results in loaded.result()] == [[7, 7], [8, 8]]


def process(_: Image.Image) -> torch.Tensor:
    return torch.tensor(os.getpid())


def test_processes_stay_for_an_equal_decoder() -> None:
    first, again, other = (
        int(results[0])
        for most in (99, 99, 100)
        for _, results in load_batches(Decoder(as_it_is, process, most), [[png(8)]], 1)
    )
    assert first == again != other
