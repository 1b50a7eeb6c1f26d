"""Images of chosen rows, by their URLs, out of a pool that all domains of a store share.

Each build downloads into a folder of its own in the pool and reads all of them, so processes never
write to the same file. Two builds at once take turns, to fetch nothing twice. Does not belong here:
which rows are chosen (`retrieval`), fetching (`downloads`).
"""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from react_pipeline.corpus import ImageSource
from react_pipeline.extensions.web.downloads import download_images
from react_pipeline.extensions.web.table_columns import TableColumns
from react_pipeline.store import digest_of, locked
from react_pipeline.web_policy import plain_url

URL_COLUMNS = ["url", "caption"]
"""Columns of the corpus' metadata that locate and describe a pair."""


class UrlSource(ImageSource):
    """Images by their URLs, fetched once into the pool and checked by the corpus' rules for
    images.
    """

    def __init__(self, corpus: TableColumns, pool: Path) -> None:
        """Fetch nothing yet."""
        super().__init__([*URL_COLUMNS, *(["hash"] if corpus.hash_column else [])], "url")
        self.corpus = corpus
        rules = corpus.download.identity() | {"retries": None, "max_pixels": corpus.max_pixels}
        self.pool = pool / digest_of(rules)[:16]
        self._own = self.pool / secrets.token_hex(8)

    def fetchable(self, rows: pd.DataFrame) -> pd.Series:
        """Return whether each URL is a plain one; no round of fetching is spent on others."""
        return rows["url"].map(lambda url: plain_url(url) is not None)

    def fetch(self, rows: pd.DataFrame) -> Iterator[tuple[Any, bytes]]:
        """Fetch what is not there yet, then read each image; a row without a caption fails as
        `empty_caption`.
        """
        captions = (
            rows["caption"]
            .fillna("")
            .astype(str)
            .str.strip()
            .str[: self.corpus.max_caption_chars]
            .str.strip()
        )
        empty = rows[captions == ""]
        self._failed.update(
            {int(row.row): (str(row.url), "empty_caption", "", 0) for row in empty.itertuples()}
        )
        described_rows = rows.rename(columns={"class": "label"}).assign(caption=captions)[
            captions != ""
        ]
        table = described_rows[["row", *self.columns]].drop(columns="caption")
        settings = self.corpus.download
        with locked(self.pool / ".lock"):
            others = [folder for folder in self.pool.iterdir() if folder.is_dir()]
            earlier = [folder for folder in others if folder != self._own]
            got = download_images(table, self._own, settings, self.corpus.max_pixels, earlier)
            for folder in {kept.path.parent for kept in got.kept.values()}:
                os.utime(folder)  # used now, for `prune`
        self._failed.update(
            {int(row): tuple(about) for row, *about in got.failed.to_numpy().tolist()}
        )
        digests = got.images.rename(columns={"source_sha256": "image_sha256"})
        described = described_rows.drop(columns="image_sha256", errors="ignore").merge(
            digests, on="row"
        )
        for pair in described.sort_values("row", kind="stable").itertuples(index=False):
            yield pair, got.read(int(pair.row))
