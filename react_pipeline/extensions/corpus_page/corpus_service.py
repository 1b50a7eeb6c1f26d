"""What the page of the corpus asks: a search, and descriptions of rows.

Requests and answers have the form of clip-retrieval's back end, whose clients work here. Nothing
opens what a user names: no URL of an image to search with, and no file at the path that the
metadata calls `image_path`. Shapes: K hits, D width. Does not belong here: routes (`page`).
"""

import base64
import binascii
import io
import logging
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from react_pipeline.corpus import BadImage, decode_apart, decode_image
from react_pipeline.embedding import row_metadata, sides
from react_pipeline.extensions.corpus_page.search import NO_IMAGES, CorpusSearch
from react_pipeline.indexing import StoredVectors
from react_pipeline.store import ReactError
from react_pipeline.web_policy import plain_url

logger = logging.getLogger(__name__)

PICTURES = 100
"""How many results of one answer come with their picture; the page asks for 60 at a time."""
PICTURE_PIXELS = 384
"""Longer side of a picture as it is shown."""
RESULTS = 3_000
"""Maximum number of hits of one search: as many as clip-retrieval's front end asks for."""
DUPLICATE_SIMILARITY = 0.94
"""Of near duplicates, as in clip-retrieval."""


class Question(BaseModel):
    """What the front end asks; fields that only other back ends understand are ignored.

    `row` searches with the stored vector of that row's picture.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    text: str | None = Field(default=None, max_length=10_000)
    image: str | None = None
    image_url: str | None = None
    embedding_input: list[float] | None = Field(default=None, max_length=65_536)
    row: int | None = Field(default=None, ge=0)
    modality: Literal["image", "text"] = "image"
    num_images: int = Field(default=40, ge=0)
    num_result_ids: int | None = Field(default=None, gt=0)
    indice_name: Literal["corpus"] | None = None
    deduplicate: bool = False


class MetadataQuestion(BaseModel):
    """Which rows the front end wants described."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    ids: list[int] = Field(max_length=RESULTS)
    indice_name: Literal["corpus"] | None = None


class CorpusService:
    """Answers to the front end; a question that cannot be answered is a ValueError."""

    def __init__(self, corpus: CorpusSearch) -> None:
        """Nothing is read yet."""
        self.rows = int(corpus.embeddings.counts["rows"])
        self._corpus = corpus
        self._vectors = {
            side: StoredVectors(corpus.embeddings, side) for side in sides(corpus.embeddings)
        }

    def search(self, body: Any) -> list[dict[str, Any]]:
        """Answer one search: id and similarity of each hit, best first; the first `num_images` are
        described too.
        """
        question = Question.model_validate(body)
        shown = min(question.num_images, RESULTS)
        k = min(question.num_result_ids or question.num_images or 1, RESULTS)
        if question.modality not in self._vectors:
            raise ValueError(NO_IMAGES)
        hits = self._corpus.index.search(question.modality, self._query(question), k)
        if question.deduplicate:
            vectors = self._vectors[question.modality].take(hits["row"].to_numpy(np.int64))
            hits = hits.iloc[_first_of_duplicates(vectors)]
        answers = [
            {"id": row, "similarity": similarity}
            for row, similarity in zip(
                hits["row"].tolist(), hits["similarity"].tolist(), strict=True
            )
        ]
        for answer, description in zip(answers, self._described(hits["row"][:shown]), strict=False):
            answer |= description
        return answers

    def describe(self, body: Any) -> list[dict[str, Any]]:
        """Describe rows: id and metadata of each."""
        ids = MetadataQuestion.model_validate(body).ids
        self._require_rows(ids)
        described = zip(ids, self._described(ids), strict=True)
        return [{"id": row, "metadata": metadata} for row, metadata in described]

    def _query(self, question: Question) -> NDArray[np.float32]:
        """The query as a unit vector (1, D)."""
        if question.row is not None:
            self._require_rows([question.row])
            if "image" not in self._vectors:
                raise ValueError(NO_IMAGES)
            vector = self._vectors["image"].take(np.array([question.row]))[0]
        elif question.text:
            return self._corpus.encode(question.text)
        elif question.image is not None:
            return self._corpus.encode(_decoded(question.image, self._corpus.max_pixels))
        elif question.image_url is not None:
            raise ValueError(
                "addresses are not opened here: search with an image file, or with a result"
            )
        elif question.embedding_input is not None:
            vector = np.asarray(question.embedding_input, dtype=np.float32)
        else:
            raise ValueError("one of text, image, embedding_input and row must be given")
        dimension = self._corpus.clip.dimension
        length = float(np.linalg.norm(vector))
        if len(vector) != dimension or not 0 < length < np.inf:
            raise ValueError(
                f"embedding_input must be {dimension} finite numbers that are not all 0"
            )
        return (vector / length)[None]

    def _require_rows(self, ids: Sequence[int]) -> None:
        if any(not 0 <= row < self.rows for row in ids):
            raise ValueError(f"ids: rows are numbered from 0 to {self.rows - 1}")

    def _described(self, ids: Sequence[int] | pd.Series) -> list[dict[str, Any]]:
        """Caption, and key or URL of each row; the first `PICTURES` of tars have `image`, a JPEG in
        base64. Pictures at URLs are left to the browser.
        """
        if not len(ids):
            return []
        table = row_metadata(self._corpus.embeddings, ids, self._corpus.source.columns)
        table = table.rename_axis("row").reset_index()
        table["caption"] = table["caption"].fillna("").astype(str)
        if self._corpus.links:
            pairs = zip(table["url"], table["caption"], strict=True)
            return [
                {"caption": caption, "url": url} if plain_url(url) else {"caption": caption}
                for url, caption in pairs
            ]
        pictures = self._pictures(table.drop_duplicates("row").head(PICTURES))
        return [
            {
                "caption": pair.caption,
                "key": str(getattr(pair, "image_path", "")),
                **pictures.get(int(pair.row), {}),
            }
            for pair in table.itertuples(index=False)
        ]

    def _pictures(self, pairs: pd.DataFrame) -> dict[int, dict[str, str]]:
        pictures: dict[int, dict[str, str]] = {}
        try:
            for pair, data in self._corpus.source.fetch(pairs):
                image = decode_image(data, self._corpus.max_pixels)
                image.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
                buffer = io.BytesIO()
                image.save(buffer, format="JPEG", quality=90)
                pictures[int(pair.row)] = {"image": base64.b64encode(buffer.getvalue()).decode()}
        except (BadImage, ReactError, OSError) as error:
            # A missing shard must not hide the other results.
            logger.warning("some pictures cannot be shown: %s", error)
        return pictures


def _first_of_duplicates(vectors: NDArray[np.float32]) -> list[int]:
    """The positions (K, D) that are like none that was kept before."""
    alike = vectors @ vectors.T >= DUPLICATE_SIMILARITY
    kept: list[int] = []
    for position in range(len(vectors)):
        if not alike[position, kept].any():
            kept.append(position)
    return kept


def _decoded(text: str, max_pixels: int) -> Any:
    try:
        return decode_apart(base64.b64decode(text, validate=True), max_pixels)[0]
    except binascii.Error as error:
        raise ValueError("image: not base64") from error
    except BadImage as error:
        raise ValueError(f"image: cannot be decoded ({error})") from error
