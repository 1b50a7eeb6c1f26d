"""Ready embeddings as a corpus: taken stock of, linked or converted once, read like our own, and
refused where they do not fit.
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
import zipfile
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
    write_vector_column,
)
from support.stages import run_corpus
from support.trap import Trap
from support.vectors import read_vectors, vector_files

from react_pipeline.corpus import publish_corpus
from react_pipeline.embedding import (
    StoredVectors,
    read_metadata,
    row_metadata,
)
from react_pipeline.extensions.sources import ready_embeddings
from react_pipeline.extensions.sources.vector_files import open_vectors, read_shape, vector_blocks
from react_pipeline.lineage import fresh, run
from react_pipeline.project import Project
from react_pipeline.store import Artifact, CorpusError, CorruptArtifact, StaleArtifact

Make = Callable[..., Project]
URLS = [f"http://127.0.0.1:9/{row}.png" for row in range(len(CAPTIONS))]
DATACOMP = {"layout": "datacomp-b32", "caption_column": "text", "hash_column": "sha256"}


@pytest.fixture(scope="session")
def text(tiny_checkpoint: Path) -> NDArray[np.float16]:
    return encoded(tiny_checkpoint, CAPTIONS)


@pytest.fixture
def ready(tmp_path: Path) -> Path:
    return tmp_path / "ready"


@pytest.fixture
def make(make_project: Make, ready: Path) -> Make:
    corpus = {"kind": "embeddings", "embeddings": str(ready)}
    return lambda **more: make_project(corpus={**corpus, **more})


def adopted(project: Project) -> Artifact:
    return run_corpus(project, "corpus_embeddings")


def test_vectors_are_linked_and_metadata_keeps_its_fields(
    make: Make, ready: Path, text: NDArray[Any]
) -> None:
    captions = [None, " ", *CAPTIONS[2:]]
    write_ready(ready, text, captions, names=("URL", "TEXT"))
    with pytest.raises(CorpusError, match=r"corpus\.url_column"):
        publish_corpus(make())
    columns = {"url_column": "URL", "caption_column": "TEXT"}
    project = make(**columns)
    artifact = adopted(project)
    assert {path.resolve().parent.parent for path in vector_files(artifact, "image")} == {ready}
    assert (artifact.counts["rows"], artifact.counts["dimension"]) == (16, 32)
    assert artifact.counts["encoder_similarity"] > 0.999
    assert np.array_equal(read_vectors(artifact, "text"), text.astype(np.float32))
    rows = pd.Series([15, 0, 7])
    table = read_metadata(artifact)
    assert set(table.columns) == {"key", "caption", "url", "image_sha256"}
    assert list(table["caption"]) == ["", " ", *CAPTIONS[2:]]
    assert set(table["image_sha256"]) == {""}
    assert list(row_metadata(artifact, rows, ["url"])["url"]) == [URLS[row] for row in rows]
    assert fresh(project, "corpus").counts.items() >= {"shards": 3, "pairs": 16}.items()
    with pytest.raises(StaleArtifact, match="caption_column"):
        fresh(make(url_column="URL"), "corpus_embeddings")

    elsewhere = ready.rename(ready.with_name("elsewhere"))  # stays the same corpus
    again = adopted(make(**columns, embeddings=str(elsewhere)))
    assert again.fingerprint == artifact.fingerprint
    assert vector_files(again, "image")[0].resolve().parent.parent == elsewhere


def test_a_file_that_changes_later_is_refused(make: Make, ready: Path, text: NDArray[Any]) -> None:
    write_ready(ready, text)
    project = make()
    artifact = adopted(project)
    path = ready / "img_emb/img_emb_01.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptArtifact):
        StoredVectors(artifact, "image").take(pd.Series([7]))
    with pytest.raises(CorpusError, match=r"img_emb_01\.npy: is missing or has changed"):
        run(project, "corpus_embeddings", "all")


@pytest.mark.parametrize("how", ["stored", "deflated", "not unit"])
def test_what_cannot_be_linked_is_converted_once(
    make: Make, ready: Path, text: NDArray[Any], how: str
) -> None:
    save = np.savez_compressed if how == "deflated" else np.savez
    captions, doubled = [None, *CAPTIONS[1:]], how == "not unit"
    table = write_datacomp(ready, text * (1 + doubled), captions, URLS, save=save)
    counts = (artifact := adopted(make(**DATACOMP))).counts
    assert (counts["converted"], counts["normalised"]) == (4, 16 * doubled)
    assert np.allclose(read_vectors(artifact, "text"), text, atol=1e-3)
    if not doubled:
        assert np.allclose(read_vectors(artifact, "image"), paired(text), atol=2e-3)
    described = read_metadata(artifact, ["caption", "url", "hash"])
    assert list(described["url"]) == URLS
    assert list(described["caption"]) == ["", *CAPTIONS[1:]]
    assert list(described["hash"]) == list(table["sha256"])


def test_a_killed_conversion_goes_on_where_it_was(
    make: Make, ready: Path, text: NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_datacomp(ready, text, CAPTIONS, URLS)
    project, whole, done = make(**DATACOMP), ready_embeddings._write_metadata, []

    def dies_at_the_second(*given: Any) -> list[str]:
        done.append(given[1].number)
        if len(done) == 2:
            raise KeyboardInterrupt
        return whole(*given)

    monkeypatch.setattr(ready_embeddings, "_write_metadata", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        adopted(project)
    artifact = adopted(project)
    assert len(done) == 3 and done[2] == done[1]
    assert np.allclose(read_vectors(artifact, "text"), text, atol=1e-3)


@pytest.mark.parametrize("layout", ["clip-retrieval-images", "parquet"])
def test_captions_are_encoded_where_only_images_have_vectors(
    make: Make, ready: Path, text: NDArray[Any], layout: str
) -> None:
    image, more = paired(text), {}
    if layout == "parquet":
        write_vector_column(ready, 3 * image, {"identifier": URLS, "name": CAPTIONS})
        more = {"vector_column": "emb", "url_column": "identifier", "caption_column": "name"}
    else:
        write_ready(ready, text, image=image)
        shutil.rmtree(ready / "text_emb")
    project = make(layout=layout, **more)
    artifact = adopted(project)
    assert artifact.counts["captions_encoded"] == len(text)
    assert artifact.counts["encoder_standard_errors"] > 4
    assert np.allclose(read_vectors(artifact, "text"), text, atol=1e-3)
    assert np.allclose(read_vectors(artifact, "image"), image, atol=1e-3)
    table = read_metadata(artifact)
    assert [*table["caption"], *table["url"]] == [*CAPTIONS, *URLS]
    assert run_corpus(project).counts["rows"] == len(text)


def change(pattern: str, edit: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = sorted(folder.glob(pattern))[1]
        edit(pd.read_parquet(path)).to_parquet(path, index=False)

    return damage


def array(name: str, edit: Callable[[NDArray[Any]], Any]) -> Callable[[Path], None]:
    """Change a file of vectors."""
    return lambda folder: np.save(
        path := folder / f"{name.partition('_')[0]}_emb/{name}.npy", edit(np.load(path))
    )


def poisoned(value: float) -> Callable[[NDArray[Any]], NDArray[Any]]:
    return lambda vectors: np.concatenate(
        [vectors[:3], np.full_like(vectors[:1], value), vectors[4:]]
    )


def without_captions(folder: Path) -> None:
    np.savez(sorted(folder.glob("*.npz"))[1], b32_img=np.ones((8, 32), np.float16))


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, size)


Breakages = dict[str, tuple[Callable[[Path], Any], str]]
CLIP_RETRIEVAL: Breakages = {
    "no folder": (shutil.rmtree, r"corpus\.embeddings: .* is not a folder"),
    "no vectors of captions": (lambda f: (f / "text_emb").rename(f / "x"), "clip-retrieval-images"),
    "no metadata": (lambda f: (f / "metadata").rename(f / "x"), r"metadata_00\.parquet: is missin"),
    "a file is missing": (
        lambda f: (f / "text_emb/text_emb_01.npy").unlink(),
        r"text_emb_01\.npy: is missing",
    ),
    "a cut file": (cut("img_emb/img_emb_02.npy", 200), r"img_emb_02\.npy: the file is truncated"),
    "other numbers": (array("img_emb_00", np.float64), "float64 .* rows of float16 or float32"),
    "too few rows": (array("text_emb_00", lambda a: a[:-1]), r"text_emb_00\.npy: 5 rows, .*has 6"),
    "other widths in a part": (array("text_emb_00", lambda a: a[:, :8]), "vectors of 8 numbers"),
    "a NaN": (array("img_emb_01", poisoned(np.nan)), r"img_emb_01\.npy: row 3 has length nan"),
    "a zero row": (array("text_emb_01", poisoned(0)), r"text_emb_01\.npy: row 3 has length 0"),
    "zeros alone": (
        lambda f: [np.save(path, 0 * np.load(path)) for path in f.glob("text_emb/*")],
        r"text_emb_00\.npy: row 0 has length 0",
    ),
    "no row": (
        lambda f: (
            [np.save(path, np.load(path)[:0]) for path in f.glob("*_emb/*")]
            + [pq.write_table(pq.read_table(path)[:0], path) for path in f.glob("metadata/*")]
        ),
        "hold no row",
    ),
    "cut metadata": (cut("metadata/metadata_01.parquet", 300), "parquet file is truncated"),
    "captions that are numbers": (
        change("metadata/*", lambda table: table.assign(caption=1)),
        "column 'caption' holds int64, text is needed",
    ),
    "several captions each": (
        change("metadata/*", lambda table: table.assign(caption=[["a", "b"]] * len(table))),
        "column 'caption' holds list<.*>, text is needed",
    ),
}
OF_DATACOMP: Breakages = {
    "a missing member": (without_captions, "no member or column 'b32_txt'"),
    "fewer rows": (change("*.parquet", lambda table: table[1:]), r"7 rows, .*b32_img has 8"),
    "a cut npz": (
        lambda f: sorted(f.glob("*.npz"))[1].write_bytes(b"PK\3\4"),
        "file is truncated",
    ),
}


@pytest.mark.parametrize("breakage", CLIP_RETRIEVAL | OF_DATACOMP)
def test_what_does_not_fit_is_refused_by_name(
    make: Make, ready: Path, text: NDArray[Any], breakage: str
) -> None:
    if breakage in CLIP_RETRIEVAL:
        write_ready(ready, text)
        project = make()
    else:
        write_datacomp(ready, text, CAPTIONS, URLS)
        project = make(**DATACOMP)
    damage, expected = (CLIP_RETRIEVAL | OF_DATACOMP)[breakage]
    damage(ready)
    with pytest.raises(CorpusError, match=expected):
        adopted(project)


@pytest.mark.parametrize("what", ["random", "narrow", "rows", "images", "empty"])
def test_vectors_of_another_encoder_are_refused(
    make: Make, ready: Path, text: NDArray[Any], what: str
) -> None:
    more: dict[str, Any] = {}
    if what in ("random", "narrow"):
        write_ready(ready, text[:, :16] if what == "narrow" else np.roll(text, 1, axis=1))
    elif what == "images":
        write_vector_column(ready, paired(text)[::-1], {"url": URLS, "caption": CAPTIONS})
        more = {"layout": "parquet", "vector_column": "emb"}
    else:
        captions = [" "] * len(CAPTIONS) if what == "empty" else CAPTIONS[::-1]
        write_datacomp(ready, text, captions, URLS)
        more = DATACOMP
    expected = {
        "narrow": "16 numbers, the configured encoder makes 32",
        "images": "standard errors",
        "empty": "every sampled caption",
    }
    with pytest.raises(CorpusError, match=expected.get(what, "another CLIP")):
        adopted(make(**more))


def test_lists_of_other_lengths_are_no_vectors(
    make: Make, ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready.mkdir()
    table = {"url": URLS[:2], "caption": CAPTIONS[:2], "vector": [[1.0] * 32, [1.0]]}
    pd.DataFrame(table).to_parquet(ready / "a.parquet")
    with pytest.raises(CorpusError, match="another width"):
        adopted(make(layout="parquet"))
    with monkeypatch.context() as short, pytest.raises(CorpusError, match="another width"):
        short.setattr("react_pipeline.extensions.sources.vector_files.BLOCK_ROWS", 1)
        adopted(make(layout="parquet"))
    pd.DataFrame({**table, "vector": 1.0}).to_parquet(ready / "a.parquet")
    with pytest.raises(CorpusError, match="not lists of numbers"):
        adopted(make(layout="parquet"))
    with pytest.raises(CorpusError, match="no member or column 'emb'"):
        publish_corpus(make(layout="parquet", vector_column="emb"))


@pytest.mark.parametrize("form", ["pickle", "npy", "npz"])
def test_pickles_are_refused_unread(tmp_path: Path, form: str) -> None:  # FAULTS 24, 56
    marker, path = tmp_path / "owned", tmp_path / "img_emb_0.npy"
    buffer = io.BytesIO()
    np.save(buffer, np.array([[Trap(marker)]], dtype=object), allow_pickle=True)
    path.write_bytes(pickle.dumps(Trap(marker)) if form == "pickle" else buffer.getvalue())
    if form == "npz":
        with zipfile.ZipFile(tmp_path / "0.npz", "w") as archive:
            archive.writestr("b32_img.npy", buffer.getvalue())
        path = tmp_path / "0.npz" / "b32_img"
    for read in (open_vectors, read_shape, lambda name: list(vector_blocks(name))):
        with pytest.raises(CorpusError, match=path.name):
            read(path)
    assert not marker.exists()
