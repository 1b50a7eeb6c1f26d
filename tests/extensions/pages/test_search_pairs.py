"""Searching: by text and by image."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from support.drawings import draw, encode

from react_pipeline.embedding.vectors import read_metadata
from react_pipeline.extensions.pages.search import draw_pairs, search_pairs
from react_pipeline.project.project import Project
from react_pipeline.store.errors import InputError


def test_an_image_of_the_corpus_finds_itself(indexed_project: Project, tmp_path: Path) -> None:
    # Row 0 of the corpus is this drawing as a JPEG.
    path = tmp_path / "red.jpg"
    path.write_bytes(encode(draw("circle", "red", 0), "jpg"))
    pairs = search_pairs(indexed_project, image=path, k=3)
    assert pairs.iloc[0][["row", "rank"]].tolist() == [0, 0]
    assert pairs.iloc[0]["similarity"] == pytest.approx(1, abs=2e-3)
    draw_pairs(indexed_project, pairs, tmp_path / "found.png")
    with Image.open(tmp_path / "found.png") as sheet:
        assert sheet.height > 300


def test_an_image_is_compared_with_captions_on_request(
    indexed_project: Project, tmp_path: Path
) -> None:
    path = tmp_path / "red.png"
    path.write_bytes(encode(draw("circle", "red", 0)))
    pairs = search_pairs(indexed_project, image=path, mode="i2t", k=4)
    captions = read_metadata(
        indexed_project.store.current("corpus_embeddings", "all"), ["caption"]
    )["caption"]
    assert len(pairs) == 4 and pairs["caption"].tolist() == captions[pairs["row"]].tolist()


@pytest.mark.parametrize(
    ("image", "words"), [("/dev/zero", "/dev/zero: cannot be read"), (__file__, "not_an_image")]
)
def test_what_is_no_image_is_reported(indexed_project: Project, image: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        search_pairs(indexed_project, image=Path(image))
