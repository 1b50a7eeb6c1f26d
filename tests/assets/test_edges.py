"""The edges of the lineage in Dagster are the parents that the steps read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from support.launch import code_location

from react_pipeline.lineage import parents_of
from react_pipeline.project.project import Project
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
def test_the_parents_in_dagster_are_those_that_steps_resolve(
    make_measured: Make, sections: dict[str, Any]
) -> None:
    project = make_measured(**sections)
    for stage, shown in edges(project).items():
        row = STAGES[stage]
        keys = row.keys(["shapes"], project.config.measured)
        parents = {name for key in keys for name in parents_of(project, stage, key)}
        # The file is no artifact, so no step resolves it; see below.
        assert shown - {"domain_file"} == parents | {*row.gathers}, stage


def test_the_domain_file_is_a_parent_where_it_decides(make_measured: Make) -> None:
    project = make_measured(methods=["base", "gated-image", "few-shot-gda"], **MEASURED)
    for stage, shown in edges(project).items():
        key = {"all": ALL, "domain": "shapes"}.get(STAGES[stage].scope, "shapes/gated-image")
        with patch.object(Project, "domain", autospec=True, side_effect=Project.domain) as read:
            STAGES[stage].identity(project, key)
        assert read.called == ("domain_file" in shown), stage
