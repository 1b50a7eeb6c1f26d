"""The files of a set of chosen pairs: their table, their training shards and contact sheets.

That is what a retrieved set and its control have alike, and how a killed build of either resumes.
Does not belong here: which pairs are chosen (`retrieve`, `control`), the form of a shard
(`corpus`).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import ImageOps

from react_pipeline.corpus import SHARDS, ImageSource, collect_pairs, contact_sheet, decode_image
from react_pipeline.store import MANIFEST, remove_scratch, seal, sealed

FETCHED = "fetched"
"""Scratch of a build, in which images that came over the net wait; never published."""

SEARCHED = "searched"
"""Scratch of a build, in which the parts of a search wait; never published."""

FINISHED = "finished.json"
"""Vouches for all other files of a build, with its counts; published with them, since they are
hashed after it.
"""

SHEET_CLASSES, MAX_SHEETS = 12, 34
"""Classes of a contact sheet, and sheets of a set. That is enough for ELEVATER's largest data set,
of 397 classes; a sheet is up to 2 MB and some 100 images that are read and decoded once more."""

_COLUMNS = ["row", "class", "classes", "prompt", "mode", "similarity", "score", "rank"]
_MORE = ["caption", "url", "image_sha256", "evaluation_similarity"]
_SHEET_IMAGES, _TILE_PIXELS = 8, 96


def resumable(
    choose: Callable[[Path], tuple[ImageSource, dict[str, Any]]],
) -> Callable[[Path], dict[str, Any]]:
    """What `Store.build` calls to make a set, of which a killed build leaves what took long.

    Images that were fetched and parts of a search stay until the set is written, on the disk and
    vouched for. From then on it is published as it is: hashing and publishing gigabytes takes
    minutes, and fetching them again hours.

    Args:
        choose: Writes the set into a directory; gives the source of its images, and the counts.
    """

    def write(directory: Path) -> dict[str, Any]:
        counts: dict[str, Any] | None = sealed(directory / FINISHED)
        if counts is not None:
            remove_scratch(directory / FETCHED)
            return counts
        started = time.monotonic()
        for path in directory.iterdir():
            if path.is_file():
                path.unlink()
            elif path.name not in (FETCHED, SEARCHED):
                shutil.rmtree(path)
        source, counts = choose(directory)
        remove_scratch(directory / SEARCHED)
        files = [
            path
            for path in directory.rglob("*")
            if path.is_file() and path.name not in (FINISHED, MANIFEST)
        ]
        seal(
            directory / FINISHED,
            (path for path in files if not path.is_relative_to(directory / FETCHED)),
            counts,
        )
        source.discard()
        return {**counts, "seconds": round(time.monotonic() - started, 2)}

    return write


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
            unavailable since it was
        chosen.
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
    rows = {
        title: of_class["row"].tolist() for title, of_class in shown.groupby("class", sort=False)
    }
    for name, classes in sheets:
        sheet = [
            (str(title) or "random pairs", [images[row] for row in rows[title] if row in images])
            for title in classes
        ]
        contact_sheet(sheet, directory / name, _TILE_PIXELS)
