"""What near duplicates add: the filter behind `retrieval.duplicate_similarity`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from react_pipeline.extension import Extension

if TYPE_CHECKING:
    from react_pipeline.retrieval import NearFilter, ReadVectors


class Duplicates(Extension):
    """No two pairs that look alike."""

    def near_filter(self, read: ReadVectors, similarity: float) -> NearFilter:
        """By the cosine of images."""
        from react_pipeline.extensions.near_duplicates.near_duplicates import NearDuplicates

        return NearDuplicates(read, similarity)
