"""clip-retrieval's `KnnService` and `MetadataService` around our index, our model and our pictures.

Theirs are the form of requests and answers, the order of a search, the removal of near duplicates.
Not taken is what opens things that a user names: URLs of images to search with, and files at the
path that the metadata calls `image_path`. Shapes: K hits, D width. Does not belong here: pages,
addresses, ports (`serve`).
"""

import base64
import binascii
import io
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from flask import request
from flask_restful import abort  # type: ignore[import-untyped]
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from react_pipeline.corpus import (
    BadImage,
    ImageSource,
    decode_apart,
    decode_image,
    open_source,
)
from react_pipeline.embedding import Side, row_metadata
from react_pipeline.indexing import Index, StoredVectors
from react_pipeline.lineage import fresh
from react_pipeline.project import Project
from react_pipeline.stage import encoder_in
from react_pipeline.store import Artifact, ReactError
from react_pipeline.web_policy import plain_url

with warnings.catch_warnings():
    # clip-retrieval imports packages that warn of their own age.
    warnings.simplefilter("ignore")
    from clip_retrieval.clip_back import (
        FULL_KNN_REQUEST_TIME,
        ClipResource,
        KnnService,
        MetadataService,
    )

logger = logging.getLogger(__name__)

PICTURES = 100
"""How many results of one answer come with their picture; the page asks for 60 at a time."""
PICTURE_PIXELS = 384
"""Longer side of a picture as it is shown."""
RESULTS = 3_000
"""Maximum number of hits of one search: as many as clip-retrieval's front end asks for."""


class Question(BaseModel):
    """What the front end asks; fields that only other back ends understand are passed over.

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
    indice_name: str | None = None
    deduplicate: bool = False


class MetadataQuestion(BaseModel):
    """Which rows the front end wants described."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    ids: list[int] = Field(max_length=RESULTS)
    indice_name: str


class SearchedSide:
    """One side of the index in the form in which clip-retrieval asks FAISS: tuned, and ranked again
    where it must.
    """

    def __init__(self, index: Index, embeddings: Artifact, side: Side) -> None:
        self._index = index
        self._side = side
        self.stored = StoredVectors(embeddings, side)

    def search_and_reconstruct(
        self, query: NDArray[np.float32], k: int
    ) -> tuple[NDArray[Any], ...]:
        """Similarities (1, K), rows (1, K) and vectors (1, K, D) of the hits of one query (1, D),
        best first.
        """
        hits = self._index.search(self._side, query, k)
        rows = hits["row"].to_numpy(np.int64)
        return hits["similarity"].to_numpy()[None], rows[None], self.stored.take(rows)[None]


class Descriptions:
    """Describes rows: caption, key, and the picture itself or its URL."""

    def __init__(self, embeddings: Artifact, source: ImageSource, max_pixels: int) -> None:
        """`source` is asked for pictures of tars; those at URLs are left to the browser."""
        self.rows = int(embeddings.counts["rows"])
        self.max_pixels = max_pixels
        self._embeddings = embeddings
        self._source = source

    def get(self, ids: Sequence[int], _columns: list[str] | None = None) -> list[dict[str, Any]]:
        """One description a row, in their order; the first `PICTURES` of tars have `image`, a JPEG
        in base64.
        """
        if not len(ids):
            return []
        table = (
            row_metadata(self._embeddings, ids, self._source.columns)
            .rename_axis("row")
            .reset_index()
        )
        table["caption"] = table["caption"].fillna("").astype(str)
        if "url" in table:
            pairs = zip(table["url"], table["caption"], strict=True)
            return [
                {"caption": caption, "url": url} if plain_url(url) else {"caption": caption}
                for url, caption in pairs
            ]
        pictures = self._pictures(table.drop_duplicates("row").head(PICTURES))
        descriptions = []
        for pair in table.itertuples(index=False):
            # Not under the name `image_path`: clip-retrieval would open the file of that name.
            description = {
                "caption": pair.caption,
                "key": str(pair.image_path),
                "shard": int(pair.shard),
            }
            picture = pictures.get(int(pair.row))
            descriptions.append(
                description if picture is None else {**description, "image": picture}
            )
        return descriptions

    def _pictures(self, pairs: pd.DataFrame) -> dict[int, str]:
        pictures: dict[int, str] = {}
        try:
            for pair, data in self._source.fetch(pairs):
                image = decode_image(data, self.max_pixels)
                image.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
                buffer = io.BytesIO()
                image.save(buffer, format="JPEG", quality=90)
                pictures[int(pair.row)] = base64.b64encode(buffer.getvalue()).decode()
        except (BadImage, ReactError, OSError) as error:
            # A missing shard must not hide the other results.
            logger.warning("some pictures cannot be shown: %s", error)
        return pictures


class SearchService(KnnService):
    """clip-retrieval's search with our encoder; what it is asked is checked, and it opens no
    address and no file.
    """

    def post(self) -> Any:
        """Answer one search: a list of results, each with id, similarity and, of the first ones,
        its description.
        """
        question = _checked(Question)
        resource = _known(question.indice_name, self.clip_resources)
        embedding = question.embedding_input
        if question.row is not None:
            _require_rows([question.row], resource.metadata_provider.rows)
            embedding = resource.image_index.stored.take(np.array([question.row]))[0].tolist()
        try:
            with FULL_KNN_REQUEST_TIME.time():
                return self.query(
                    text_input=question.text or None,
                    image_input=question.image,
                    image_url_input=question.image_url,
                    embedding_input=embedding,
                    modality=question.modality,
                    num_images=min(question.num_images, RESULTS),
                    num_result_ids=min(
                        question.num_result_ids or question.num_images or 1, RESULTS
                    ),
                    indice_name=question.indice_name,
                    deduplicate=question.deduplicate,
                )
        except ValueError as error:
            abort(400, message=str(error))
        except ReactError as error:
            logger.warning("%s", error)
            abort(500, message=str(error))

    def compute_query(
        self,
        clip_resource: Any,
        text_input: str | None,
        image_input: str | None,
        image_url_input: str | None,
        embedding_input: list[float] | None,
        **_unused: Any,
    ) -> NDArray[np.float32]:
        """The query as a unit vector (1, D).

        Raises:
            ValueError: If it is not an image, is a URL, or a vector of another width.
        """
        clip = clip_resource.model
        if text_input:
            return np.asarray(clip.encode_texts([text_input]).numpy())
        if image_input is not None:
            image = _decoded(image_input, clip_resource.metadata_provider.max_pixels)
            return np.asarray(clip.encode_images(clip.preprocess(image).unsqueeze(0)).numpy())
        if image_url_input is not None:
            raise ValueError(
                "addresses are not opened here: search with an image file, or with a result"
            )
        vector = np.asarray(embedding_input, dtype=np.float32)
        length = float(np.linalg.norm(vector))
        if len(vector) != clip.dimension or not 0 < length < np.inf:
            raise ValueError(
                f"embedding_input must be {clip.dimension} finite numbers that are not all 0"
            )
        return (vector / length)[None]


class DescriptionService(MetadataService):
    """clip-retrieval's metadata of rows, of those that exist."""

    def post(self) -> Any:
        """Describe rows: a list of id and metadata."""
        question = _checked(MetadataQuestion)
        resource = _known(question.indice_name, self.clip_resources)
        _require_rows(question.ids, resource.metadata_provider.rows)
        return super().post()


def open_corpus(project: Project) -> Any:
    """clip-retrieval's resource of this project's index, encoder and pictures.

    Raises:
        MissingArtifact: If the corpus is not indexed yet.
        StaleArtifact: If the index is not of today's corpus or encoder; names the asset to
            rematerialize.
    """
    from react_pipeline.clip import choose_device, load

    index = fresh(project, "faiss_index")
    embeddings = fresh(project, "corpus_embeddings")
    encoder = fresh(project, encoder_in(embeddings.parents))
    corpus = fresh(project, "corpus")
    device = choose_device(project.config.device)
    clip = load(encoder.path, device)
    opened = Index(index, encoder.fingerprint, embeddings=embeddings)
    # Nothing is fetched into the scratch folder: `Descriptions` asks for pictures of tars only.
    source = open_source(project, corpus, Path())
    return ClipResource(
        device=device,
        model=clip,
        preprocess=clip.preprocess,
        tokenizer=clip.tokenizer,
        model_txt_mclip=None,
        safety_model=None,
        violence_detector=None,
        metadata_provider=Descriptions(embeddings, source, project.config.corpus.max_pixels),
        image_index=SearchedSide(opened, embeddings, "image"),
        text_index=SearchedSide(opened, embeddings, "text"),
        ivf_old_to_new_mapping=None,
        columns_to_return=None,
        metadata_is_ordered_by_ivf=False,
        aesthetic_embeddings=None,
    )


def _checked(model: type[BaseModel]) -> Any:
    try:
        return model.model_validate(request.get_json(force=True))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        abort(400, message=f"{'.'.join(map(str, first['loc'])) or 'request'}: {first['msg']}")


def _require_rows(numbers: Sequence[int], rows: int) -> None:
    if any(not 0 <= row < rows for row in numbers):
        abort(400, message=f"ids: rows are numbered from 0 to {rows - 1}")


def _known(name: str | None, resources: dict[str, Any]) -> Any:
    if name is not None and name not in resources:
        abort(400, message=f"indice_name: there is {', '.join(resources)}")
    return resources[name or next(iter(resources))]


def _decoded(text: str, max_pixels: int) -> Any:
    try:
        return decode_apart(base64.b64decode(text, validate=True), max_pixels)[0]
    except binascii.Error as error:
        raise ValueError("image: not base64") from error
    except BadImage as error:
        raise ValueError(f"image: cannot be decoded ({error})") from error
