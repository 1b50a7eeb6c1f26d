"""FAULTS 24, 56: files of vectors that somebody else wrote run no code and raise typed errors."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from react_pipeline.embedding.mapped_vectors import open_vectors
from react_pipeline.extensions.ready.vector_files import shape_of, take_vectors
from react_pipeline.store.errors import CorpusError


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def pickled(path: Path) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([[Evil(path)]], dtype=object), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["pickle", "npy", "stored", "compressed"])
def test_pickles_among_ready_embeddings_are_refused_unread(tmp_path: Path, form: str) -> None:  # 24
    marker, path = tmp_path / "owned", tmp_path / "img_emb_0.npy"
    if form in ("pickle", "npy"):
        path.write_bytes(pickle.dumps(Evil(marker)) if form == "pickle" else pickled(marker))
    else:
        method = zipfile.ZIP_STORED if form == "stored" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(tmp_path / "0.npz", "w", method) as archive:
            archive.writestr("b32_img.npy", pickled(marker))
        path = tmp_path / "0.npz" / "b32_img"
    for read in (open_vectors, shape_of, lambda name: take_vectors(name, np.array([0]))):
        with pytest.raises(CorpusError, match=path.name):
            read(path)
    assert not marker.exists()
