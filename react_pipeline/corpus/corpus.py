"""The artifact `corpus`, whatever its kind.

Does not belong here: any kind (`kinds`), digests and places of shards (`inventory`).
"""

from pathlib import Path

from react_pipeline.corpus.image_source import ImageSource
from react_pipeline.project import Project
from react_pipeline.store import CACHE, Artifact, CorpusError

POOL = f"{CACHE}/images"
"""Where images that came over the net are kept, for all domains of a store."""


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


def open_source(project: Project, corpus: Artifact) -> ImageSource:
    """Return the source of a corpus' images."""
    return project.config.corpus.open_images(corpus, project.store.root / POOL)


def fetched_before(root: Path, before: float) -> list[Path]:
    """Return the downloads in a store that ended before a time (seconds since 1970). The sets that
    were made of them hold their own copies.
    """
    downloads = (path for path in (root / POOL).glob("*/*") if path.is_dir())
    return [
        folder
        for folder in downloads
        if all(path.stat().st_mtime < before for path in (folder, *folder.iterdir()))
    ]


def count_pairs(corpus: Artifact) -> int | None:
    """Return the pairs of a published corpus (some kinds count them by source); None if shards are
    remote.
    """
    counts = corpus.counts.items()
    pairs = [count for name, count in counts if name == "pairs" or name.startswith("pairs/")]
    return sum(pairs) if pairs else None
