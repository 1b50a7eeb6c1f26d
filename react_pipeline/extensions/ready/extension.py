"""What ready embeddings add: a kind of corpus, with its vectors and indices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    from react_pipeline.settings import CorpusConfig


class Ready(Extension):
    """A corpus whose vectors are published."""

    def corpus_kinds(self) -> Iterable[type[CorpusConfig]]:
        """Ready embeddings."""
        from react_pipeline.extensions.ready.corpus_kind import ReadyEmbeddings

        return (ReadyEmbeddings,)
