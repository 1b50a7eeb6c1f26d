"""FAULTS 11, 12, 14, 54: bad samples are skipped and counted, also image files that would take
gigabytes or minutes to decode, or kill who decodes them (13 is in tests/corpus/test_images.py).
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image
from support.deadly_images import MARK, deadly_images
from support.drawings import draw, encode, pair, write_shard
from support.upkeep import with_base

from react_pipeline.corpus import (
    BadImage,
    Decoder,
    decode_apart,
    decode_image,
    decoding,
    load_batches,
    pairs,
)
from react_pipeline.embedding import embed_corpus, read_metadata
from react_pipeline.extensions.sources import downloads
from react_pipeline.project import Project
from react_pipeline.store import Artifact, CorpusError

PNG = encode(draw("circle", "red", 0), "png")
JPEG = encode(draw("circle", "red", 0), "jpg")


def png_of_size(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(header) + chunk(b"IDAT" + zlib.compress(b"\0" * 100))


def chunk(data: bytes) -> bytes:
    return struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))


Embed = Callable[..., Artifact]


@pytest.fixture
def embedded(make_project: Callable[..., Project], tmp_path: Path) -> Embed:
    """Embeds the samples of one shard."""

    def embed(samples: Any, **corpus: Any) -> Artifact:
        shard = write_shard(tmp_path / "a.tar", samples)
        return embed_corpus(with_base(make_project(corpus={"shards": [str(shard)], **corpus})))

    return embed


def ledger(artifact: Artifact) -> dict[str, str]:
    table = pd.read_parquet(artifact.file("ledger.parquet"))
    return dict(zip(table["key"], table["reason"], strict=True))


def test_no_cut_or_flip_of_image_raises_anything_but_bad_image() -> None:
    for whole in (PNG, JPEG, encode(draw("cross", "blue", 3), "webp")):
        variants = [whole[:cut] for cut in range(0, len(whole), 41)]
        variants += [
            whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]
            for at in range(0, len(whole), 37)
        ]
        for data in variants:
            try:
                assert decode_image(data, max_pixels=1_000_000).mode == "RGB"
            except BadImage as error:
                assert error.reason


def test_bad_samples_are_skipped_and_every_one_is_in_the_ledger(embedded: Embed) -> None:
    good = {f"good{number}": pair("circle", "red", number) for number in range(4)}
    bad = {
        "empty": {"png": b"", "txt": b"a"},
        "html": {"jpg": b"<html></html>", "txt": b"a"},
        "cut": {"jpg": JPEG[:-400], "txt": b"a"},
        "corrupt": {"jpg": JPEG[:200] + b"\0" * 50, "txt": b"a"},
        "bomb": {"png": png_of_size(60_000, 60_000), "txt": b"a"},
        "long": {"png": encode(Image.new("L", (1, 60_000))), "txt": b"a"},
        "no-caption": {"png": PNG},
        "no-image": {"txt": b"a"},
        "blank": {"png": PNG, "txt": b" \n\t"},
        "latin1": {"png": PNG, "txt": "caf\xe9 au lait".encode("latin-1")},
        "deadly": {"png": PNG + MARK, "txt": b"a"},
    }
    with deadly_images():
        artifact = embedded({**good, **bad}, max_bad_fraction=0.8)
    assert ledger(artifact) == {
        "empty": "empty",
        "html": "not_an_image",
        "cut": "truncated",
        "corrupt": "corrupt",
        "bomb": "too_many_pixels",
        "long": "too_elongated",
        "no-caption": "no_caption",
        "no-image": "no_image",
        "blank": "empty_caption",
        "latin1": "caption_not_utf8",
        "deadly": "killed_decoder",
    }
    assert (artifact.counts["rows"], artifact.counts["skipped"]) == (4, 11)
    assert sum(artifact.counts["reasons"].values()) == 11
    assert list(read_metadata(artifact)["image_path"]) == list(good)


def test_an_image_file_of_too_many_bytes_is_skipped_unread(
    embedded: Embed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "MAX_IMAGE_BYTES", len(PNG))
    samples = {"a": {"png": PNG, "txt": b"a"}, "b": {"png": PNG + b"x", "txt": b"b"}}
    artifact = embedded(samples, max_bad_fraction=0.5)
    assert ledger(artifact) == {"b": "too_many_bytes"}


def test_a_shard_with_too_many_bad_samples_fails_unpublished(
    embedded: Embed, tmp_path: Path
) -> None:
    samples = {f"good{number}": pair("circle", "red", number) for number in range(7)}
    samples |= {f"bad{number}": {"jpg": b"<html></html>", "txt": b"a"} for number in range(2)}
    samples["blank"] = {"png": PNG, "txt": b""}
    with pytest.raises(CorpusError, match=r"a\.tar") as caught:
        embedded(samples, max_bad_fraction=0.2)
    assert "max_bad_fraction" in str(caught.value)
    assert not (tmp_path / "store" / "corpus_embeddings").exists()


def test_long_captions_are_cut_and_counted(embedded: Embed) -> None:
    long = "\N{SNOWMAN}" * 50
    captions = {
        "long": long,
        "fits": "abcde",
        "padded": "  abcde\n",
        "enormous": "x" * 1_000_000,
        "bom": "\ufeffabc",
    }
    samples = {key: {"png": PNG, "txt": text.encode()} for key, text in captions.items()}
    artifact = embedded(samples, max_caption_chars=5)
    assert list(read_metadata(artifact)["caption"]) == [
        "\N{SNOWMAN}" * 5,
        "abcde",
        "abcde",
        "xxxxx",
        "abc",
    ]
    assert artifact.counts["captions_cut"] == 2


def test_metadata_of_any_form_breaks_nothing(embedded: Embed) -> None:
    objects = {
        "number": b'{"width": 10, "nested": {"a": [1]}, "none": null}',
        "text": b'{"width": "ten", "caption": "other", "shard": 99, "image_path": "../x", "metadata": 1}',
        "list": b"[1, 2]",
        "broken": b'{"width": ',
        "deep": b"[" * 100_000,
        "surrogate": b'{"width": "\\ud800"}',
    }
    samples = {
        key: {"png": PNG, "txt": b"a caption", "json": data} for key, data in objects.items()
    }
    artifact = embedded(samples)
    table = read_metadata(artifact).set_index("image_path")
    assert list(table.index) == list(objects)
    assert table["width"]["number"] == "10" and table["width"]["text"] == "ten"
    assert table["nested"]["number"] == '{"a": [1]}'
    assert set(table["caption"]) == {"a caption"} and set(table["shard"]) == {0}
    assert "metadata" not in table and "none" not in table
    assert artifact.counts["metadata_ignored"] == 3


MAX_PIXELS = 1_000_000


def png(side: int, mode: str = "RGB") -> bytes:
    return encode(Image.new(mode, (side, side)))


def with_chunk(name: bytes) -> bytes:
    """A PNG with a chunk of compressed text that takes 256 MB."""
    bomb = chunk(name + b"a\0\0" + zlib.compress(bytes(1 << 28), 9))
    return png(8)[:33] + bomb + png(8)[33:]


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
    noise = encode(Image.effect_noise((64, 64), 90))
    assert decode_apart(noise[:2_000], MAX_PIXELS, is_lenient=True).size == (64, 64)
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
