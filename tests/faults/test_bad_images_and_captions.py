"""FAULTS 11, 12, 14 (13 is in tests/corpus/test_images.py): bad samples are skipped and counted."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from support.deadly_images import MARK, deadly_images
from support.drawings import draw, encode, pair, write_shard
from support.upkeep import with_base

from react_pipeline.corpus import BadImage, decode_image, pairs
from react_pipeline.embedding import embed_corpus, read_metadata
from react_pipeline.project import Project
from react_pipeline.store import Artifact, CorpusError

PNG = encode(draw("circle", "red", 0), "png")
JPEG = encode(draw("circle", "red", 0), "jpg")


def png_of_size(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    whole = b"\x89PNG\r\n\x1a\n"
    for data in (header, b"IDAT" + zlib.compress(b"\0" * 100)):
        whole += struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    return whole


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
