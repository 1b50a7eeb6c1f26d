"""FAULTS 6: what was built by older code is stale."""

from __future__ import annotations

from dataclasses import replace

import pytest

from react_pipeline import lineage
from react_pipeline.lineage import fresh, resolve
from react_pipeline.project.project import Project
from react_pipeline.stage import STAGES
from react_pipeline.store.errors import StaleArtifact


def test_an_artifact_of_older_code_is_stale_and_not_built_on(
    indexed_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fresh(indexed_project, "corpus_embeddings").stage == "corpus_embeddings"
    newer = replace(STAGES["corpus_embeddings"], version="999")
    monkeypatch.setattr(lineage, "STAGES", {**STAGES, "corpus_embeddings": newer})
    with pytest.raises(StaleArtifact, match="older version of the code"):
        fresh(indexed_project, "corpus_embeddings")
    with pytest.raises(StaleArtifact, match="corpus_embeddings"):
        resolve(indexed_project, "faiss_index")
