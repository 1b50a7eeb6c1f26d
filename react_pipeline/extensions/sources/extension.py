"""What sources add: kinds of corpus."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    from react_pipeline.settings import CorpusConfig


class Sources(Extension):
    """Corpora in no tars."""

    def corpus_kinds(self) -> Iterable[type[CorpusConfig]]:
        """Return images in files, tables of URLs, and ready embeddings."""
        from react_pipeline.extensions.sources.kinds import Images, ReadyEmbeddings, UrlTables

        return (Images, ReadyEmbeddings, UrlTables)
