"""The files of a set of chosen pairs: their table, their training shards and a contact sheet.

Belongs here: what a retrieved set and its control have alike. Does not belong here: which pairs are chosen (`retrieve`,
`control`), the form of a shard (`collect`).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

from react_pipeline.collect import SHARDS, collect_pairs
from react_pipeline.sources.image_source import ImageSource
from react_pipeline.sources.images import contact_sheet, decode_image

FETCHED = "fetched"
"""Scratch of a build, in which images that came over the net wait; never published."""

_COLUMNS = ["row", "class", "classes", "prompt", "mode", "similarity", "score", "rank"]
_MORE = ["caption", "url", "image_sha256", "evaluation_similarity"]
_SHEET_CLASSES, _SHEET_IMAGES = 12, 8


def clear_leftovers(directory: Path) -> None:
    """Remove what a killed build left in its staging directory, but for the images it had fetched."""
    for path in directory.iterdir():
        if path.is_dir() and path.name != FETCHED:
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()


def write_pairs(
    directory: Path, pairs: pd.DataFrame, source: ImageSource, *, shard_pairs: int, max_pixels: int
) -> pd.DataFrame:
    """Write `pairs.parquet`, `shards/` and `contact_sheet.png`, and remove the scratch directory.

    Args:
        directory: Gets the files.
        pairs: Columns of `pairs.parquet` (`url` where the corpus has it) and those that the source needs.
        source: Gives the images.
        shard_pairs: Pairs per shard.
        max_pixels: Cap for decoding.

    Returns:
        The pairs that were collected, in the order given: all of them, unless an image was lost since it was chosen.
    """
    collected = collect_pairs(pairs, source, directory / SHARDS, shard_pairs)
    if len(collected.failed):
        pairs = pairs[~pairs["row"].isin(collected.failed["row"])]
    pairs[[*_COLUMNS, *(name for name in _MORE if name in pairs)]].to_parquet(directory / "pairs.parquet", index=False)
    titles = pairs["class"].drop_duplicates().head(_SHEET_CLASSES)
    shown = pairs[pairs["class"].isin(titles)].groupby("class", sort=False).head(_SHEET_IMAGES)
    images = {pair.row: decode_image(data, max_pixels) for pair, data in source.fetch(shown)}
    sheet = [
        (str(title) or "random pairs", [images[row] for row in rows["row"] if row in images])
        for title, rows in shown.groupby("class", sort=False)
    ]
    contact_sheet(sheet, directory / "contact_sheet.png")
    if len(source.ledger):
        source.ledger.to_parquet(directory / "not_collected.parquet", index=False)
    source.discard()
    return pairs
