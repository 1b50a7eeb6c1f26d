"""Ready embeddings as a corpus: taken stock of, adopted in place, read like our own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from support.ready import CAPTIONS, encoded, write_ready
from support.vectors import read_vectors

from react_pipeline.clip.base import publish_base
from react_pipeline.corpus.corpus import publish_corpus
from react_pipeline.embedding.embed import embed_corpus
from react_pipeline.embedding.vectors import read_metadata, row_metadata, vector_files, vectors_of
from react_pipeline.lineage import fresh
from react_pipeline.project.project import Project
from react_pipeline.store.artifacts import Artifact
from react_pipeline.store.errors import CorpusError, StaleArtifact

Make = Callable[..., Project]


@pytest.fixture(scope="session")
def text(tiny_checkpoint: Path) -> NDArray[np.float16]:
    return encoded(tiny_checkpoint, CAPTIONS)


@pytest.fixture
def folder(tmp_path: Path, text: NDArray[np.float16]) -> Path:
    write_ready(tmp_path / "ready", text)
    return tmp_path / "ready"


@pytest.fixture
def make(make_project: Make) -> Make:
    return lambda folder, **corpus: make_project(
        corpus={"kind": "embeddings", "embeddings": str(folder), **corpus}
    )


def adopted(project: Project) -> Artifact:
    publish_corpus(project)
    publish_base(project)
    return embed_corpus(project)


def test_nothing_is_copied_and_rows_are_read_where_they_lie(
    make: Make, folder: Path, text: NDArray[Any]
) -> None:
    project = make(folder)
    artifact = adopted(project)
    assert set(artifact.manifest["files"]) == {"ready.json"}
    assert {path.parent.parent for path in vector_files(artifact, "image")} == {folder}
    assert (artifact.counts["rows"], artifact.counts["dimension"]) == (16, 32)
    assert artifact.counts["encoder_similarity"] > 0.999
    assert np.array_equal(read_vectors(artifact, "text"), text.astype(np.float32))
    rows = pd.Series([15, 0, 7])
    assert np.array_equal(
        vectors_of(artifact, "image", rows), read_vectors(artifact, "image")[rows]
    )

    table = read_metadata(artifact, ["caption", "url", "image_sha256"])
    assert list(table["caption"]) == CAPTIONS
    assert set(table["image_sha256"]) == {""}
    chosen = row_metadata(artifact, rows, ["url", "image_sha256"])
    assert list(chosen.index) == [15, 0, 7]
    assert list(chosen["url"]) == [f"http://127.0.0.1:9/{row}.png" for row in rows]

    counts = fresh(project, "corpus").counts
    assert (counts["shards"], counts["pairs"]) == (3, 16)
    assert adopted(project).fingerprint == artifact.fingerprint


def test_a_folder_that_moves_stays_the_same_corpus(make: Make, folder: Path) -> None:
    first = adopted(make(folder))
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(CorpusError, match=r"img_emb_00\.npy"):
        vector_files(first, "image")
    second = adopted(make(folder.with_name("elsewhere")))
    assert second.fingerprint == first.fingerprint
    assert vector_files(first, "image")[0].parent.parent.name == "elsewhere"


def test_a_changed_file_is_refused_and_a_touched_one_is_not(make: Make, folder: Path) -> None:
    artifact = adopted(make(folder))
    path = folder / "img_emb/img_emb_01.npy"
    os.utime(path, (1, 1))
    assert len(read_vectors(artifact, "image")) == 16
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=r"`corpus`"):
        vectors_of(artifact, "image", pd.Series([7]))
    with pytest.raises(CorpusError, match=r"`corpus`"):
        vector_files(artifact, "image")
    assert vectors_of(artifact, "image", pd.Series([0])).shape == (1, 32)


def test_other_column_names_are_a_matter_of_configuration(
    make: Make, tmp_path: Path, text: NDArray[Any]
) -> None:
    captions = [None, " ", *CAPTIONS[2:]]
    write_ready(tmp_path / "laion", text, captions, names=("URL", "TEXT"))
    with pytest.raises(CorpusError, match=r"corpus\.url_column"):
        publish_corpus(make(tmp_path / "laion"))
    project = make(tmp_path / "laion", url_column="URL", caption_column="TEXT")
    artifact = adopted(project)
    assert list(read_metadata(artifact, ["caption"])["caption"])[:3] == ["", " ", CAPTIONS[2]]
    assert set(read_metadata(artifact).columns) == {"key", "caption", "url", "image_sha256"}
    with pytest.raises(StaleArtifact, match="caption_column"):
        fresh(make(tmp_path / "laion", url_column="URL"), "corpus_embeddings")


@pytest.mark.parametrize("vectors", ["random", "shuffled", "narrow"])
def test_vectors_of_another_encoder_are_refused(
    make: Make, tmp_path: Path, text: NDArray[Any], vectors: str
) -> None:
    other = {
        "random": np.random.default_rng(1).standard_normal(text.shape),
        "shuffled": text[::-1],
        "narrow": text[:, :16],
    }[vectors].astype(np.float32)
    other = other / np.linalg.norm(other, axis=1, keepdims=True)
    write_ready(tmp_path / "other", other)
    expected = "16 .* 32" if vectors == "narrow" else "another CLIP"
    with pytest.raises(CorpusError, match=expected):
        adopted(make(tmp_path / "other"))


def test_captions_that_are_all_empty_are_refused(
    make: Make, tmp_path: Path, text: NDArray[Any]
) -> None:
    write_ready(tmp_path / "empty", text, [" "] * len(CAPTIONS))
    with pytest.raises(CorpusError, match="every sampled caption"):
        adopted(make(tmp_path / "empty"))


def replaced(path: Path, vectors: NDArray[Any]) -> None:
    np.save(path, vectors)


def poisoned(path: Path, value: float) -> None:
    vectors = np.load(path)
    vectors[3] = value
    np.save(path, vectors)


BREAKAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (shutil.rmtree, r"corpus\.embeddings: .* is not a folder"),
    "no image vectors": (
        lambda f: [p.unlink() for p in (f / "img_emb").iterdir()],
        r"img_emb_00\.npy: is missing",
    ),
    "no caption vectors": (lambda f: (f / "text_emb").rename(f / "x"), "clip-retrieval-images"),
    "no metadata": (
        lambda f: (f / "metadata").rename(f / "x"),
        r"metadata_00\.parquet: is missing",
    ),
    "a file is missing": (
        lambda f: (f / "text_emb/text_emb_01.npy").unlink(),
        r"text_emb_01\.npy: is missing",
    ),
    "a cut file": (
        lambda f: os.truncate(f / "img_emb/img_emb_02.npy", 200),
        r"img_emb_02\.npy: the file is truncated",
    ),
    "a pickle": (
        lambda f: np.save(f / "img_emb/img_emb_00.npy", np.array([{}], object), allow_pickle=True),
        r"img_emb_00\.npy: the file is truncated",
    ),
    "numbers of another kind": (
        lambda f: replaced(f / "img_emb/img_emb_00.npy", np.ones((6, 32), np.float64)),
        "float64 .* rows of float16 or float32",
    ),
    "too few rows": (
        lambda f: replaced(
            f / "text_emb/text_emb_00.npy", np.load(f / "text_emb/text_emb_00.npy")[:-1]
        ),
        r"text_emb_00\.npy: 5 rows, img_emb/img_emb_00\.npy has 6",
    ),
    "other widths in one part": (
        lambda f: replaced(
            f / "text_emb/text_emb_00.npy", np.load(f / "text_emb/text_emb_00.npy")[:, :8]
        ),
        "vectors of 8 numbers",
    ),
    "a NaN": (
        lambda f: poisoned(f / "img_emb/img_emb_01.npy", np.nan),
        r"img_emb_01\.npy: row 3 has length nan",
    ),
    "a zero row": (
        lambda f: poisoned(f / "text_emb/text_emb_01.npy", 0),
        r"text_emb_01\.npy: row 3 has length 0",
    ),
    "cut metadata": (
        lambda f: os.truncate(f / "metadata/metadata_01.parquet", 300),
        "parquet file is truncated",
    ),
    "captions that are numbers": (
        lambda f: pd.DataFrame({"url": ["x"] * 6, "caption": range(6)}).to_parquet(
            f / "metadata/metadata_00.parquet"
        ),
        "column 'caption' holds int64, text is needed",
    ),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_broken_files_are_refused_with_the_name_of_the_file(
    make: Make, folder: Path, breakage: str
) -> None:
    damage, expected = BREAKAGES[breakage]
    damage(folder)
    project = make(folder)
    with pytest.raises(CorpusError, match=expected):
        publish_corpus(project)
    assert not project.store.keys("corpus")
