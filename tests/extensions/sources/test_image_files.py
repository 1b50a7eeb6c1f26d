"""A corpus from folders of images, and from parquet files that hold images."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from support.drawings import COLOURS, SHAPES, draw, encode, write_shard
from support.stages import run_corpus

from react_pipeline.assets.metadata import describe, loss_line
from react_pipeline.corpus import MAX_METADATA_BYTES, publish_corpus, shards
from react_pipeline.embedding import read_metadata
from react_pipeline.extensions.pages.search import search_pairs
from react_pipeline.extensions.sources import image_files
from react_pipeline.project import Project
from react_pipeline.project.outside import of_corpus
from react_pipeline.store import Artifact, CorpusError

Make = Callable[..., Project]
IMAGES = [
    encode(draw(SHAPES[n % 4], COLOURS[n % 3], n), ("png", "jpg", "webp")[n % 3]) for n in range(6)
]
CAPTIONS = [f"drawing {number}" for number in range(6)]


@pytest.fixture
def make(make_project: Make) -> Make:
    return lambda *images, **more: make_project(
        corpus={"kind": "images", "images": [str(path) for path in images], **more}
    )


def write_files(folder: Path, files: Mapping[str, bytes | str]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def pairs_in(corpus: Artifact) -> list[tuple[bytes, str, dict[str, Any]]]:
    tars = sorted(map(str, (corpus.path / shards.SHARDS).iterdir()))
    samples = wds.WebDataset(tars, shardshuffle=False)
    images = ("png", "jpg", "webp")
    return [
        (next(map(one.get, one.keys() & images)), one["txt"].decode(), json.loads(one["json"]))
        for one in samples
    ]


HUGGING_FACE = {
    "image": [
        *({"bytes": image, "path": f"{n}.png"} for n, image in enumerate(IMAGES)),
        {"bytes": None, "path": "/etc/hostname"},
    ],
    "text": [*([caption, "another"] for caption in CAPTIONS), ["gone"]],
}
"""As `datasets` writes it: a struct of bytes and path, captions in lists."""
IMG2DATASET = {
    "url": [None, *(f"http://a/{n}" for n in range(1, 7))],
    "caption": [*CAPTIONS, "gone"],
    "key": [f"{n:09d}" for n in range(7)],
    "jpg": [*IMAGES, None],
}
"""Its `parquet` output: bytes beside the table's columns, null where a download failed."""


@pytest.mark.parametrize("form", ["text", "caption"])
def test_images_in_parquet_become_shards(
    make: Make, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "PAIRS_PER_SHARD", 4)
    table = pa.table(HUGGING_FACE if form == "text" else IMG2DATASET)
    pq.write_table(table, tmp_path / "00.parquet", row_group_size=2)
    project = make(tmp_path / "0*.parquet", caption_column=form)
    corpus = publish_corpus(project)
    expected = {"pairs": 6, "shards": 2, "skipped": {"no_image": 1}}
    assert corpus.counts.items() >= expected.items()
    found = pairs_in(corpus)
    assert [pair[:2] for pair in found] == list(zip(IMAGES, CAPTIONS, strict=True))
    if form == "caption":
        fields = {"path": "row 5 of 00.parquet", "url": "http://a/5", "key": "000000005"}
        assert found[5][2] == fields
        assert found[0][2] == {"path": "row 0 of 00.parquet", "key": "000000000"}
    assert run_corpus(project, "corpus_embeddings").counts["rows"] == 6
    assert publish_corpus(project).reused


def test_a_folder_of_images_with_captions_and_fields_beside_them(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_files, "MAX_IMAGE_BYTES", MAX_METADATA_BYTES)
    vast = bytes(MAX_METADATA_BYTES + 1)
    files: dict[str, bytes | str] = {}
    for number, image in enumerate(IMAGES):
        files |= {f"00/a.b{number}.jpg": image, f"00/a.b{number}.cap": CAPTIONS[number]}
    fields = '{"license": "cc0", "width": 256, "path": "/etc/hostname"}'
    files |= {"00/a.b0.json": fields, "00/a.b1.json": "[1]"}
    files["00/a.b3.json"] = '{"license": "cc0"}' + " " * MAX_METADATA_BYTES
    files |= {"alone.png": IMAGES[0], "large.png": vast, "large.cap": vast}
    folder = write_files(tmp_path / "files", files)
    (folder / "00/a.b2.json").symlink_to(folder.parent / "pipeline.yaml")
    for name, data in ((b"caf\xe9.jpg", IMAGES[0]), (b"caf\xe9.cap", b"cafe")):  # Latin-1
        (folder / "00" / os.fsdecode(name)).write_bytes(data)
    os.mkfifo(folder / "pipe.png")  # which would be waited for
    (folder / "null.png").symlink_to("/dev/null")
    project = make(folder, caption_extension="cap")
    corpus = publish_corpus(project)
    assert corpus.counts["skipped"] == {"no_caption": 1, "too_many_bytes": 1}
    *pairs, odd = pairs_in(corpus)
    assert [pair[:2] for pair in pairs] == list(zip(IMAGES, CAPTIONS, strict=True))
    assert pairs[0][2] == {"license": "cc0", "width": "256", "path": "00/a.b0.jpg"}
    others = [*(about for _, _, about in pairs[1:4]), odd[2]]
    names = ("a.b1", "a.b2", "a.b3", "caf\\xe9")
    assert others == [{"path": f"00/{name}.jpg"} for name in names]
    assert of_corpus(project, "all").seen.startswith("21 files")
    moved = folder.rename(tmp_path / "moved")
    (moved / ".DS_Store").write_text("of a file manager")
    project = make(moved, caption_extension="cap")
    assert publish_corpus(project).fingerprint == corpus.fingerprint
    for name in ("00/a.b3.cap", "00/a.b0.json"):
        (moved / name).write_text("another")
        assert not publish_corpus(project).reused


def test_a_link_out_of_its_folder_is_counted_and_not_followed(make: Make, tmp_path: Path) -> None:
    files = {f"files/{number}.png": IMAGES[number] for number in range(3)}
    write_files(tmp_path, {**files, "files/0.txt": CAPTIONS[0], "secret": "a private key"})
    folder = tmp_path / "files"
    links = {"1.txt": tmp_path / "secret", "2.txt": folder / "2.txt", "3.png": tmp_path / "secret"}
    for name, target in {**links, "4.png": "0.png", "4.txt": "0.txt"}.items():
        (folder / name).symlink_to(target)
    project = make(folder)
    corpus = publish_corpus(project)
    assert corpus.counts["skipped"] == {"link_out_of_folder": 2, "no_caption": 1}
    assert [pair[:2] for pair in pairs_in(corpus)] == [(IMAGES[0], CAPTIONS[0])] * 2
    (tmp_path / "secret").write_text("another")
    assert publish_corpus(project).reused


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"caption": ["x"]}, "no column of images"),
        ({"image": [b"x"]}, "no column 'caption'"),
        ({"image": [None], "caption": ["x"]}, "no column of images"),
        (
            {"jpg": [b""], "caption": ["x"]},
            "no pair in its folders and files; .*; skipped: row 0 of",
        ),
    ],
)
def test_a_table_without_pairs_is_refused(
    make: Make, tmp_path: Path, table: Any, expected: str
) -> None:
    pd.DataFrame(table).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=expected):
        publish_corpus(make(tmp_path / "a.parquet"))


def test_captions_of_another_extension_are_read_from_tars(
    make_project: Make, tmp_path: Path
) -> None:
    captions = {f"{n:04d}": f"common {n}".encode() for n in range(6)}
    samples = {key: {"jpg": IMAGES[0], "com.txt": text} for key, text in captions.items()}
    write_shard(tmp_path / "tree.tar", {**samples, "9": {"jpg": IMAGES[0], "sci.txt": b"x"}})
    corpus = {"shards": [str(tmp_path / "tree.tar")], "max_bad_fraction": 0.5}
    corpus["caption_extension"] = "com.txt"
    artifact = run_corpus(make_project(corpus=corpus), "corpus_embeddings")
    assert [*map(str.encode, read_metadata(artifact)["caption"])] == [*captions.values()]
    assert artifact.counts["reasons"] == {"no_caption": 1}


def test_bad_and_unread_files_are_named_by_the_users_own_path(make: Make, tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {"alone.png": IMAGES[0]}
    for number, image in enumerate(IMAGES):
        files |= {f"{number}.jpg": image, f"{number}.txt": CAPTIONS[number]}
    for name in ("broken.jpg", "moving.gif", "phone.heic"):
        files |= {name: b"no picture", f"{name[:-4].rstrip('.')}.txt": "a caption"}
    folder = write_files(tmp_path / "pictures", files)
    with pytest.raises(CorpusError, match=re.escape(str(folder / "broken.jpg"))) as refused:
        run_corpus(make(folder, max_bad_fraction=0.1), "corpus_embeddings")
    assert "shard" not in str(refused.value)
    project = make(folder, max_bad_fraction=0.5)
    corpus = publish_corpus(project)
    assert corpus.counts["skipped"] == {"format_not_read": 2, "no_caption": 1}
    assert loss_line(corpus) == "; skipped: format_not_read 2, no_caption 1"
    assert describe(corpus)["skipped.format_not_read"] == 2
    embeddings = run_corpus(project, "corpus_embeddings")
    ledger = pd.read_parquet(embeddings.file("ledger.parquet"))
    assert list(ledger["source"]) == [str(folder / "broken.jpg")]
    run_corpus(project)
    found = search_pairs(project, "a drawing", k=6)
    assert set(found["source"]) == {str(folder / f"{number}.jpg") for number in range(6)}
    (folder / "new.gif").write_bytes(b"GIF89a")
    assert publish_corpus(project).counts["skipped"]["format_not_read"] == 3


def test_a_folder_that_cannot_be_listed_is_named(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_files(tmp_path / "files", {"a.png": IMAGES[0]})
    refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    monkeypatch.setattr(os, "scandir", Mock(side_effect=refused))
    project = make(folder)
    with pytest.raises(CorpusError, match="files"):
        publish_corpus(project)
    of_corpus(project, "all")
