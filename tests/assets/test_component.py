"""The component: projects and another team's asset in one code location, on one instance."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from conftest import write_project
from dagster.components.testing import DefsFolderSandbox, create_defs_folder_sandbox
from pydantic import ValidationError
from support.launch import tick

from react_pipeline.assets.component import ReactProjectComponent
from react_pipeline.failures import note_check
from react_pipeline.project import Project

PROJECTS = ("birds", "fish")
OTHER_ASSET = "import dagster as dg\n\n@dg.asset\ndef corpus() -> None: ...\n"


@dataclass
class Team:
    """A code location on an instance, and what the daemon does there."""

    defs: dg.Definitions
    instance: dg.DagsterInstance

    def __post_init__(self) -> None:
        self.repository = self.defs.get_repository_def()

    def tick(self, project: str, sensor: str) -> Any:
        return tick(self.instance, self.repository, f"{project}__{sensor}")

    def asked(self, project: str) -> dict[str, dg.RunRequest]:
        """What upkeep asks for, by asset and partition."""
        return {
            " ".join(filter(None, (key.to_user_string(), request.partition_key))): request
            for request in self.tick(project, "upkeep").run_requests or ()
            for key in request.asset_selection or ()
        }

    def run(self, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
        """Carry out a run as it was asked for."""
        return self.defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=self.instance,
            asset_selection=list(request.asset_selection or ()),
            partition_key=request.partition_key,
            tags=request.tags,
        )


def scaffold(sandbox: DefsFolderSandbox, name: str, config: str) -> Path:
    content = {
        "type": "react_pipeline.assets.component.ReactProjectComponent",
        "attributes": {"config": config, "key_prefix": [name.replace("-", "_")]},
    }
    return sandbox.scaffold_component(ReactProjectComponent, name, defs_yaml_contents=content)


@pytest.fixture
def sandbox() -> Iterator[DefsFolderSandbox]:
    with create_defs_folder_sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def team(
    sandbox: DefsFolderSandbox,
    tmp_path: Path,
    tiny_checkpoint: Path,
    drawings: Path,
    mlflow_database: Path,
) -> Iterator[Team]:
    for name in PROJECTS:
        folder = tmp_path / name
        folder.mkdir()
        project = write_project(folder, tiny_checkpoint, drawings, methods=["base"])
        shutil.copy(mlflow_database, folder)
        scaffold(sandbox, name, str(project.path))
    (tmp_path / "birds" / "domains" / "colours.yaml").unlink()
    (sandbox.defs_folder_path / "other.py").write_text(OTHER_ASSET)
    with (
        sandbox.load_component_and_build_defs(sandbox.defs_folder_path) as (_, defs),
        dg.DagsterInstance.local_temp(str(tmp_path)) as instance,
    ):
        yield Team(defs, instance)


def test_projects_and_other_assets_are_in_one_graph(team: Team) -> None:
    graph = team.defs.resolve_asset_graph()
    corpora = {key.to_user_string() for key in graph.get_all_asset_keys() if "corpus" in key.path}
    assert corpora == {"corpus", "birds/corpus", "fish/corpus"}
    parents = graph.get(dg.AssetKey(["fish", "faiss_index"])).parent_keys
    assert parents == {dg.AssetKey(["fish", "corpus_embeddings"])}
    checks = {key.asset_key.path[0] for key in graph.asset_check_keys}
    assert checks == set(PROJECTS)
    assert graph.get(dg.AssetKey(["fish", "corpus"])).group_name == "fish__corpus"


def test_upkeep_sees_no_run_and_no_domain_of_another_project(team: Team) -> None:
    for project in PROJECTS:
        team.tick(project, "domain_files")
    assert team.instance.get_dynamic_partitions("birds__domains") == ["shapes"]
    assert team.instance.get_dynamic_partitions("fish__domains") == ["colours", "shapes"]
    assert team.instance.get_dynamic_partitions("domains") == []
    before = team.asked("fish")
    # Of the same files and settings, so the inputs of both are the same.
    assert team.run(team.asked("birds")["birds/corpus"]).success
    assert team.asked("fish").keys() == before.keys() >= {"fish/corpus"}
    assert team.run(before["fish/corpus"]).success


def test_checks_of_projects_are_apart(team: Team, tmp_path: Path, _retrieved_store: Path) -> None:
    for project in PROJECTS:
        team.tick(project, "domain_files")
        store = tmp_path / project / "store"
        shutil.copytree(_retrieved_store, store)
        shutil.rmtree(store / "retrieved_set")
    birds = Project.load(tmp_path / "birds" / "pipeline.yaml")
    note_check(birds, birds.store.current("faiss_index", "all"), "recall_is_sufficient", "low")
    pairs = "retrieved_set shapes"
    assert f"birds/{pairs}" not in team.asked("birds")
    made = team.run(team.asked("fish")[f"fish/{pairs}"])
    assert made.success and {
        check.asset_key.path[0] for check in made.get_asset_check_evaluations()
    } == {"fish"}


def test_a_part_of_a_key_must_name_a_sensor_too() -> None:
    with pytest.raises(ValidationError, match="my birds"):
        ReactProjectComponent(config="pipeline.yaml", key_prefix=["my birds"])


def test_a_missing_file_is_named(sandbox: DefsFolderSandbox) -> None:
    path = scaffold(sandbox, "my-birds", "pipeline.yaml")
    with (
        pytest.raises(Exception, match="my-birds") as error,
        sandbox.load_component_and_build_defs(path),
    ):
        pass
    assert f"{path / 'pipeline.yaml'}" in str(error.value.__cause__)
