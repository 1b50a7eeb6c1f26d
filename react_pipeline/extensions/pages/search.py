"""Searching the corpus: a text, a picture or one of its own pairs against the index; as a table, a
contact sheet, or a page in a browser.

Nothing opens what a browser names: no address, and no file at the path that the metadata calls
`image_path`. Pictures at URLs are left to the browser.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL.Image import Image
from pydantic import Field

from react_pipeline.corpus import (
    BadImage,
    ImageSource,
    contact_sheet,
    decode_apart,
    decode_image,
    open_source,
)
from react_pipeline.embedding import Side, StoredVectors, row_metadata, sides
from react_pipeline.extensions.pages.server import PER_PAGE, Asked, Board, Button, Item, Menu, View
from react_pipeline.indexing import Index
from react_pipeline.labelled import read_file
from react_pipeline.lineage import fresh
from react_pipeline.project import Project
from react_pipeline.stage import encoder_in
from react_pipeline.store import Artifact, InputError
from react_pipeline.web_policy import plain_url

if TYPE_CHECKING:
    from react_pipeline.clip import Clip

TEXT_MODES: dict[str, Side] = {"t2t": "text", "t2i": "image"}
IMAGE_MODES: dict[str, Side] = {"i2i": "image", "i2t": "text"}
"""What a query is compared with, by `--mode`; the first is the default."""
NO_IMAGES = (
    "only captions of this corpus are embedded, so search by text in captions, or with an image "
    "`--mode i2t`; `embedding.encode: both` embeds its images too"
)


@dataclass(frozen=True)
class CorpusSearch:
    """The index of a project, the model that made its vectors, and what describes its rows."""

    index: Index
    embeddings: Artifact
    clip: Clip
    source: ImageSource

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
        return cls(Index(index, encoder.fingerprint), embeddings, clip, source)

    def pairs(self, side: Side, query: str | Image | NDArray[np.float32], k: int) -> pd.DataFrame:
        """Return the k pairs most similar to a text, a picture or a unit vector (1, D)."""
        vector = query if isinstance(query, np.ndarray) else self._encode(query)
        hits = self.index.search(side, vector, k)
        return hits.join(row_metadata(self.embeddings, hits["row"], self.source.columns), on="row")

    def _encode(self, query: str | Image) -> NDArray[np.float32]:
        """Return the unit vector (1, D) of a text or a picture."""
        if isinstance(query, str):
            return np.asarray(self.clip.encode_texts([query]).numpy())
        return np.asarray(self.clip.encode_images(self.clip.preprocess(query)[None]).numpy())


def search_pairs(
    project: Project,
    text: str | None = None,
    mode: str | None = None,
    k: int = 12,
    *,
    image: Path | None = None,
) -> pd.DataFrame:
    """Return the k pairs of the corpus most similar to a text or to an image.

    Args:
        project: The pipeline; its index must be fresh.
        text: Any text; it is encoded as it is, without a template.
        mode: For a text `t2t` (compare it with captions, the default) or `t2i` (with images); for
            an image `i2i` (with images, the default) or `i2t` (with captions).
        image: An image file, instead of a text.

    Returns:
        Columns rank, similarity (cosine), row, caption and the others that locate the image, best
        first; `source`, the user's file or URL, where the corpus is a copy of these.

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
    corpus = project.config.corpus
    if side == "image" and project.config.images_wait:
        raise InputError(NO_IMAGES)
    query = str(text) if image is None else _read_image(image, corpus.max_pixels)
    search = CorpusSearch.of(project)
    pairs = search.pairs(side, query, k)
    if corpus.is_copy:
        origins = row_metadata(search.embeddings, pairs["row"], ["path", "url"]).fillna("")
        pairs["source"] = [corpus.source_of(one) for one in origins.to_dict("records")]
    return pairs


def draw_pairs(project: Project, pairs: pd.DataFrame, path: Path) -> None:
    """Write a PNG of the pairs of `search_pairs`: every image under its rank, similarity and
    caption.

    Images of a corpus by URL are fetched for it; an unavailable one is shown by its caption alone.

    Raises:
        CorpusError: If a shard is gone or has changed since it was embedded.
        InputError: If the PNG cannot be written there.
    """
    source = open_source(project, fresh(project, "corpus"))
    max_pixels = project.config.corpus.max_pixels
    images = {pair.row: [decode_image(data, max_pixels)] for pair, data in source.fetch(pairs)}
    rows = [
        (
            f"{pair.rank + 1}. {pair.similarity:.3f} {str(pair.caption or '')[:120]}",
            images.get(pair.row, []),
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
        return decode_image(read_file(path), max_pixels)
    except BadImage as error:
        raise InputError(f"{path}: {error}; --image wants an image file") from error


class Query(Asked):
    """What to search with: a text, a picture in base64, or the picture of a row; without any of
    them the page shows pairs at even distances.
    """

    text: str = Field(default="", max_length=10_000)
    image: str = ""
    row: int | None = Field(default=None, ge=0)
    side: Side | None = None
    page: int = Field(default=0, ge=0, lt=50)


class CorpusBoard(Board):
    """The indexed corpus."""

    hint = "A text is compared with captions and a picture with images, unless you choose."
    searches = True
    max_bytes = 16 << 20

    def __init__(self, project: Project) -> None:
        """Load index and model.

        Raises:
            MissingArtifact: If the corpus is not indexed yet.
            StaleArtifact: If the index is not of today's corpus or encoder.
        """
        self._corpus = CorpusSearch.of(project)
        self._rows = int(self._corpus.embeddings.counts["rows"])
        self._sides = sides(self._corpus.embeddings)
        self._links = project.config.corpus.fetches_images
        self.title = f"{project.config.project}: {self._rows:,} pairs"
        self.max_pixels = project.config.corpus.max_pixels
        self.pictures_from = "http: https:" if self._links else ""

    def view(self, asked: Mapping[str, Any]) -> View:
        """Show the nearest pairs, best first."""
        query = Query.model_validate(asked)
        wanted = query.text or self._query_picture(query)
        if wanted is None:
            rows = np.linspace(0, self._rows, min(PER_PAGE, self._rows), endpoint=False, dtype=int)
            table = row_metadata(self._corpus.embeddings, rows, self._corpus.source.columns)
            items = self._items(table.rename_axis("row").reset_index())
            return View("some of the corpus, at even distances", items)
        by_text = query.text or "image" not in self._sides
        side: Side = query.side or ("text" if by_text else "image")
        if side not in self._sides:
            raise InputError(NO_IMAGES)
        pairs = self._corpus.pairs(side, wanted, PER_PAGE * (query.page + 1) + 1)
        part, more = query.shown(len(pairs))
        names = tuple((name, "captions" if name == "text" else "images") for name in self._sides)
        return View(
            f"hits from {part.start + 1} on, most similar first",
            self._items(pairs[part]),
            more,
            menus=(Menu("side", "Nearest", side, names),),
        )

    def picture(self, number: int) -> bytes:
        """Return the image of a row; pictures at URLs are not fetched."""
        source = self._corpus.source
        if not self._links:
            pair = row_metadata(self._corpus.embeddings, [number], source.columns)
            for _, data in source.fetch(pair.rename_axis("row").reset_index()):
                return data
        raise LookupError(number)

    def _query_picture(self, query: Query) -> Image | NDArray[np.float32] | None:
        """Return the picture to search with, or the unit vector (1, D) of a row's."""
        if query.image:
            try:
                data = base64.b64decode(query.image, validate=True)
                return decode_apart(data, self.max_pixels)
            except (binascii.Error, BadImage) as error:
                raise InputError(f"the picture cannot be decoded ({error})") from error
        if query.row is None:
            return None
        if query.row >= self._rows or "image" not in self._sides:
            raise InputError(f"row {query.row} of this corpus has no embedded picture")
        vector = StoredVectors(self._corpus.embeddings, "image").take([query.row])
        return vector / np.linalg.norm(vector)

    def _items(self, pairs: pd.DataFrame) -> tuple[Item, ...]:
        items = []
        for pair in pairs.to_dict("records"):
            row, caption = pair["row"], str(pair["caption"] or "")
            picture = f"picture/{row}"
            if self._links:
                picture = str(pair["url"]) if plain_url(pair["url"]) else ""
            buttons = []
            if picture and "image" in self._sides:
                buttons.append(Button("similar pictures", ask={"row": row}))
            if caption:
                buttons.append(Button("similar captions", ask={"text": caption}))
            note = f"{pair['similarity']:.3f}" if "similarity" in pair else ""
            items.append(Item(picture, caption, note, buttons=tuple(buttons)))
        return tuple(items)
