"""Images of chosen rows by their URLs, fetched once into the pool of the store.

Two builds at once take turns, to fetch nothing twice. Does not belong here: which rows are chosen
(`retrieval`), fetching (`downloads`).
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from react_pipeline.corpus import BadImage, ImageSource
from react_pipeline.extensions.sources.downloads import (
    Failure,
    ImagePool,
    Wanted,
    download_images,
)
from react_pipeline.extensions.sources.kinds import TableColumns
from react_pipeline.store import hash_value, locked
from react_pipeline.web_policy import MAX_URL_CHARS, REFUSED_URL, plain_url

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
        self.pool = ImagePool(pool / hash_value(rules)[:16])
        self._given_up: dict[Wanted, Failure] = {}

    def fetchable(self, rows: pd.DataFrame) -> pd.Series:
        """Return whether each URL is a plain one; no round of fetching is spent on others."""
        return rows["url"].map(lambda url: plain_url(url) is not None)

    def fetch(self, rows: pd.DataFrame) -> Iterator[tuple[Any, bytes]]:
        """Fetch what is not there yet, then give each image; a row without a caption fails as
        `empty_caption`. Rows of equal URL share one image, with the hash of the first.
        """
        pairs = rows.rename(columns={"class": "label"}).sort_values("row", kind="stable")
        captions = pairs["caption"].fillna("").astype(str).str.strip()
        pairs["caption"] = captions.str[: self.corpus.max_caption_chars].str.strip()
        pairs["image_sha256"] = ""
        hashes = pairs["hash"].fillna("") if self.corpus.hash_column else [""] * len(pairs)
        wanted: dict[str, Wanted] = {}
        placed: list[tuple[Any, Wanted]] = []
        for pair, digest in zip(pairs.itertuples(index=False), hashes, strict=True):
            url = plain_url(pair.url)
            if url is None:
                self._fail(pair, Failure(REFUSED_URL, "not a plain http or https URL", 0))
            elif not pair.caption:
                self._fail(pair, Failure("empty_caption", "", 0))
            else:
                placed.append((pair, wanted.setdefault(url, (url, digest))))
        self._download(list(wanted.values()))
        for pair, one in placed:
            if failure := self._given_up.get(one):
                self._fail(pair, failure)
            else:
                image, source_sha256 = self.pool.read(one)
                yield pair._replace(image_sha256=source_sha256), image

    def _download(self, wanted: list[Wanted]) -> None:
        folder = self.pool.folder
        with locked(folder / ".lock"):
            os.utime(folder)  # used now, for `prune`
            if missing := [one for one in wanted if not self._is_known(one)]:
                self._given_up |= download_images(
                    missing, self.pool, self.corpus.download, self.corpus.max_pixels
                )

    def _is_known(self, one: Wanted) -> bool:
        try:
            return one in self._given_up or self.pool.has(one)
        except BadImage as error:
            self._given_up[one] = Failure(error.reason, error.detail, 1)
            return True

    def _fail(self, pair: Any, failure: Failure) -> None:
        self._failed[int(pair.row)] = (str(pair.url)[:MAX_URL_CHARS], *failure)
