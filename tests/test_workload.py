from __future__ import annotations

from dataclasses import replace

import pytest
from support_upkeep import change_pipeline

from react_pipeline.corpus.corpus import count_pairs
from react_pipeline.lineage import resolve
from react_pipeline.project.project import Project
from react_pipeline.workload.announce import announce


def test_amounts_are_those_of_the_step_and_nothing_where_they_are_not_known(
    indexed_project: Project,
) -> None:
    assert announce(indexed_project, "corpus_embeddings", "all").startswith("96 pairs")
    assert announce(indexed_project, "retrieved_set", "shapes") == "4 classes"
    assert (
        announce(indexed_project, "customized_checkpoint", "shapes/gated-image")
        == "32 images in all steps"
    )
    assert announce(indexed_project, "domain_results", "shapes/base") == ""
    assert announce(indexed_project, "comparison", "shapes") == ""
    assert announce(indexed_project, "retrieved_set", "nosuch") == ""


def test_epochs_are_counted_in_the_pairs_there_are(retrieved_project: Project) -> None:
    pairs = retrieved_project.store.current("retrieved_set", "shapes").counts["pairs"]
    by_epochs = change_pipeline(retrieved_project, customization={"defaults": {"epochs": 3}})
    announced = announce(by_epochs, "customized_checkpoint", "shapes/gated-image")
    assert announced == f"{3 * pairs} images in all steps"


@pytest.mark.parametrize(
    ("method", "seconds"),
    [("gated-image", "about 20 s"), ("gated-image-control", "about 20 s"), ("linear-head", "")],
)
def test_seconds_are_those_of_the_same_method_in_proportion_to_the_steps(
    indexed_project: Project, method: str, seconds: str
) -> None:
    parents = {"base_checkpoint": indexed_project.store.current("base_checkpoint", "all")}
    inputs = resolve(
        indexed_project, "customized_checkpoint", "colours/gated-image", parents=parents
    )
    indexed_project.store.build(inputs, lambda directory: {"steps": 4, "seconds": 10.0})
    doubled = change_pipeline(
        indexed_project, customization={"defaults": {"steps": 8, "batch_size": 8}}
    )
    announced = announce(doubled, "customized_checkpoint", f"shapes/{method}")
    assert announced == ", ".join(filter(None, ["64 images in all steps", seconds]))


def test_pairs_of_the_demo_are_counted_by_source_and_those_of_remote_shards_not(
    indexed_project: Project,
) -> None:
    corpus = indexed_project.store.current("corpus", "all")
    by_source = {"pairs/openmoji": 2, "pairs/lucide": 3, "bytes": 7}
    assert count_pairs(replace(corpus, manifest={**corpus.manifest, "counts": by_source})) == 5
    assert (
        count_pairs(
            replace(corpus, manifest={**corpus.manifest, "counts": {"shards": 3, "bytes": 7}})
        )
        is None
    )
