"""FAULTS 5, 56: whatever is in an index file, reading it gives an index or a typed error."""

from __future__ import annotations

import struct
from pathlib import Path

import faiss
import numpy as np
import pytest

from react_pipeline.indexing.files import read_index, write_index
from react_pipeline.indexing.index import Index
from react_pipeline.project.project import Project
from react_pipeline.store.errors import CorruptArtifact


def flat(path: Path) -> bytes:
    index = faiss.IndexFlatIP(8)
    index.add(np.eye(8, dtype=np.float32))
    write_index(index, path)
    return path.read_bytes()


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("how", ["empty", "text", "cut", "rows"])
def test_what_faiss_cannot_read_names_the_asset(tmp_path: Path, how: str, mapped: bool) -> None:
    path = tmp_path / "image.index"
    whole = flat(path)
    # The number of rows comes after the type and the dimension.
    rows = whole[:8] + struct.pack("<q", 1 << 60) + whole[16:]
    path.write_bytes({"empty": b"", "text": b"no index", "cut": whole[:-40], "rows": rows}[how])
    with pytest.raises(CorruptArtifact, match="rematerialize `faiss_index`"):
        read_index(path, mapped=mapped)


def test_an_index_of_another_length_is_not_mapped(
    indexed_project: Project,
) -> None:
    artifact = indexed_project.store.current("faiss_index", "all")
    index = Index(artifact)
    with artifact.file("image.index").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(CorruptArtifact, match=r"image\.index"):
        index.opened("image")
