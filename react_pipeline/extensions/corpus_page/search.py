"""Searching: a text or an image against the index, to look at what a corpus holds before a domain
is written.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
from PIL.Image import Image

from react_pipeline.corpus import (
    BadImage,
    ImageSource,
    contact_sheet,
    decode_image,
    open_source,
)
from react_pipeline.embedding import Side, row_metadata
from react_pipeline.indexing import Index
from react_pipeline.lineage import fresh
from react_pipeline.project import Project
from react_pipeline.stage import encoder_in
from react_pipeline.store import MAX_IMAGE_BYTES, Artifact, InputError, read_bounded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from react_pipeline.clip import Clip

TEXT_MODES: dict[str, Side] = {"t2t": "text", "t2i": "image"}
NO_IMAGES = (
    "only captions of this corpus are embedded, so search by text in captions, or with an image "
    "`--mode i2t`; `embedding.encode: both` embeds its images too"
)
IMAGE_MODES: dict[str, Side] = {"i2i": "image", "i2t": "text"}


@dataclass(frozen=True)
class CorpusSearch:
    """The index of a project, the model that made its vectors, and what describes its rows.

    `source` is asked for pictures of tars alone: nothing is fetched.
    """

    index: Index
    embeddings: Artifact
    clip: Clip
    source: ImageSource
    max_pixels: int
    links: bool
    """Whether pictures are at URLs, which the browser opens."""

    @classmethod
    def of(cls, project: Project) -> Self:
        """Open them.

        Raises:
            MissingArtifact: If the corpus is not indexed yet.
            StaleArtifact: If the index is not of today's corpus or encoder.
        """
        index = fresh(project, "faiss_index")  # first: the command that an error names builds both
        embeddings = fresh(project, "corpus_embeddings")
        encoder = fresh(project, encoder_in(embeddings.parents))
        source = open_source(project, fresh(project, "corpus"))
        from react_pipeline.clip import choose_device, load

        clip = load(encoder.path, choose_device(project.config.device))
        open_index = Index(index, encoder.fingerprint, embeddings=embeddings)
        corpus = project.config.corpus
        links = corpus.fetches_images
        return cls(open_index, embeddings, clip, source, corpus.max_pixels, links)

    def encode(self, query: str | Image) -> NDArray[np.float32]:
        """The unit vector (1, D) of a text or a picture."""
        if isinstance(query, str):
            return np.asarray(self.clip.encode_texts([query]).numpy())
        pixels = self.clip.preprocess(query).unsqueeze(0)
        return np.asarray(self.clip.encode_images(pixels).numpy())


def search_pairs(
    project: Project,
    text: str | None = None,
    mode: str | None = None,
    k: int = 12,
    *,
    image: Path | None = None,
) -> pd.DataFrame:
    """The k pairs of the corpus most similar to a text or to an image.

    Args:
        project: The pipeline; its index must be fresh.
        text: Any text; it is encoded as it is, without a template.
        mode: For a text `t2t` (compare it with captions, the default) or `t2i` (with images); for
            an image `i2i` (with images, the default) or `i2t` (with captions).
        image: An image file, instead of a text.

    Returns:
        Columns rank, similarity (cosine), row, caption and the others that locate the image, best
        first; `source`, the
        user's file or URL, where the corpus is a copy of these.

    Raises:
        InputError: If there is neither a text nor an image, or both; if the file is not an image;
            if the mode does not fit; or if the corpus is not indexed yet.
    """
    if image is not None and text:
        raise InputError("give a text or --image, not both")
    if image is None and not (text or "").strip():
        raise InputError("the text is empty: say what to search for, or give --image")
    what, modes = ("a text", TEXT_MODES) if image is None else ("an image", IMAGE_MODES)
    side = modes.get(mode or next(iter(modes)))
    if side is None:
        raise InputError(f"--mode {mode!r}: with {what} use {' or '.join(modes)}")
    if side == "image" and project.config.images_wait:
        raise InputError(NO_IMAGES)
    picture = None if image is None else _read_image(image, project.config.corpus.max_pixels)
    search = CorpusSearch.of(project)
    embeddings = search.embeddings
    query = search.encode(str(text) if picture is None else picture)
    hits = search.index.search(side, query, k)
    metadata = row_metadata(embeddings, hits["row"], search.source.columns)
    if (corpus := project.config.corpus).is_copy:
        origins = (
            row_metadata(embeddings, hits["row"], ["path", "url"]).fillna("").to_dict("records")
        )
        metadata["source"] = [corpus.source_of(fields) for fields in origins]
    return hits.join(metadata, on="row")


def draw_pairs(project: Project, pairs: pd.DataFrame, path: Path) -> None:
    """Write a PNG of the pairs of `search_pairs`: every image under its rank, similarity and
    caption.

    Images of a corpus by URL are fetched for it; an unavailable one is shown by its caption alone.

    Raises:
        CorpusError: If a shard is gone or has changed since it was embedded.
        InputError: If the PNG cannot be written there.
    """
    corpus = fresh(project, "corpus")
    images = {
        pair.row: decode_image(data, project.config.corpus.max_pixels)
        for pair, data in open_source(project, corpus).fetch(pairs)
    }
    rows = [
        (
            f"{pair.rank + 1}. {pair.similarity:.3f} {str(pair.caption or '')[:120]}",
            [images[pair.row]] if pair.row in images else [],
        )
        for pair in pairs.itertuples()
    ]
    try:
        contact_sheet(rows, path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); choose another --output"
        ) from error


def _read_image(path: Path, max_pixels: int) -> Image:
    try:
        return decode_image(read_bounded(path, MAX_IMAGE_BYTES), max_pixels)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); --image wants the path of an image file"
        ) from error
    except BadImage as error:
        raise InputError(f"{path}: {error}; --image wants an image that can be decoded") from error
