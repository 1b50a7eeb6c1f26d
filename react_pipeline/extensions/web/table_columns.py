"""What kinds that read tables of URLs and captions have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import model_validator

from react_pipeline.settings import CorpusConfig, DownloadConfig, StorageConfig

if TYPE_CHECKING:
    from react_pipeline.corpus import ImageSource
    from react_pipeline.store import Artifact


class TableColumns(CorpusConfig):
    """Columns of the tables, and how their URLs are fetched."""

    url_column: str = "url"
    caption_column: str = "caption"
    hash_column: str | None = None
    download: DownloadConfig = DownloadConfig()

    fetches_images: ClassVar[bool] = True
    assumed_pair_bytes: ClassVar[int] = 25_000

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        if self.url_column == self.caption_column:
            raise ValueError("`url_column` and `caption_column` name the same column")
        return self

    def access(self) -> tuple[StorageConfig, DownloadConfig]:
        """Return how images are fetched."""
        return StorageConfig(), self.download

    def identity_of_images(self) -> dict[str, Any]:
        """Return what decides which images are fetched."""
        return {"download": self.download.identity()}

    def open_images(self, corpus: Artifact, pool: Path) -> ImageSource:
        """Return the images by their URLs."""
        from react_pipeline.extensions.web import UrlSource

        return UrlSource(self, pool)
