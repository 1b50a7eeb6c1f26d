"""The files of a set of chosen pairs: their table, training shards, vectors and contact sheet.

Shared by the retrieved set and the control set. Does not belong here: which pairs are chosen
(`retrieve`, `control`), the form of a shard (`corpus`). Shapes: N pairs, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import ImageOps
from PIL.Image import Image

from react_pipeline.corpus import SHARDS, collect_pairs, contact_sheet, decode_image, vectors_file
from react_pipeline.embedding import Rows, row_vectors
from react_pipeline.indexing import SIDES
from react_pipeline.retrieval.images import Images
from react_pipeline.store import Artifact

SHEET_CLASSES = 12
"""Classes of the contact sheet: up to 2 MB and some 100 images that are decoded once more."""

_COLUMNS = ["row", "class", "classes", "prompt", "mode", "similarity", "score", "rank"]
_MORE = ["caption", "url", "image_sha256", "evaluation_similarity"]
_SHEET_IMAGES, _TILE_PIXELS = 8, 96
_CHUNK_ROWS = 8_192


def write_pairs(
    directory: Path,
    pairs: pd.DataFrame,
    images: Images,
    embeddings: Artifact,
    shard_pairs: int,
    max_pixels: int,
) -> pd.DataFrame:
    """Write `pairs.parquet`, `shards/`, `image_vectors.npy`, `text_vectors.npy` (float16 (N, D), in
    the order of the shards) and `contact_sheet.png`.

    Args:
        pairs: Columns of `pairs.parquet` (`url` where the corpus has it) and those that the source
            of `images` needs.
        max_pixels: Cap for decoding.

    Returns:
        The pairs that were collected, in the order given: all of them, unless an image became
        unavailable since it was chosen.
    """
    on_sheet = rows_on_sheet(pairs)
    tiles: dict[int, Image] = {}

    def fetched() -> Iterator[tuple[Any, bytes]]:
        for pair, image in images.source.fetch(pairs):
            if pair.row in on_sheet.index:
                # Made small at once: an image may have millions of pixels.
                tile = decode_image(image, max_pixels)
                tiles[pair.row] = ImageOps.contain(tile, (_TILE_PIXELS, _TILE_PIXELS))
            yield pair, image

    rows = collect_pairs(fetched(), directory / SHARDS, shard_pairs, len(pairs))
    pairs = pairs[pairs["row"].isin(rows)]
    pairs[[*_COLUMNS, *(name for name in _MORE if name in pairs)]].to_parquet(
        directory / "pairs.parquet", index=False
    )
    _save_vectors(directory, rows, images, embeddings)
    sheet = [
        (str(title) or "random pairs", [tiles[row] for row in of_class.index if row in tiles])
        for title, of_class in on_sheet.groupby(on_sheet, sort=False)
    ]
    contact_sheet(sheet, directory / "contact_sheet.png", _TILE_PIXELS)
    if len(images.source.ledger):
        images.source.ledger.to_parquet(directory / "not_collected.parquet", index=False)
    return pairs


def rows_on_sheet(pairs: pd.DataFrame) -> pd.Series:
    """Return the class of each pair on the contact sheet, by row: the first pairs of classes that
    are spread over all of them.
    """
    titles = pairs["class"].drop_duplicates()
    shown = titles.iloc[:: math.ceil(len(titles) / SHEET_CLASSES) or 1]
    first = pairs[pairs["class"].isin(shown)].groupby("class", sort=False).head(_SHEET_IMAGES)
    return first.set_index("row")["class"]


def _save_vectors(directory: Path, rows: Rows, images: Images, embeddings: Artifact) -> None:
    shape = (len(rows), int(embeddings.counts["dimension"]))
    for side in SIDES:
        path = directory / vectors_file(side)
        table = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
        for start in range(0, len(rows), _CHUNK_ROWS):
            part = rows[start : start + _CHUNK_ROWS]
            table[start : start + len(part)] = (
                images.vectors(part) if side == "image" else row_vectors(embeddings, side, part)
            )
        table.flush()
