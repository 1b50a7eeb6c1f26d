"""Fields of kinds that read tables of URLs and captions."""

from typing import ClassVar, Self

from pydantic import model_validator

from react_pipeline.settings import CorpusConfig, DownloadConfig, StorageConfig


class TableColumns(CorpusConfig):
    """Columns of the tables, and how their URLs are fetched."""

    url_column: str = "url"
    caption_column: str = "caption"
    hash_column: str | None = None
    download: DownloadConfig = DownloadConfig()

    assumed_pair_bytes: ClassVar[int] = 25_000

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        if self.url_column == self.caption_column:
            raise ValueError("`url_column` and `caption_column` name the same column")
        return self

    def access(self) -> tuple[StorageConfig, DownloadConfig]:
        """As images are fetched."""
        return StorageConfig(), self.download
