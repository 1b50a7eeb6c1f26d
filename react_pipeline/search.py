"""Searching: free text against the index, to look at what a corpus holds before a domain is written.

Belongs here: one query and its pictures. Does not belong here: retrieval for a domain (`retrieve`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from react_pipeline.errors import InputError
from react_pipeline.lineage import Project, fresh
from react_pipeline.retrieve import SIDES

if TYPE_CHECKING:
    import pandas as pd


def search_pairs(project: Project, text: str, mode: str = "t2t", k: int = 12) -> pd.DataFrame:
    """The k pairs of the corpus most similar to a text.

    Args:
        project: The pipeline; its index must be fresh.
        text: Any text; it is encoded as it is, without a template.
        mode: `t2t` compares it with captions, `t2i` with images.
        k: How many pairs.

    Returns:
        Columns rank, similarity (cosine), row, caption and those of `collect.LOCATION`, best first.

    Raises:
        InputError: If the text is empty, the mode unknown, or the corpus is not indexed yet.
    """
    if not text.strip():
        raise InputError("the text is empty: say what to search for")
    if mode not in SIDES:
        raise InputError(f"--mode {mode!r}: use {' or '.join(SIDES)}")
    embeddings, index = fresh(project, "corpus_embeddings"), fresh(project, "faiss_index")
    from react_pipeline.collect import LOCATION
    from react_pipeline.index import open_index
    from react_pipeline.model import choose_device, load
    from react_pipeline.vectors import read_metadata

    clip = load(fresh(project, "base_checkpoint").path, choose_device(project.config.device))
    hits = open_index(index).search(SIDES[mode], clip.encode_texts([text]).numpy(), k)
    return hits.join(read_metadata(embeddings, LOCATION), on="row")


def draw_pairs(project: Project, pairs: pd.DataFrame, path: Path) -> None:
    """Write a PNG of the pairs of `search_pairs`: every image under its rank, similarity and caption.

    Raises:
        CorpusError: If a shard is gone or has changed since it was embedded.
        InputError: If the PNG cannot be written there.
    """
    from react_pipeline.collect import read_images_by_range
    from react_pipeline.corpus import shard_paths
    from react_pipeline.images import contact_sheet, decode_image

    images = {
        pair.row: decode_image(data, project.config.corpus.max_pixels)
        for pair, data in read_images_by_range(pairs, shard_paths(fresh(project, "corpus")))
    }
    rows = [
        (f"{pair.rank + 1}. {pair.similarity:.3f} {pair.caption[:120]}", [images[pair.row]])
        for pair in pairs.itertuples()
    ]
    try:
        contact_sheet(rows, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); choose another --output") from error
