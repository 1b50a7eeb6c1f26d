"""Browsing the corpus: its pairs nearest to a text, an uploaded picture, or one of its pictures.

Nothing opens what a browser names: no address, and no file at the path that the metadata calls
`image_path`. Pictures at URLs are left to the browser.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL.Image import Image
from pydantic import Field

from react_pipeline.corpus import BadImage, decode_apart
from react_pipeline.embedding import Side, row_metadata, sides, vectors_of
from react_pipeline.extensions.pages.search import NO_IMAGES, CorpusSearch
from react_pipeline.extensions.pages.server import PER_PAGE, Asked, Board, Button, Item, Menu, View
from react_pipeline.project import Project
from react_pipeline.store import InputError
from react_pipeline.web_policy import plain_url


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
        wanted = query.text or self._picture_of(query)
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

    def _picture_of(self, query: Query) -> Image | NDArray[np.float32] | None:
        """Return the picture to search with, or the unit vector (1, D) of a row's."""
        if query.image:
            try:
                data = base64.b64decode(query.image, validate=True)
                return decode_apart(data, self.max_pixels)[0]
            except (binascii.Error, BadImage) as error:
                raise InputError(f"the picture cannot be decoded ({error})") from error
        if query.row is None:
            return None
        if query.row >= self._rows or "image" not in self._sides:
            raise InputError(f"row {query.row} of this corpus has no embedded picture")
        vector = vectors_of(self._corpus.embeddings, "image", [query.row])
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
