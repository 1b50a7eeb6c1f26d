"""The artifact `corpus`, whatever its kind.

Does not belong here: any kind (`kinds`), digests and places of shards (`inventory`).
"""

from pathlib import Path

from react_pipeline.corpus.image_source import ImageSource
from react_pipeline.project import Project
from react_pipeline.store import Artifact


def publish_corpus(project: Project) -> Artifact:
    """Publish the artifact `corpus`, as its kind does.

    Raises:
        CorpusError: If its files are missing or damaged, or hold no pair.
        SourceUnavailable: If a server does not answer.
    """
    return project.config.corpus.publish(project)


def open_source(project: Project, corpus: Artifact, directory: Path) -> ImageSource:
    """The source of a corpus' images; `directory` is scratch, as of `UrlSource`."""
    return project.config.corpus.open_images(corpus, directory)


def count_pairs(corpus: Artifact) -> int | None:
    """How many pairs a published corpus has (some kinds count them by source); None of remote
    shards.
    """
    counts = [
        count
        for name, count in corpus.counts.items()
        if name == "pairs" or name.startswith("pairs/")
    ]
    return sum(counts) if counts else None
