"""Pairs that a kind of corpus copies into tar shards of its artifact.

Does not belong here: where pairs come from (`kinds`), the form of a shard (`shards`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from react_pipeline.corpus.inventory import take_stock_of
from react_pipeline.corpus.shards import SHARDS, PackedSample, pack
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.store import Artifact, CorpusError, Scratch


def publish_pairs(
    project: Project,
    content: Any,
    pairs: Iterable[PackedSample],
    finish: Callable[[Path], Mapping[str, Any]] = lambda _: {},
) -> Artifact:
    """Publish the artifact `corpus` from pairs: key, image file, caption (UTF-8), and metadata.

    Args:
        content: The identity of the images and captions, as JSON, such as names and digests.
        pairs: Read only if no artifact of this identity is there.
        finish: Adds files to the artifact's folder, and gives further counts.

    Raises:
        CorpusError: If there is no pair.
    """
    count = 0

    def counted() -> Iterator[PackedSample]:
        nonlocal count
        for pair in pairs:
            count += 1
            yield pair

    def write(staging: Path, _: Scratch) -> dict[str, Any]:
        (staging / SHARDS).mkdir()
        pack(counted(), staging / SHARDS, 0)
        if not count:
            raise CorpusError("corpus: no pair")
        stock = take_stock_of(staging, sorted((staging / SHARDS).iterdir()))
        return {**stock, "pairs": count, **finish(staging)}

    return project.store.build(resolve(project, "corpus", content=content), write)
