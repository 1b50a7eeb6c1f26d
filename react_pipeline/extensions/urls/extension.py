"""What tables of URLs add: a kind of corpus."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    from react_pipeline.settings import CorpusConfig


class Urls(Extension):
    """A corpus of addresses."""

    def corpus_kinds(self) -> Iterable[type[CorpusConfig]]:
        """Tables of URLs."""
        from react_pipeline.extensions.urls.corpus_kind import UrlTables

        return (UrlTables,)
