"""Backups: taken while steps build, runs are in progress and databases are written; put back whole,
into an empty place alone.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from support.launch import dagster_home
from support.services import postgres
from support.upkeep import build, edit_domain
from typer.testing import CliRunner

from react_pipeline.assets.resources import REPOSITORY
from react_pipeline.commands.cli import app
from react_pipeline.extensions.operations import backup
from react_pipeline.extensions.operations.backup import back_up, restore
from react_pipeline.project.project import Project
from react_pipeline.store.errors import InputError


@dg.job
def endless() -> None:
    pass


@pytest.fixture
def project(
    tiny_project: Project, mlflow_database: Path, monkeypatch: pytest.MonkeyPatch
) -> Project:
    """One with a few artifacts, and MLflow's database and files."""
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    for stage, key in (("corpus", "all"), ("base_checkpoint", "all"), ("evaluation_set", "shapes")):
        build(tiny_project, stage, key)
    database = Path(tiny_project.config.tracking_uri.removeprefix("sqlite:///"))
    database.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(mlflow_database, database)
    run_file = database.parent / "mlartifacts" / "1" / "table.md"
    run_file.parent.mkdir(parents=True)
    run_file.write_text("a table")
    return tiny_project


def current(project: Project) -> dict[str, str]:
    stages = ("corpus", "base_checkpoint", "evaluation_set")
    return {
        f"{stage} {key}": project.store.current(stage, key).fingerprint
        for stage in stages
        for key in project.store.keys(stage)
    }


def test_a_project_comes_back_as_it_was(project: Project, tmp_path: Path) -> None:
    home = project.path.parent / "dagster_home"
    home.mkdir()
    (home / "ui.lock").touch()
    with dg.DagsterInstance.from_config(str(home)) as instance:
        run = instance.create_run_for_job(endless, status=dg.DagsterRunStatus.STARTED)
        instance.add_dynamic_partitions("domains", ["shapes"])
        report = back_up(project, tmp_path / "saved")
    before = current(project)
    shutil.rmtree(project.config.store)
    other = tmp_path / "restored"
    report = restore(tmp_path / "saved", other)
    again = Project.load(other / "pipeline.yaml")
    assert current(again) == before and report.copied["store"] == len(before) == 3
    assert again.domain("shapes") == project.domain("shapes")
    assert not (other / "dagster_home" / "ui.lock").exists()
    with dg.DagsterInstance.from_config(str(other / "dagster_home")) as instance:
        assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.STARTED
        assert instance.get_dynamic_partitions("domains") == ["shapes"]
    database = Path(again.config.tracking_uri.removeprefix("sqlite:///"))
    assert (database.parent / "mlartifacts" / "1" / "table.md").read_text() == "a table"
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT count(*) FROM experiments").fetchone() == (1,)


def test_what_is_published_meanwhile_breaks_no_backup(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = current(project)
    copytree = shutil.copytree
    newer: list[str] = []

    def while_a_step_publishes(source: Path, target: Path, **options: Any) -> Any:
        if not newer:
            edit_domain(
                project, "shapes", evaluation={"name": "other", "kind": "folder", "path": "."}
            )
            newer.append(build(project, "evaluation_set", "shapes", ["c"]).fingerprint)
            half = project.store.root / ".scratch" / "evaluation_set--half"
            half.mkdir(parents=True)
            (half / "manifest.json").write_text("{")
        return copytree(source, target, **options)

    monkeypatch.setattr(backup.shutil, "copytree", while_a_step_publishes)
    back_up(project, tmp_path / "saved")
    monkeypatch.undo()
    assert current(project) != before
    restore(tmp_path / "saved", tmp_path / "restored")
    assert current(Project.load(tmp_path / "restored" / "pipeline.yaml")) == before


def test_pruning_waits_for_a_backup(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []

    def look(*_: Any) -> int:
        with project.store.locked("prune", wait=False) as free:
            held.append(not free)
        return 0

    monkeypatch.setattr(backup, "_copy_store", look)
    back_up(project, tmp_path / "saved")
    assert held == [True]


@pytest.mark.parametrize(
    "part", ["mlflow", "domains/shapes.yaml", "store/corpus/all", "backup.json"]
)
def test_a_damaged_backup_is_refused(project: Project, tmp_path: Path, part: str) -> None:
    saved = tmp_path / "saved"
    back_up(project, saved)
    path = saved / part
    if path.is_dir():
        path = next(one for one in path.glob("*/*/*") if one.name != "manifest.json")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match="saved"):
        restore(saved, tmp_path / "restored")


def test_nothing_is_overwritten(project: Project, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    back_up(project, saved)
    with pytest.raises(InputError, match="saved"):
        back_up(project, saved)
    with pytest.raises(InputError, match="not empty"):
        restore(saved, project.path.parent)
    (tmp_path / "restored" / "domains").mkdir(parents=True)
    (tmp_path / "restored" / "domains" / "mine.yaml").touch()
    with pytest.raises(InputError, match="not empty"):
        restore(saved, tmp_path / "restored")


@pytest.mark.parametrize("missing", ["empty home", "address"])
def test_a_restore_that_is_refused_can_be_given_again(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    saved, restored, home = (tmp_path / name for name in ("saved", "restored", "other_home"))
    back_up(project, saved)
    if missing == "address":
        monkeypatch.setattr(backup, "verified", lambda _: {"config": "pipeline.yaml", "copied": {}})
        (saved / "mlflow.pgdump").touch()
        monkeypatch.delenv("MLFLOW_BACKEND_STORE_URI", raising=False)
    else:
        home.mkdir()
        (home / "dagster.yaml").touch()
        monkeypatch.setenv("DAGSTER_HOME", str(home))
    with pytest.raises(InputError, match=r"other_home|MLFLOW_BACKEND_STORE_URI"):
        restore(saved, restored)
    assert not restored.exists() or not any(restored.iterdir())


def test_a_backup_that_fails_leaves_nothing(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = project.path.parent / "dagster_home"
    home.mkdir()
    storage = REPOSITORY / "dagster_home" / "production" / "storage.yaml"
    (home / "dagster.yaml").write_text(storage.read_text())
    monkeypatch.delenv("DAGSTER_POSTGRES_URL", raising=False)
    before = set(tmp_path.iterdir())
    with pytest.raises(InputError, match="DAGSTER_POSTGRES_URL"):
        back_up(project, tmp_path / "saved")
    assert set(tmp_path.iterdir()) == before


def test_a_store_in_a_bucket_is_left_to_the_bucket(project: Project, tmp_path: Path) -> None:
    elsewhere = replace(project, config=project.config.with_store_at("s3://bucket/prefix"))
    report = back_up(elsewhere, tmp_path / "saved")
    assert "s3://bucket/prefix" in report.notes[0] and "store" not in report.copied
    assert not (tmp_path / "saved" / "store").exists()


def test_the_commands_say_what_was_copied(project: Project, tmp_path: Path) -> None:
    saved, other = str(tmp_path / "saved"), str(tmp_path / "restored")
    said = CliRunner().invoke(app, ["backup", saved, "--config", str(project.path)])
    assert said.exit_code == 0 and "3 artifacts" in said.output
    said = CliRunner().invoke(app, ["restore", saved, other])
    assert said.exit_code == 0 and "3 artifacts" in said.output
    assert isinstance(CliRunner().invoke(app, ["restore", saved, other]).exception, InputError)


@pytest.mark.slow
def test_postgresql_comes_back_with_a_run_in_progress(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg2

    storage = REPOSITORY / "dagster_home" / "production" / "storage.yaml"
    monkeypatch.setenv("DAGSTER_COMPUTE_LOGS", str(tmp_path / "logs"))
    with postgres(tmp_path / "server") as server, dagster_home(tmp_path / "home") as home:
        with (home / "dagster.yaml").open("a") as file:
            file.write(storage.read_text())
        url = f"{server.replace('postgresql', 'postgresql+psycopg2')}/dagster"
        monkeypatch.setenv("DAGSTER_POSTGRES_URL", url)
        with dg.DagsterInstance.get() as instance:
            run = instance.create_run_for_job(endless, status=dg.DagsterRunStatus.STARTED)
            # A step writes at this moment.
            with (
                closing(psycopg2.connect(f"{server}/dagster")) as writer,
                writer.cursor() as cursor,
            ):
                cursor.execute("INSERT INTO kvs (key, value) VALUES ('half', 'written')")
                back_up(project, tmp_path / "saved")
                writer.rollback()
        with pytest.raises(InputError, match="already exists"):
            restore(tmp_path / "saved", _other_home(tmp_path, monkeypatch, "first"))
        monkeypatch.setenv("DAGSTER_POSTGRES_URL", url.replace("/dagster", "/mlflow"))
        restore(tmp_path / "saved", _other_home(tmp_path, monkeypatch, "second"))
        with dg.DagsterInstance.get() as instance:
            assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.STARTED
        with closing(psycopg2.connect(f"{server}/mlflow")) as reader, reader.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM kvs WHERE key = 'half'")
            assert cursor.fetchone() == (0,)


def _other_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> Path:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / name / "home"))
    return tmp_path / name / "project"
