"""Configuration of the corpus: `corpus:` of `pipeline.yaml`.

Belongs here: its fields, their defaults and rules. Does not belong here: reading shards (`shards`), taking stock
(`corpus`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from react_pipeline.training_config import Fraction, Section

REMOTE_SCHEMES = ("s3", "gs", "http", "https")
"""What shards may be read from besides local paths."""


class DownloadConfig(Section):
    """How images are fetched from URLs, by img2dataset.

    Attributes:
        processes: Downloading processes.
        threads: Connections of each.
        timeout_seconds: Of one image.
        retries: How often what failed is tried again; what was had is never fetched twice.
        image_size: Longer side to which larger images are made smaller, in pixels; unset: kept as they are.
    """

    processes: int = Field(default=1, gt=0)
    threads: int = Field(default=32, gt=0)
    timeout_seconds: float = Field(default=10, gt=0)
    retries: int = Field(default=2, ge=0)
    image_size: int | None = Field(default=None, gt=0)


class CorpusConfig(Section):
    """Where the image-text pairs come from.

    Attributes:
        kind: `demo` (made from installed packages), `webdataset` (tar shards), `urls` (tables of URL and caption, whose
            images are downloaded into shards first) or `embeddings` (vectors and metadata as clip-retrieval writes
            them: nothing is embedded again, and only the images of chosen pairs are fetched).
        shards: Paths, glob patterns or URLs (s3, gs, http, https) of tar files; only for `webdataset`.
        urls: Paths or patterns of parquet files; only for `urls`.
        url_column: Name of the column of URLs, for `urls` and `embeddings`.
        caption_column: Name of the column of captions, likewise.
        embeddings: Folder with `img_emb/`, `text_emb/` and `metadata/`; only for `embeddings`.
        indices: Folder with ready FAISS indices `image.index` and `text.index` over them; only for `embeddings`.
        download: How images are fetched from URLs, for `urls` and `embeddings`.
        max_bad_fraction: A shard with more bad samples than this fails.
        max_pixels: Larger images are skipped before they are decoded.
        max_caption_chars: Longer captions are cut and counted.
    """

    kind: Literal["demo", "webdataset", "urls", "embeddings"] = "webdataset"
    shards: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    url_column: str = "url"
    caption_column: str = "caption"
    embeddings: Path | None = None
    indices: Path | None = None
    download: DownloadConfig = DownloadConfig()
    max_bad_fraction: Fraction = 0.1
    max_pixels: int = Field(default=89_478_485, gt=0)
    max_caption_chars: int = Field(default=2_000, gt=0)

    @field_validator("shards")
    @classmethod
    def _only_local_paths(cls, shards: tuple[str, ...]) -> tuple[str, ...]:
        for shard in shards:
            if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", shard):
                raise ValueError(f"{shard!r}: only local paths are read; commands (pipe:) and URLs are refused")
        return shards

    @model_validator(mode="after")
    def _shards_match_kind(self) -> Self:
        if self.kind == "webdataset" and not self.shards:
            raise ValueError("kind `webdataset` needs `shards`: a list of tar files or patterns such as data/*.tar")
        if self.kind == "demo" and self.shards:
            raise ValueError("kind `demo` builds its own shards: remove `shards`")
        return self
