"""The files of a set of chosen pairs: their table, training shards, vectors and contact sheet, and
the report of a retrieved set: for each class what was found, kept and dropped.

Does not belong here: which pairs are chosen (`retrieve`, `control`, `ranking`), the form of a shard
(`corpus`). Shapes: N pairs, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from PIL import ImageOps
from PIL.Image import Image

from react_pipeline.corpus import SHARDS, collect_pairs, contact_sheet, decode_image, vectors_file
from react_pipeline.embedding import Rows, StoredVectors, row_metadata
from react_pipeline.indexing import SIDES
from react_pipeline.pages import markdown_table, render
from react_pipeline.retrieval.images import Images
from react_pipeline.retrieval.queries import Queries
from react_pipeline.retrieval.ranking import DROP_REASONS, SHARED, of_kept_rows
from react_pipeline.settings import DomainConfig, RetrievalConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHEET_CLASSES = 12
"""Classes of the contact sheet: up to 2 MB and some 100 images that are decoded once more."""

_COLUMNS = ["row", "class", "classes", "prompt", "mode", "similarity", "score", "rank"]
_MORE = ["caption", "url", "image_sha256", "evaluation_similarity"]
_SHEET_IMAGES, _TILE_PIXELS = 8, 96
_CHUNK_ROWS = 8_192

MAX_ROWS = 1_000
"""Classes listed on the page; the fewest pairs first. All of them are in `classes.parquet`."""
_BINS = 50


def write_pairs(
    directory: Path,
    pairs: pd.DataFrame,
    images: Images,
    settings: RetrievalConfig,
) -> pd.DataFrame:
    """Write `pairs.parquet`, `shards/`, `image_vectors.npy`, `text_vectors.npy` (float16 (N, D), in
    the order of the shards) and `contact_sheet.png`.

    Args:
        pairs: Columns of `pairs.parquet`, but for those that the corpus describes a row by.

    Returns:
        The pairs that were collected, in the order given: all of them, unless an image became
        unavailable since it was chosen.
    """
    more = [name for name in images.source.columns if name not in pairs]
    pairs = pairs.join(row_metadata(images.embeddings, pairs["row"], more), on="row")
    on_sheet = rows_on_sheet(pairs)
    tiles: dict[int, Image] = {}

    def fetched() -> Iterator[tuple[Any, bytes]]:
        for pair, image in images.source.fetch(pairs):
            if pair.row in on_sheet.index:
                # Made small at once: an image may have millions of pixels.
                tile = decode_image(image, images.config.corpus.max_pixels)
                tiles[pair.row] = ImageOps.contain(tile, (_TILE_PIXELS, _TILE_PIXELS))
            yield pair, image

    rows = collect_pairs(fetched(), directory / SHARDS, settings.shard_pairs, len(pairs))
    pairs = pairs[pairs["row"].isin(rows)]
    pairs[[*_COLUMNS, *(name for name in _MORE if name in pairs)]].to_parquet(
        directory / "pairs.parquet", index=False
    )
    _save_vectors(directory, rows, images)
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


def _save_vectors(directory: Path, rows: Rows, images: Images) -> None:
    embeddings = images.embeddings
    captions = StoredVectors(embeddings, "text")
    shape = (len(rows), int(embeddings.counts["dimension"]))
    for side in SIDES:
        path = directory / vectors_file(side)
        table = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
        for start in range(0, len(rows), _CHUNK_ROWS):
            part = rows[start : start + _CHUNK_ROWS]
            table[start : start + len(part)] = (
                images.vectors(part) if side == "image" else captions.take(part)
            )
        table.flush()


def class_report(
    domain: DomainConfig,
    queries: Queries,
    hits: pd.DataFrame,
    candidates: pd.DataFrame,
    settings: RetrievalConfig,
) -> pd.DataFrame:
    """Return a row for each class, in the domain's order: candidates = kept + several_classes +
    the sum over `DROP_REASONS`.

    `several_classes` counts rows that another class wants more and reports. `shortfall` is how many
    hits fewer than k per query and mode the index gave (it holds fewer rows, or its search found no
    more).

    Args:
        hits: Of the search, a row each.
    """
    classes = pd.DataFrame({"class": domain.class_names})
    counts = pd.crosstab(candidates["class_id"], candidates["dropped"]).rename(columns={"": "kept"})
    counts = counts.reindex(columns=["kept", SHARED, *DROP_REASONS], fill_value=0)
    classes["prompts"] = queries.prompts["class_id"].value_counts()
    classes["seeds"] = queries.seeds["class_id"].value_counts()
    classes["candidates"] = candidates["class_id"].value_counts()
    classes = classes.join(counts).fillna(0)
    text_modes = sum(mode != "i2i" for mode in settings.modes)
    searches = classes["prompts"] * text_modes + classes["seeds"] * ("i2i" in settings.modes)
    found = hits["class_id"].value_counts().reindex(classes.index, fill_value=0)
    shortfall = searches * settings.k_per_prompt - found
    classes["shortfall"] = 0 if settings.choose == "all" else shortfall
    numbers = [column for column in classes.columns if column != "class"]
    return classes.astype(dict.fromkeys(numbers, "int64"))


def write_report(
    directory: Path,
    title: str,
    classes: pd.DataFrame,
    candidates: pd.DataFrame,
    settings: RetrievalConfig,
    counts: Mapping[str, Any],
    warning: str = "",
) -> None:
    """Write `classes.parquet`, `similarity.png` and `report.md`, in which names from outside are
    escaped.

    Args:
        classes: From `class_report`.
        counts: The artifact's counts: pairs, classes, starving, evaluation_sets.
        warning: A sentence for people.
    """
    classes.to_parquet(directory / "classes.parquet", index=False)
    draw_similarity(candidates, settings).savefig(
        directory / "similarity.png", metadata={"Software": None}
    )
    idle = [name for name in ("seeds", *DROP_REASONS, "shortfall") if not classes[name].any()]
    table = classes.drop(columns=idle).fillna("").sort_values("kept", kind="stable")
    rows = table.head(MAX_ROWS).itertuples(index=False, name=None)
    dropped = [
        (reason, int(classes[reason].sum()), meaning)
        for reason, meaning in DROP_REASONS.items()
        if reason not in idle
    ]
    page = render(
        "retrieval",
        "report.md",
        title=title,
        counts=counts,
        classes=len(classes),
        warning=warning,
        candidates=int(classes["candidates"].sum()),
        minimum=settings.min_per_class,
        dropped=Markup(markdown_table(["reason", "pairs", "meaning"], dropped)) if dropped else "",  # noqa: S704
        table=Markup(markdown_table(list(table), rows)),  # noqa: S704
        more=len(classes) - MAX_ROWS,
    )
    (directory / "report.md").write_text(page, encoding="utf-8")


def draw_similarity(candidates: pd.DataFrame, settings: RetrievalConfig) -> Figure:
    """Draw histograms of similarity, kept next to dropped, one panel a mode."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(settings.modes), 3.2), dpi=100, layout="constrained")
    panels = figure.subplots(1, len(settings.modes), squeeze=False)[0]
    kept = of_kept_rows(candidates)
    for mode, panel in zip(settings.modes, panels, strict=True):
        of_mode = candidates["mode"] == mode
        both = [candidates.loc[of_mode & some, "similarity"] for some in (kept, ~kept)]
        panel.hist(
            both,
            bins=_BINS,
            stacked=True,
            histtype="stepfilled",  # one shape, and not a patch for each bin, which is slow
            label=[f"kept ({len(both[0]):,})", f"dropped ({len(both[1]):,})"],
            color=["#2a6f97", "#c9c9c9"],
        )
        if (floor := settings.min_similarity.get(mode)) is not None:
            panel.axvline(floor, color="#b3261e", linewidth=1)
        panel.set(title=mode, xlabel="cosine of query and pair", ylabel="candidates")
        panel.legend(frameon=False)
    return figure
