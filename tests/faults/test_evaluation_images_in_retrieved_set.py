"""FAULTS 20: evaluation images are removed by hash and by near-duplicate embedding, counted, and none is left."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd
import pytest
import yaml
from support_drawings import encode, evaluation_image

from react_pipeline.artifacts import Artifact
from react_pipeline.duplicates import leaked_images
from react_pipeline.labelled import publish_evaluation_set, read_images
from react_pipeline.lineage import Project
from react_pipeline.retrieve import draw_control, retrieve_pairs


def configure(project: Project, near: float = 1.01, evaluation: Path | None = None) -> None:
    path = project.config.domains / "shapes.yaml"
    domain = yaml.safe_load(path.read_text())
    # Everything is wanted, so that what is missing was removed.
    domain["retrieval"] = {"k_per_prompt": 200, "max_per_class": 200, "near_duplicate_similarity": near}
    if evaluation is not None:
        domain["evaluation"]["path"] = str(evaluation)
    path.write_text(yaml.safe_dump(domain))


def hashes(artifact: Artifact) -> set[str]:
    return set(pd.read_parquet(artifact.file("pairs.parquet"))["image_sha256"])


def test_an_evaluation_image_in_the_corpus_is_removed_by_its_bytes_from_both_sets(indexed_project: Project) -> None:
    configure(indexed_project)
    evaluation_set = publish_evaluation_set(indexed_project, "shapes")
    retrieved = retrieve_pairs(indexed_project, "shapes")
    control = draw_control(indexed_project, "shapes")
    assert retrieved.counts["dropped"]["evaluation_image_hash"] == 1
    assert control.counts["dropped"]["evaluation_image_hash"] == 1
    evaluation = set(read_images(evaluation_set)["sha256"])
    for artifact in (retrieved, control):
        assert len(hashes(artifact)) == 95
        assert not hashes(artifact) & evaluation
        assert leaked_images(artifact, evaluation_set) == 0


@pytest.fixture
def reencoded(tmp_path: Path) -> Path:
    """The evaluation image that the corpus holds, in another encoding: other bytes, the same picture."""
    (tmp_path / "again" / "circle").mkdir(parents=True)
    (tmp_path / "again" / "circle" / "0.bmp").write_bytes(encode(evaluation_image("circle", 0), "bmp"))
    return tmp_path / "again"


def test_the_same_picture_in_other_bytes_is_removed_by_its_embedding(indexed_project: Project, reencoded: Path) -> None:
    configure(indexed_project, near=0.999, evaluation=reencoded)
    evaluation_set = publish_evaluation_set(indexed_project, "shapes")
    twin = hashlib.sha256(encode(evaluation_image("circle", 0))).hexdigest()
    retrieved = retrieve_pairs(indexed_project, "shapes")
    assert retrieved.counts["dropped"]["evaluation_image_hash"] == 0
    assert retrieved.counts["dropped"]["evaluation_image_near"] == 1
    for artifact in (retrieved, draw_control(indexed_project, "shapes")):
        assert twin not in hashes(artifact)
        assert leaked_images(artifact, evaluation_set) == 0


def test_the_check_sees_an_image_that_was_let_in(indexed_project: Project, reencoded: Path) -> None:
    configure(indexed_project, evaluation=reencoded)
    publish_evaluation_set(indexed_project, "shapes")
    retrieved = retrieve_pairs(indexed_project, "shapes")
    configure(indexed_project)
    path = indexed_project.config.domains / "shapes.yaml"
    domain = yaml.safe_load(path.read_text())
    domain["evaluation"]["path"] = str(reencoded.parent / "same")
    path.write_text(yaml.safe_dump(domain))
    (reencoded.parent / "same" / "circle").mkdir(parents=True)
    (reencoded.parent / "same" / "circle" / "0.png").write_bytes(encode(evaluation_image("circle", 0)))
    assert leaked_images(retrieved, publish_evaluation_set(indexed_project, "shapes")) == 1
