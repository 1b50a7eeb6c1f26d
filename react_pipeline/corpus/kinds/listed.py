"""Corpora whose captions are listed before any image is there: images wait until they are
retrieved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from react_pipeline.settings import CorpusConfig

if TYPE_CHECKING:
    from react_pipeline.store import Artifact, Store


class ListedPair(NamedTuple):
    """A pair whose image is elsewhere.

    Attributes:
        key: Identifies the pair in the corpus.
        fields: What locates its image and else describes it, as texts; every pair of a corpus has
            the same fields.
    """

    key: str
    caption: str
    fields: Mapping[str, str]


class ListedCorpus(CorpusConfig):
    """A kind that lists its pairs; write `identity`, `publish`, `pairs` and `open_images`."""

    is_listed: ClassVar[bool] = True

    def pairs(self, store: Store, corpus: Artifact) -> Iterator[ListedPair]:
        """Yield the pairs of the published corpus, always in the same order.

        Raises:
            ChangedSource: If what they are read from has changed since it was published.
        """
        raise NotImplementedError
