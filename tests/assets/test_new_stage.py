"""A new stage is a row of the table and a function: everything else follows."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
from support.launch import dagster_home

from react_pipeline import stage
from react_pipeline.assets.definitions import build_defs
from react_pipeline.assets.launch import materialize, open_instance
from react_pipeline.commands.cli import main
from react_pipeline.extensions.automation.survey import survey
from react_pipeline.lineage import resolve
from react_pipeline.project.project import Project
from react_pipeline.stage import STAGES, Stage
from react_pipeline.store.artifacts import Artifact
from react_pipeline.tracking.log import Tracking

ROWS = dict(STAGES)


def publish_toy(project: Project, slug: str) -> Artifact:
    """The step: one function that publishes one artifact."""
    inputs = resolve(project, "toy", slug)

    def write(directory: Path, _: object) -> dict[str, int]:
        shards = int(inputs.parents["corpus"].counts["shards"])
        (directory / "shards.txt").write_text(str(shards))
        return {"shards": shards}

    return project.store.build(inputs, write)


ROW = Stage(
    "toy",
    "how many shards there are, in a file",
    "domain",
    step=publish_toy,
    parents=("corpus",),
    reads_domain=True,
    priority=1,
)


@pytest.fixture
def project(indexed_project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setattr(stage, "_rows", lambda: {**ROWS, "toy": ROW})
    return indexed_project


def test_a_row_and_a_function_are_a_stage_everywhere(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asset = build_defs().resolve_asset_graph().get(dg.AssetKey("toy"))
    assert {key.path[-1] for key in asset.parent_keys} == {"domain_file", "corpus"}
    assert asset.description == ROW.about and asset.partitions_def is not None

    assert ("toy", "shapes") in {task.place for task in survey(project, ["shapes"]).tasks}
    with dagster_home(tmp_path / "home"):
        with pytest.raises(SystemExit):
            main(["status", "--config", str(project.path)])
        assert "toy" in capsys.readouterr().out

        summary = materialize("toy", ["shapes"], config_path=project.path)
        assert (summary.built, summary.failed) == (1, {})
        with open_instance(project) as instance:
            (record,) = instance.fetch_materializations(dg.AssetKey("toy"), limit=1).records
            assert record.partition_key == "shapes"
    assert ("toy", "shapes") not in {task.place for task in survey(project, ["shapes"]).tasks}

    tracking = Tracking.of(project)
    made = project.store.current("toy", "shapes")
    assert made.fingerprint in (tracking.sync(project) or set())
