"""The stages of a corpus, one after another."""

from __future__ import annotations

from react_pipeline.lineage import run
from react_pipeline.project import Project
from react_pipeline.store import Artifact

CORPUS = ("corpus", "base_checkpoint", "corpus_embeddings", "faiss_index")


def run_corpus(project: Project, last: str = "faiss_index") -> Artifact:
    """Materialize a corpus up to the stage `last`; returns its artifact."""
    for stage in CORPUS[: CORPUS.index(last)]:
        run(project, stage, "all")
    return run(project, last, "all")
