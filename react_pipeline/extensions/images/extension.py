"""What images in no tar add: a kind of corpus."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    from react_pipeline.settings import CorpusConfig


class ImageFiles(Extension):
    """A corpus that is copied into tars."""

    def corpus_kinds(self) -> Iterable[type[CorpusConfig]]:
        """Folders of images, and parquet files with images."""
        from react_pipeline.extensions.images.corpus_kind import Images

        return (Images,)
