"""The files of a set of chosen pairs: their table, their training shards and contact sheets.

Shared by the retrieved set and the control set. Does not belong here: which pairs are chosen
(`retrieve`, `control`), the form of a shard (`corpus`).
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from PIL import ImageOps

from react_pipeline.corpus import SHARDS, ImageSource, collect_pairs, contact_sheet, decode_image

SHEET_CLASSES, MAX_SHEETS = 12, 34
"""Classes of a contact sheet, and sheets of a set. That is enough for ELEVATER's largest data set,
of 397 classes; a sheet is up to 2 MB and some 100 images that are read and decoded once more."""

_COLUMNS = ["row", "class", "classes", "prompt", "mode", "similarity", "score", "rank"]
_MORE = ["caption", "url", "image_sha256", "evaluation_similarity"]
_SHEET_IMAGES, _TILE_PIXELS = 8, 96


def write_pairs(
    directory: Path, pairs: pd.DataFrame, source: ImageSource, *, shard_pairs: int, max_pixels: int
) -> pd.DataFrame:
    """Write `pairs.parquet`, `shards/` and the contact sheets.

    Args:
        pairs: Columns of `pairs.parquet` (`url` where the corpus has it) and those that the source
            needs.
        max_pixels: Cap for decoding.

    Returns:
        The pairs that were collected, in the order given: all of them, unless an image became
        unavailable since it was chosen.
    """
    rows = collect_pairs(pairs, source, directory / SHARDS, shard_pairs)
    pairs = pairs[pairs["row"].isin(rows)]
    pairs[[*_COLUMNS, *(name for name in _MORE if name in pairs)]].to_parquet(
        directory / "pairs.parquet", index=False
    )
    _draw_sheets(directory, pairs, source, max_pixels)
    if len(source.ledger):
        source.ledger.to_parquet(directory / "not_collected.parquet", index=False)
    return pairs


def sheets_of(pairs: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """The contact sheets of some pairs, each with its classes in the order of the pairs;
    `MAX_SHEETS` at the most.
    """
    titles = pairs["class"].drop_duplicates().tolist()
    pages = [
        titles[start : start + SHEET_CLASSES] for start in range(0, len(titles), SHEET_CLASSES)
    ]
    names = [
        "contact_sheet.png",
        *(f"contact_sheet_{number}.png" for number in range(2, MAX_SHEETS + 1)),
    ]
    # Where nothing could be collected there is a sheet of nothing.
    return list(zip(names, pages or [[]], strict=False))


def _draw_sheets(
    directory: Path, pairs: pd.DataFrame, source: ImageSource, max_pixels: int
) -> None:
    sheets = sheets_of(pairs)
    titles = [title for _, classes in sheets for title in classes]
    shown = pairs[pairs["class"].isin(titles)].groupby("class", sort=False).head(_SHEET_IMAGES)
    # Read once for all sheets, and made small at once: an image may have millions of pixels.
    tile = (_TILE_PIXELS, _TILE_PIXELS)
    images = {
        pair.row: ImageOps.contain(decode_image(data, max_pixels), tile)
        for pair, data in source.fetch(shown)
    }
    rows = shown.groupby("class", sort=False)["row"].agg(list)
    for name, classes in sheets:
        sheet = [
            (str(title) or "random pairs", [images[row] for row in rows[title] if row in images])
            for title in classes
        ]
        contact_sheet(sheet, directory / name, _TILE_PIXELS)
