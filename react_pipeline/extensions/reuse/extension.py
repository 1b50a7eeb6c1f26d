"""What reuse adds: vectors of shards that were embedded before."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    from react_pipeline.embedding import TakeOver
    from react_pipeline.store import Inputs, Store


class Reuse(Extension):
    """Growth of a corpus costs what is new."""

    def earlier_shards(self, store: Store, inputs: Inputs) -> Iterable[TakeOver]:
        """All published embeddings of the same encoder and configuration."""
        from react_pipeline.extensions.reuse.earlier_embeddings import EarlierEmbeddings

        yield EarlierEmbeddings(store, inputs).take_over
