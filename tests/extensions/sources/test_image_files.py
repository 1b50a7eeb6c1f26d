"""A corpus from folders of images, and from parquet files that hold images."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.drawings import COLOURS, SHAPES, draw, encode, write_shard

from react_pipeline.assets.metadata import describe, loss_line
from react_pipeline.clip.base import publish_base
from react_pipeline.corpus import shards
from react_pipeline.corpus.corpus import publish_corpus
from react_pipeline.corpus.inventory import check_shards
from react_pipeline.corpus.shards import MAX_METADATA_BYTES, index_shard, open_shard, read_member
from react_pipeline.embedding.embed import embed_corpus
from react_pipeline.embedding.vectors import read_metadata
from react_pipeline.extensions.pages.search import search_pairs
from react_pipeline.extensions.sources import image_files
from react_pipeline.lineage import run
from react_pipeline.project.outside import look_at, of_corpus
from react_pipeline.project.project import Project
from react_pipeline.settings import StorageConfig
from react_pipeline.store.artifacts import Artifact
from react_pipeline.store.errors import CorpusError

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


def pairs_in(project: Project, corpus: Artifact) -> list[tuple[bytes, str, dict[str, Any]]]:
    found = []
    for path in check_shards(project.store, corpus, StorageConfig()):
        with open_shard(path) as file:
            for sample in index_shard(path).samples:
                assert sample.image
                texts = [
                    read_member(file, member).decode()
                    for member in (sample.members["txt"], sample.members["json"])
                ]
                found.append((read_member(file, sample.image), texts[0], json.loads(texts[1])))
    return found


def hugging_face(path: Path) -> None:
    """As `datasets` writes it: a struct of bytes and path, captions in lists, the features in the
    footer.
    """
    images = [{"bytes": image, "path": f"{n}.png"} for n, image in enumerate(IMAGES)]
    captions = [*([caption, "another"] for caption in CAPTIONS), ["gone"]]
    table = pa.table(
        {"image": [*images, {"bytes": None, "path": "/etc/hostname"}], "text": captions}
    )
    pq.write_table(
        table.replace_schema_metadata({"huggingface": '{"info": {}}'}), path, row_group_size=2
    )


def img2dataset_table(path: Path) -> None:
    """As img2dataset's `parquet` output: bytes beside the table's columns, null where a download
    failed.
    """
    rows = [(f"http://a/{n}", CAPTIONS[n], f"{n:09d}", "success", IMAGES[n]) for n in range(6)]
    rows[0] = (None, *rows[0][1:])
    rows.append(("http://a/6", "gone", "000000006", "failed_to_download", None))
    pd.DataFrame(rows, columns=["url", "caption", "key", "status", "jpg"]).to_parquet(path)


@pytest.mark.parametrize("form", ["hugging_face", "img2dataset"])
def test_images_in_parquet_become_shards(
    make: Make, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "PAIRS_PER_SHARD", 4)
    if form == "hugging_face":
        hugging_face(tmp_path / "train-00000-of-00001.parquet")
        project = make(tmp_path / "train-*.parquet", caption_column="text")
    else:
        img2dataset_table(tmp_path / "00000.parquet")
        project = make(tmp_path / "00000.parquet")
    corpus = publish_corpus(project)
    assert (corpus.counts["pairs"], corpus.counts["shards"], corpus.counts["skipped"]) == (
        6,
        2,
        {"no_image": 1},
    )
    found = pairs_in(project, corpus)
    assert [(image, caption) for image, caption, _ in found] == list(
        zip(IMAGES, CAPTIONS, strict=True)
    )
    if form == "img2dataset":
        assert found[5][2] == {
            "path": "row 5 of 00000.parquet",
            "url": "http://a/5",
            "key": "000000005",
        }
        assert found[0][2] == {"path": "row 0 of 00000.parquet", "key": "000000000"}
    publish_base(project)
    assert embed_corpus(project).counts["rows"] == 6
    assert publish_corpus(project).reused


def test_a_folder_of_images_with_captions_beside_them(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, (image, caption) in enumerate(zip(IMAGES, CAPTIONS, strict=True)):
        folder = tmp_path / f"files/{number // 3:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"a.b{number}.jpg").write_bytes(image)
        (folder / f"a.b{number}.cap").write_text(caption)
    for name in (b"caf\xe9.jpg", b"caf\xe9.cap"):  # Latin-1
        (tmp_path / "files/00001" / os.fsdecode(name)).write_bytes(
            IMAGES[0] if name.endswith(b"jpg") else b"cafe"
        )
    (tmp_path / "files/alone.png").write_bytes(IMAGES[0])
    monkeypatch.setattr(image_files, "MAX_IMAGE_BYTES", 100_000)
    for name in ("large.png", "large.cap", "pipe.cap", "null.cap"):
        (tmp_path / "files" / name).write_bytes(bytes(100_001))
    os.mkfifo(tmp_path / "files/pipe.png")  # which would be waited for
    (tmp_path / "files/null.png").symlink_to("/dev/null")
    project = make(tmp_path / "files", caption_extension="cap")
    corpus = publish_corpus(project)
    assert corpus.counts["skipped"] == {"no_caption": 1, "too_many_bytes": 1}
    *pairs, odd = pairs_in(project, corpus)
    assert [(image, text) for image, text, _ in pairs] == list(zip(IMAGES, CAPTIONS, strict=True))
    assert (pairs[3][2], odd[2]) == ({"path": "00001/a.b3.jpg"}, {"path": "00001/caf\\xe9.jpg"})
    assert look_at(project, of_corpus(project, "all")).seen.startswith("19 files")
    (tmp_path / "files").rename(tmp_path / "moved")
    (tmp_path / "moved/.DS_Store").write_text("of a file manager")
    moved = make(tmp_path / "moved", caption_extension="cap")
    assert publish_corpus(moved).fingerprint == corpus.fingerprint
    (tmp_path / "moved/00001/a.b3.cap").write_text("another")
    assert publish_corpus(moved).fingerprint != corpus.fingerprint


def test_fields_beside_an_image_stay_with_its_pair(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for number, image in enumerate(IMAGES):
        (folder / f"{number}.png").write_bytes(image)
        (folder / f"{number}.txt").write_text("a drawing")
    (folder / "0.json").write_text('{"license": "cc0", "width": 256, "path": "/etc/hostname"}')
    (folder / "1.json").write_text("[1]")
    (tmp_path / "outside.json").write_text('{"license": "cc0"}')
    (folder / "2.json").symlink_to(tmp_path / "outside.json")
    (folder / "3.json").write_text('{"license": "cc0"}' + " " * MAX_METADATA_BYTES)
    project = make(folder)
    corpus = publish_corpus(project)
    fields = [fields for _, _, fields in pairs_in(project, corpus)]
    assert fields[0] == {"license": "cc0", "width": "256", "path": "0.png"}
    assert fields[1:4] == [{"path": f"{number}.png"} for number in (1, 2, 3)]
    (folder / "0.json").write_text('{"license": "cc-by"}')
    assert publish_corpus(project).fingerprint != corpus.fingerprint


@pytest.mark.parametrize(("what", "named"), [("scandir", "files"), ("open", "a.png")])
def test_what_cannot_be_read_is_named(
    make: Make, tmp_path: Path, what: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files/a.png").write_bytes(IMAGES[0])
    project = make(tmp_path / "files")

    def refuse(path: Any, *given: Any, **more: Any) -> Any:
        if str(path).endswith(named):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return original(path, *given, **more)

    owner: Any = os if what == "scandir" else Path
    original = getattr(owner, what)
    monkeypatch.setattr(owner, what, refuse)
    with pytest.raises(CorpusError, match=named):
        publish_corpus(project)
    look_at(project, of_corpus(project, "all"))


def test_a_link_out_of_its_folder_is_counted_and_not_followed(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (tmp_path / "secret").write_text("a private key")
    for number in range(3):
        (folder / f"{number}.png").write_bytes(IMAGES[number])
    (folder / "0.txt").write_text(CAPTIONS[0])
    (folder / "1.txt").symlink_to(tmp_path / "secret")
    (folder / "2.txt").symlink_to(folder / "2.txt")
    (folder / "3.png").symlink_to(tmp_path / "secret")
    (folder / "4.png").symlink_to("0.png")
    (folder / "4.txt").symlink_to("0.txt")
    project = make(folder)
    corpus = publish_corpus(project)
    assert corpus.counts["skipped"] == {"link_out_of_folder": 2, "no_caption": 1}
    assert [(image, text) for image, text, _ in pairs_in(project, corpus)] == [
        (IMAGES[0], CAPTIONS[0])
    ] * 2
    (tmp_path / "secret").write_text("another")
    assert publish_corpus(project).reused


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"caption": ["x"]}, "no column of images"),
        ({"image": [b"x"]}, "no column 'caption'"),
        ({"image": [None], "caption": ["x"]}, "no column of images"),
        ({"jpg": [b""], "caption": ["x"]}, "no pair in 1 folders and files"),
    ],
)
def test_a_table_without_pairs_is_refused(
    make: Make, tmp_path: Path, table: Any, expected: str
) -> None:
    pd.DataFrame(table).to_parquet(tmp_path / "a.parquet")
    project = make(tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match=expected):
        publish_corpus(project)


def test_captions_of_another_extension_are_read_from_tars(
    make_project: Make, tmp_path: Path
) -> None:
    samples = {
        f"{n:04d}": {"jpg": image, "com.txt": f"common {n}".encode()}
        for n, image in enumerate(IMAGES)
    }
    write_shard(tmp_path / "tree.tar", {**samples, "9": {"jpg": IMAGES[0], "sci.txt": b"x"}})
    corpus = {"shards": [str(tmp_path / "tree.tar")], "max_bad_fraction": 0.5}
    with pytest.raises(CorpusError, match=r"com\.txt"):
        publish_corpus(make_project(corpus=corpus))
    project = make_project(corpus={**corpus, "caption_extension": "com.txt"})
    publish_corpus(project)
    publish_base(project)
    artifact = embed_corpus(project)
    assert list(read_metadata(artifact)["caption"]) == [f"common {n}" for n in range(6)]
    assert artifact.counts["reasons"] == {"no_caption": 1}


def test_bad_and_unread_files_are_named_by_the_users_own_path(make: Make, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, (image, caption) in enumerate(zip(IMAGES, CAPTIONS, strict=True)):
        (folder / f"{number}.jpg").write_bytes(image)
        (folder / f"{number}.txt").write_text(caption)
    for name in ("broken.jpg", "moving.gif", "phone.heic"):
        (folder / name).write_bytes(b"no picture")
        (folder / name).with_suffix(".txt").write_text("a caption")
    (folder / "alone.png").write_bytes(IMAGES[0])
    publish_base(make(folder, max_bad_fraction=0.1))
    corpus = publish_corpus(make(folder, max_bad_fraction=0.1))
    assert corpus.counts["skipped"] == {"format_not_read": 2, "no_caption": 1}
    assert loss_line(corpus) == "; skipped: format_not_read 2, no_caption 1"
    assert describe(corpus)["skipped.format_not_read"] == 2
    with pytest.raises(CorpusError, match=re.escape(str(folder / "broken.jpg"))) as refused:
        embed_corpus(make(folder, max_bad_fraction=0.1))
    assert "shard" not in str(refused.value)
    project = make(folder, max_bad_fraction=0.5)
    embeddings = embed_corpus(project)
    assert list(pd.read_parquet(embeddings.file("ledger.parquet"))["source"]) == [
        str(folder / "broken.jpg")
    ]
    assert loss_line(embeddings).endswith(" 1")
    run(project, "faiss_index", "all")
    found = search_pairs(project, "a drawing", k=6)
    assert set(found["source"]) == {str(folder / f"{number}.jpg") for number in range(6)}
    (folder / "new.gif").write_bytes(b"GIF89a")
    assert publish_corpus(project).counts["skipped"]["format_not_read"] == 3
