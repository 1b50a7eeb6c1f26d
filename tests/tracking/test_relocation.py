"""A project that was moved or copied writes into its own folder, and finds its models there."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import write_project
from mlflow import MlflowClient
from mlflow.utils.file_utils import local_file_uri_to_path
from support.tracking import artifact_of

from react_pipeline.project import Project
from react_pipeline.store import ReactError
from react_pipeline.tracking import Tracking

OLD = "old place, with \N{LATIN SMALL LETTER E WITH ACUTE}"
"""Its URI is spelled otherwise than its path, and so is its JSON."""


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Path:
    """A project with runs, a version of a model and a data set in its database."""
    folder = tmp_path_factory.mktemp("logged")
    made = write_project(folder, folder / "none", folder / "none")
    shutil.copy(mlflow_database, folder)
    log(made, 0)
    return folder


@pytest.fixture
def project(logged: Path, tmp_path: Path) -> Project:
    made = Project.load(shutil.copytree(logged, tmp_path / OLD) / "pipeline.yaml")
    Tracking(made).connect()
    return made


def log(project: Project, seed: int) -> str:
    """Log a checkpoint and the pairs that it was trained on; returns the run."""
    pairs = artifact_of(project, "retrieved_set", "shapes")
    parents = {"retrieved_set": pairs}
    checkpoint = artifact_of(
        project, "customized_checkpoint", "shapes/full", parents=parents, seed=seed
    )
    tracking = Tracking(project)
    tracking.log_artifact(pairs)
    run_id = tracking.log_artifact(checkpoint)
    assert run_id
    return run_id


def files_below(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def texts(project: Project) -> set[str]:
    """Every statement that makes the database of the project."""
    with closing(sqlite3.connect(project.path.parent / "mlflow.db")) as connection:
        return {*connection.iterdump()}


@pytest.mark.parametrize("place", [shutil.move, shutil.copytree])
def test_a_moved_or_copied_project_leaves_the_old_place_alone(
    project: Project, tmp_path: Path, place: Callable[[Path, Path], Any]
) -> None:
    old, new = project.path.parent, tmp_path / "new \N{LATIN SMALL LETTER O WITH DIAERESIS}"
    assert any(OLD in text for text in texts(project))
    place(old, new)
    before = files_below(old)
    moved = Project.load(new / "pipeline.yaml")
    run_id = log(moved, 1)
    assert files_below(old) == before and old.exists() is bool(before)
    assert not [text for text in texts(moved) if OLD in text or old.as_uri() in text]
    client = MlflowClient(Tracking(moved).uri)
    assert {file.path for file in client.list_artifacts(run_id)} >= {"table.csv", "manifest.json"}
    versions = client.search_model_versions("name = 'react-shapes'")
    places = [Path(local_file_uri_to_path(version.source)) for version in versions]
    assert len(places) == 2 and all(path.is_relative_to(new) for path in places)


def test_a_project_that_is_opened_through_a_link_stays_as_it_is(
    project: Project, tmp_path: Path
) -> None:
    before = texts(project)
    (tmp_path / "link").symlink_to(project.path.parent, target_is_directory=True)
    Tracking(Project.load(tmp_path / "link" / "pipeline.yaml")).connect()
    assert texts(project) == before


def test_a_copy_over_a_shared_database_is_refused_with_remedy(
    mlflow_database: Path, tmp_path: Path
) -> None:
    shutil.copy(mlflow_database, tmp_path)
    # The driver in its name makes it a database as PostgreSQL is, and not our SQLite file.
    uri = f"sqlite+pysqlite:///{tmp_path}/mlflow.db"
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        project = write_project(
            tmp_path / name, tmp_path / "none", tmp_path / "none", tracking_uri=uri
        )
        if name == "one":
            Tracking(project).connect()
    with pytest.raises(ReactError, match="`project`"):
        Tracking(project).connect()
    shutil.move(tmp_path / "one", tmp_path / "gone")
    (tmp_path / "one").mkdir()
    (tmp_path / "other" / "mlartifacts").mkdir()
    (tmp_path / "one" / "mlartifacts").symlink_to(tmp_path / "other" / "mlartifacts")
    Tracking(project).connect()
