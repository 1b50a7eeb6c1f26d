"""The edges of the lineage in Dagster are the parents that the manifests name."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
from support.launch import code_location
from support.promotion import publish_results, stand_in
from support.upkeep import build

from react_pipeline.evaluation.comparison import compare
from react_pipeline.extensions.pages.overview import overview
from react_pipeline.project.project import Project
from react_pipeline.promotion.decision import decide
from react_pipeline.settings import DomainConfig
from react_pipeline.stage import ALL, STAGES

MEASURED = {
    "elevater": {"root": "elevater"},
    "dense": {
        "root": "dense",
        "own": [{"name": "mine", "images": "mine", "annotations": "mine.json"}],
    },
    "guards": {"sets": [{"name": "photos", "kind": "folder", "path": "photos"}]},
}


Make = Callable[..., Project]


@pytest.fixture
def make_measured(make_project: Make, tmp_path: Path) -> Make:
    """`make_project`, with the folders that `MEASURED` names."""
    for folder in ("elevater", "dense", "photos"):
        (tmp_path / folder).mkdir()
    return make_project


def edges(project: Project) -> dict[str, set[str]]:
    """The parents of each asset in Dagster."""
    graph = code_location(project).resolve_asset_graph()
    return {
        key.path[-1]: {parent.path[-1] for parent in graph.get(key).parent_keys}
        for key in graph.materializable_asset_keys
    }


def finish(project: Project, stages: Collection[str]) -> None:
    """Publish the artifacts of these stages for all methods."""
    config = project.config
    for stage in ("retrieval_checkpoint", "few_shot_set"):
        if stage in stages:
            stand_in(project, stage, ALL if STAGES[stage].scope == "all" else "shapes")
    publish_results(project, "shapes", {method: [True] * 6 for method in config.methods})
    compare(project, "shapes")
    decide(project, "shapes")
    overview(project)
    for row in STAGES.values():
        keys = row.keys(["shapes"], config.measured)
        for key in keys if row.name in stages else ():
            if not project.store.has(row.name, key):
                (build if row.gathers else stand_in)(project, row.name, key)


def parents_in_manifests(project: Project, stages: Collection[str]) -> dict[str, set[str]]:
    """The stages that the artifacts of each stage were made from."""
    store = project.store
    made = [store.current(stage, key) for stage in stages for key in store.keys(stage)]
    stage_of = {artifact.fingerprint: artifact.stage for artifact in made}
    parents = {stage: set[str]() for stage in stages}
    for artifact in made:
        # Evidence, such as judgements, is in artifacts without an asset.
        names = {stage_of[one] for one in artifact.parents.values() if one in stage_of}
        parents[artifact.stage] |= names
    return parents


@pytest.mark.parametrize(
    "sections",
    [
        {"methods": ["base"]},
        {"methods": ["base", "gated-image", "gated-image-control", "gda", "linear-head"]},
        {"methods": ["base", "few-shot-gda"]},
        {
            "methods": ["base", "gated-image"],
            "retrieval_encoder": {"model": "ViT-L-14", "pretrained": "openai"},
        },
        {"methods": ["base", "gated-image"], **MEASURED},
        {"methods": ["base", "gda", "gda-control"], **MEASURED},
    ],
    ids=lambda sections: "-".join(
        [*sections["methods"], *(name for name in sections if name != "methods")]
    ),
)
def test_the_parents_in_dagster_are_those_of_the_manifests(
    make_measured: Make, sections: dict[str, Any]
) -> None:
    project = make_measured(**sections)
    shown = edges(project)
    finish(project, shown)
    # The file is no artifact, so no manifest names it; see below.
    without_file = {stage: names - {"domain_file"} for stage, names in shown.items()}
    assert without_file == parents_in_manifests(project, shown)


def test_the_domain_file_is_a_parent_where_it_decides(
    make_measured: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_measured(methods=["base", "gated-image", "few-shot-gda"], **MEASURED)
    read = Project.domain
    readers: set[str] = set()

    def seen_from(stage: str) -> Callable[[Project, str], DomainConfig]:
        def domain(project: Project, slug: str) -> DomainConfig:
            readers.add(stage)
            return read(project, slug)

        return domain

    shown = edges(project)
    for stage in shown:
        monkeypatch.setattr(Project, "domain", seen_from(stage))
        key = {"all": ALL, "domain": "shapes"}.get(STAGES[stage].scope, "shapes/gated-image")
        STAGES[stage].identity(project, key)
    assert {stage for stage, names in shown.items() if "domain_file" in names} == readers
