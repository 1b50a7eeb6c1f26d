"""The artifact `corpus`, whatever its kind, and pairs that a kind copies into tar shards of it.

Does not belong here: any kind (`kinds`), digests and places of shards (`inventory`).
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from react_pipeline.corpus.image_source import ImageSource
from react_pipeline.corpus.inventory import take_stock, write_stock
from react_pipeline.corpus.shards import SHARDS, PackedSample, pack
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.store import CACHE, Artifact, CorpusError, Scratch

POOL = f"{CACHE}/images"
"""Where images that came over the net are kept, for all domains of a store. The sets that were made
of them hold their own copies."""


def publish_corpus(project: Project) -> Artifact:
    """Publish the artifact `corpus`, as its kind does.

    Raises:
        CorpusError: If its files are missing or damaged, or hold no pair; it is not tried again.
        SourceUnavailable: If a server does not answer.
    """
    try:
        return project.config.corpus.publish(project)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        name = str(error.filename or "")
        # Of the store it may pass, such as when another process prunes.
        if not name or Path(name).is_relative_to(project.store.root):
            raise
        raise CorpusError(
            f"{name}: {error.strerror}; put it there, or correct what names it"
        ) from error


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

    def write(staging: Path, _: Scratch) -> dict[str, Any]:
        (staging / SHARDS).mkdir()
        if not (count := pack(pairs, staging / SHARDS)):
            raise CorpusError("corpus: no pair")
        table = take_stock(None, sorted((staging / SHARDS).iterdir()))
        return {**write_stock(table, staging, str(staging)), "pairs": count, **finish(staging)}

    return project.store.build(resolve(project, "corpus", content=content), write)


def open_source(project: Project, corpus: Artifact) -> ImageSource:
    """Return the source of a corpus' images."""
    return project.config.corpus.open_images(corpus, project.store.root / POOL)


def count_pairs(corpus: Artifact) -> int | None:
    """Return the pairs of a published corpus (some kinds count them by source); None of tars, which
    are read when they are embedded.
    """
    counts = corpus.counts.items()
    pairs = [count for name, count in counts if name.partition("/")[0] == "pairs"]
    return sum(pairs) if pairs else None
