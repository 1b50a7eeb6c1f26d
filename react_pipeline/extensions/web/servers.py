"""Servers as the corpus asks them. Each method imports what it needs when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from react_pipeline.corpus import Identity, RemoteShard, Server
from react_pipeline.settings import DownloadConfig, StorageConfig

if TYPE_CHECKING:
    import pandas as pd

    from react_pipeline.extensions.web.downloads import Downloaded


class FsspecServer(Server):
    """A server that fsspec can read, and of `http` img2dataset too."""

    def find(self, pattern: str, storage: StorageConfig, field: str) -> list[RemoteShard]:
        """As of `find_remote`."""
        from react_pipeline.extensions.web.remote import find_remote

        return find_remote(pattern, storage, field)

    def open(self, shard: RemoteShard) -> BinaryIO:
        """As of `open_remote`."""
        from react_pipeline.extensions.web.remote import open_remote

        return open_remote(shard)

    def identify(self, shard: RemoteShard) -> Identity:
        """As of `identify`."""
        from react_pipeline.extensions.web.remote import identify

        return identify(shard)

    def download(
        self, urls: pd.DataFrame, directory: Path, settings: DownloadConfig, max_pixels: int
    ) -> Downloaded:
        """As of `download_images`."""
        from react_pipeline.extensions.web.downloads import download_images

        return download_images(urls, directory, settings, max_pixels)
