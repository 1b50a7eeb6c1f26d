"""Images of chosen rows, by their URLs.

Does not belong here: which rows are chosen (`retrieval`), fetching (`web.downloads`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from react_pipeline.corpus import ImageSource
from react_pipeline.extensions.web import TableColumns, download_images

URL_COLUMNS = ["url", "caption"]
"""Columns of the corpus' metadata that locate and describe a pair."""


class UrlSource(ImageSource):
    """Images by their URLs, fetched once into a scratch directory and checked by the corpus' rules
    for images.
    """

    def __init__(self, corpus: TableColumns, directory: Path) -> None:
        """Fetch nothing yet; `directory` is scratch: a build that was killed resumes with what is
        there.
        """
        super().__init__([*URL_COLUMNS, *(["hash"] if corpus.hash_column else [])], "url")
        self.corpus = corpus
        self.directory = directory

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
        max_pixels = self.corpus.max_pixels
        got = download_images(table, self.directory, settings, max_pixels)
        self._failed.update(
            {int(row): tuple(about) for row, *about in got.failed.to_numpy().tolist()}
        )
        digests = got.images.rename(columns={"source_sha256": "image_sha256"})
        described = described_rows.drop(columns="image_sha256", errors="ignore").merge(
            digests, on="row"
        )
        for pair in described.sort_values("row", kind="stable").itertuples(index=False):
            yield pair, got.read(int(pair.row))
