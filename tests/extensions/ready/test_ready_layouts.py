"""Published vectors in every layout: adopted in place or converted once, and refused where they do
not fit.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from support.ready import (
    CAPTIONS,
    encoded,
    paired,
    write_datacomp,
    write_ready,
    write_subset,
    write_vector_column,
)
from support.vectors import read_vectors

from react_pipeline.clip.base import publish_base
from react_pipeline.corpus.corpus import publish_corpus
from react_pipeline.embedding.embed import embed_corpus
from react_pipeline.embedding.vectors import read_metadata, vector_files, vectors_of
from react_pipeline.extensions.ready import conversion
from react_pipeline.indexing.index import build_index
from react_pipeline.project.project import Project
from react_pipeline.store.artifacts import Artifact
from react_pipeline.store.errors import CorpusError

Make = Callable[..., Project]
URLS = [f"http://127.0.0.1:9/{row}.png" for row in range(len(CAPTIONS))]
DATACOMP = {"layout": "datacomp-b32", "caption_column": "text", "hash_column": "sha256"}


@pytest.fixture(scope="session")
def text(tiny_checkpoint: Path) -> NDArray[np.float16]:
    return encoded(tiny_checkpoint, CAPTIONS)


@pytest.fixture
def make(make_project: Make, tmp_path: Path) -> Make:
    corpus = {"kind": "embeddings", "embeddings": str(tmp_path / "ready")}
    return lambda **more: make_project(corpus={**corpus, **more})


def adopted(project: Project) -> Artifact:
    publish_corpus(project)
    publish_base(project)
    return embed_corpus(project)


def test_datacomp_is_used_in_place(make: Make, tmp_path: Path, text: NDArray[Any]) -> None:
    table = write_datacomp(tmp_path / "ready", text, [None, *CAPTIONS[1:]], URLS)
    artifact = adopted(make(**DATACOMP))
    assert set(artifact.manifest["files"]) == {"ready.json"}
    assert {path.parent.suffix for path in vector_files(artifact, "image")} == {".npz"}
    assert np.array_equal(read_vectors(artifact, "text"), text.astype(np.float32))
    rows = pd.Series([15, 0, 7])
    assert np.array_equal(
        vectors_of(artifact, "image", rows),
        paired(text).astype(np.float16).astype(np.float32)[rows],
    )
    described = read_metadata(artifact, ["caption", "url", "hash", "image_sha256"])
    assert list(described["caption"]) == ["", *CAPTIONS[1:]]
    assert list(described["hash"]) == list(table["sha256"])
    assert artifact.counts["encoder_similarity"] > 0.999


@pytest.mark.parametrize("how", ["subset", "deflated", "not unit"])
def test_what_cannot_be_used_in_place_is_converted_once(
    make: Make, tmp_path: Path, text: NDArray[Any], how: str
) -> None:
    rows = np.arange(len(text))
    vectors, save, more, why = text, np.savez, DATACOMP, how.replace("not unit", "not_unit_length")
    if how == "deflated":
        save, why = np.savez_compressed, "compressed"
    table = write_datacomp(tmp_path / "ready", vectors, CAPTIONS, URLS, save=save)
    if how == "subset":
        rows = np.array([1, 2, 7, 8, 15])
        write_subset(
            tmp_path / "uids.npy",
            [*table["uid"][rows[::-1]], "f" * 32, table["uid"][0][:16] + "0" * 16],
        )
        more = {**more, "subset": "uids.npy"}
    if how == "not unit":
        for path in (tmp_path / "ready").glob("*.npz"):
            np.savez(path, **{name: 2 * member for name, member in np.load(path).items()})
    artifact = adopted(make(**more))
    assert artifact.counts["converted"] == [why]
    assert artifact.counts["normalised"] == (32 if how == "not unit" else 0)
    assert artifact.counts["rows"] == len(rows)
    assert np.allclose(read_vectors(artifact, "text"), text[rows], atol=1e-3)
    assert np.allclose(read_vectors(artifact, "image"), paired(text)[rows], atol=2e-3)
    assert list(read_metadata(artifact)["url"]) == [URLS[row] for row in rows]


def test_a_killed_conversion_goes_on_where_it_was(
    make: Make, tmp_path: Path, text: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_datacomp(tmp_path / "ready", text, CAPTIONS, URLS, save=np.savez_compressed)
    project, whole, done = make(**DATACOMP), conversion._convert_part, []

    def dies_at_the_second(*given: Any) -> list[Path]:
        done.append(given[2].number)
        if len(done) == 2:
            raise KeyboardInterrupt
        return whole(*given)

    monkeypatch.setattr(conversion, "_convert_part", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        adopted(project)
    artifact = embed_corpus(project)
    assert len(done) == 3
    assert done[2] == done[1]
    assert np.array_equal(read_vectors(artifact, "text"), text.astype(np.float32))


@pytest.mark.parametrize("layout", ["clip-retrieval-images", "parquet"])
def test_captions_are_encoded_where_only_images_have_vectors(
    make: Make, tmp_path: Path, text: NDArray[Any], layout: str
) -> None:
    folder, image, more = tmp_path / "ready", paired(text), {}
    if layout == "parquet":
        colours, shapes = zip(*(caption.split()[-2:] for caption in CAPTIONS), strict=True)
        write_vector_column(
            folder, 3 * image, {"identifier": URLS, "genus": colours, "species": shapes}
        )
        more = {
            "vector_column": "emb",
            "url_column": "identifier",
            "caption_column": "a drawing of a {genus} {species}",
        }
    else:
        write_ready(folder, text)
        for path in sorted((folder / "text_emb").iterdir()):
            np.save(folder / "img_emb" / path.name.replace("text", "img"), paired(np.load(path)))
            path.unlink()
        image = np.concatenate([np.load(path) for path in sorted((folder / "img_emb").iterdir())])
    project = make(layout=layout, **more)
    artifact = adopted(project)
    assert artifact.counts["captions_encoded"] == len(text)
    assert artifact.counts["encoder_standard_errors"] > 4
    assert np.allclose(read_vectors(artifact, "text"), text, atol=1e-3)
    assert np.allclose(read_vectors(artifact, "image"), image, atol=1e-3)
    table = read_metadata(artifact)
    assert list(table["caption"]) == CAPTIONS
    assert list(table["url"]) == URLS
    assert build_index(project).counts["rows"] == len(text)


def test_image_vectors_of_another_encoder_are_refused(
    make: Make, tmp_path: Path, text: NDArray[Any]
) -> None:
    columns = {"url": URLS, "caption": CAPTIONS}
    write_vector_column(tmp_path / "ready", paired(text)[::-1], columns)
    with pytest.raises(CorpusError, match="standard errors"):
        adopted(make(layout="parquet", vector_column="emb"))


def change(pattern: str, edit: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = sorted(folder.glob(pattern))[1]
        edit(pd.read_parquet(path)).to_parquet(path, index=False)

    return damage


def member(
    name: str, edit: Callable[[NDArray[Any]], NDArray[Any] | None]
) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = sorted(folder.glob("*.npz"))[1]
        members = dict(np.load(path))
        changed = edit(members.pop(name))
        np.savez(path, **members, **({} if changed is None else {name: changed}))

    return damage


def overwritten(column: str) -> Callable[[Path], None]:
    """The footer of the table stays whole, so that only reading the column shows it."""

    def damage(folder: Path) -> None:
        path = sorted(folder.glob("*.parquet"))[1]
        group, data = pq.read_metadata(path).row_group(0), bytearray(path.read_bytes())
        chunk = next(
            group.column(n)
            for n in range(group.num_columns)
            if group.column(n).path_in_schema == column
        )
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
        path.write_bytes(data)
        np.save(folder / "uids.npy", np.array([(1, 1)], "u8,u8"))

    return damage


BREAKAGES: dict[str, tuple[Callable[[Path], Any], dict[str, Any], str]] = {
    "a missing key": (member("b32_txt", lambda vectors: None), {}, "no member or column 'b32_txt'"),
    "fewer rows": (
        change("*.parquet", lambda table: table[1:]),
        {},
        r"parquet: 7 rows, .*b32_img has 8",
    ),
    "a cut npz": (
        lambda folder: sorted(folder.glob("*.npz"))[1].write_bytes(b"PK\3\4"),
        {},
        "file is truncated",
    ),
    "an npz without table": (
        lambda folder: sorted(folder.glob("*.parquet"))[1].unlink(),
        {},
        r"\.parquet: is missing",
    ),
    "an unsorted subset": (
        lambda folder: np.save(folder / "uids.npy", np.array([(2, 1), (1, 1)], "u8,u8")),
        {"subset": "ready/uids.npy"},
        "is not sorted",
    ),
    "a subset unsorted in the second half": (
        lambda folder: np.save(folder / "uids.npy", np.array([(1, 2), (1, 1)], "u8,u8")),
        {"subset": "ready/uids.npy"},
        "is not sorted",
    ),
    "a subset of elsewhere": (
        lambda folder: np.save(folder / "uids.npy", np.array([(1, 1), (2, 1)], "u8,u8")),
        {"subset": "ready/uids.npy"},
        "none of its 2 uids",
    ),
    "damaged uids": (overwritten("uid"), {"subset": "ready/uids.npy"}, r"[0-9a-f]{32}\.parquet"),
    "a subset of texts": (
        lambda folder: np.save(folder / "uids.npy", np.array(["a"])),
        {"subset": "ready/uids.npy"},
        "u8,u8",
    ),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_what_does_not_fit_is_refused_by_name(
    make: Make, tmp_path: Path, text: NDArray[Any], breakage: str
) -> None:
    write_datacomp(tmp_path / "ready", text, CAPTIONS, URLS)
    damage, more, expected = BREAKAGES[breakage]
    damage(tmp_path / "ready")
    project = make(**{**DATACOMP, **more})
    with pytest.raises(CorpusError, match=expected):
        publish_corpus(project)
    assert not project.store.keys("corpus")


@pytest.mark.parametrize("how", ["rows in another order", "vectors of the other CLIP"])
def test_vectors_of_other_captions_are_refused(
    make: Make, tmp_path: Path, text: NDArray[Any], how: str
) -> None:
    write_datacomp(tmp_path / "ready", text, CAPTIONS, URLS)
    if how == "rows in another order":
        change("*.parquet", lambda table: table[::-1])(tmp_path / "ready")
        project = make(**DATACOMP)
    else:
        project = make(**{**DATACOMP, "layout": "datacomp-l14"})
    with pytest.raises(CorpusError, match="another CLIP|the configured encoder"):
        adopted(project)


def test_captions_that_cannot_be_read_are_named(
    make: Make, tmp_path: Path, text: NDArray[Any]
) -> None:
    write_datacomp(tmp_path / "ready", text, CAPTIONS, URLS)
    overwritten("text")(tmp_path / "ready")
    with pytest.raises(CorpusError, match=r"[0-9a-f]{32}\.parquet"):
        adopted(make(**DATACOMP))


def test_a_width_that_the_encoder_does_not_have_is_refused(
    make: Make, tmp_path: Path, text: NDArray[Any]
) -> None:
    write_datacomp(tmp_path / "ready", paired(text[:, :16], noise=0), CAPTIONS, URLS)
    with pytest.raises(CorpusError, match="vectors of 16 numbers, the configured encoder makes 32"):
        adopted(make(**DATACOMP))


def test_lists_of_other_lengths_are_no_vectors(make: Make, tmp_path: Path) -> None:
    (tmp_path / "ready").mkdir()
    table = {"url": URLS[:2], "caption": CAPTIONS[:2], "vector": [[1.0, 0.0], [1.0]]}
    pd.DataFrame(table).to_parquet(tmp_path / "ready/a.parquet")
    with pytest.raises(CorpusError, match="another width"):
        publish_corpus(make(layout="parquet"))
    with pytest.raises(CorpusError, match="no member or column 'emb'"):
        publish_corpus(make(layout="parquet", vector_column="emb"))
