"""`react-pipeline models`: champions shown, promoted and rolled back, with MLflow or without."""

from __future__ import annotations

import re
from functools import partial

import pytest
import typer
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from support.commands import call_in_words
from support.promotion import outcomes, result
from support.upkeep import edit
from typer.testing import CliRunner

from react_pipeline.commands.command_line import Person
from react_pipeline.project.project import Project
from react_pipeline.promotion.chain import standing
from react_pipeline.promotion.decision import decide
from react_pipeline.tracking import log
from react_pipeline.tracking.log import Tracking

GATED = "gated-image"


@pytest.fixture
def project(measured_project: Project, tracking: Tracking) -> Project:
    decide(measured_project, "shapes")
    result(measured_project, "shapes", "locked-text", outcomes(146, first=20))
    decide(measured_project, "shapes")
    return measured_project


@pytest.fixture
def run(project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(log, "_unreachable_until", {})
    monkeypatch.chdir(project.path.parent)
    return partial(call_in_words, capsys, "models")


def client_of(project: Project) -> MlflowClient:
    uri = project.config.tracking_uri or ""
    return MlflowClient(uri, uri)


def registered(project: Project) -> ModelVersion:
    return client_of(project).get_model_version_by_alias("react-shapes", "champion")


def test_champion_and_challenger_are_listed_with_figures(project: Project, run) -> None:
    code, out, _ = run("list", "shapes")
    assert code == 0
    words = ("gated-image", "locked-text", "70.0", "+20.0", " champion ", " challenger ")
    assert all(word in out for word in (*words, "becomes champion"))
    assert "colours base" in run("list")[1]


def test_a_promotion_by_hand_and_its_roll_back_are_registered(project: Project, run) -> None:
    code, out, reported = run(
        "promote", "shapes", "locked-text", "--reason", "smaller", "--by", "Ann Lee"
    )
    assert code == 0, reported
    assert "Ann Lee made locked-text" in out
    assert re.search(r"locked-text \(\w{8}\) is champion \(before: gated-image \(\w{8}\)\)", out)
    version = registered(project)
    assert (version.tags["method"], version.tags["decided_by"]) == ("locked-text", "Ann Lee")
    assert "smaller" in version.description
    assert "smaller" in run("list", "shapes")[1]
    code, out, _ = run("rollback", "shapes", "--reason", "no better in the shop")
    assert code == 0
    assert re.search(r"gated-image \(\w{8}\) is champion \(before: locked-text \(\w{8}\)\)", out)
    assert "no better in the shop" in run("list", "shapes")[1]
    assert registered(project).tags["method"] == GATED


def test_without_mlflow_a_roll_back_holds_and_is_applied_later(project: Project, run) -> None:
    kept = project.path.read_text()
    edit(project.path, tracking_uri="http://127.0.0.1:9")
    code, out, reported = run("rollback", "shapes", "--reason", "broken")
    assert code == 0
    assert "base is champion" in out and "MLflow does not answer" in reported
    assert standing(project, "shapes")[0].champion.method == "base"
    assert "broken" in run("list", "shapes")[1]
    project.path.write_text(kept)
    assert Tracking.of(project).sync(project) is not None
    models = client_of(project).search_registered_models("name = 'react-shapes'")
    assert not [model for model in models if "champion" in model.aliases]


def test_what_cannot_be_promoted_takes_one_line_and_exit_code_2(project: Project, run) -> None:
    for arguments, words in (
        (("promote", "shapes", "full", "--reason", "x"), "has not been materialized"),
        (("promote", "shapes", "base", "--reason", "x"), "cannot become champion"),
        (("promote", "nosuch", GATED, "--reason", "x"), "no domain 'nosuch'"),
        (("rollback", "colours"), "the base is champion"),
        (("list", "nosuch"), "no domain 'nosuch'"),
    ):
        code, _, reported = run(*arguments)
        assert code == 2 and words in reported, reported


@pytest.mark.parametrize(
    ("by", "person"),
    [([], "system"), (["--by", " "], "system"), (["--by", "Ann\n Lee "], "Ann Lee")],
)
def test_who_decides_is_a_name_in_one_line_or_the_user_of_the_system(
    monkeypatch: pytest.MonkeyPatch, by: list[str], person: str
) -> None:
    monkeypatch.setenv("LOGNAME", "system")
    app = typer.Typer()

    @app.command()
    def show(by: Person) -> None:
        print(by)

    assert CliRunner().invoke(app, by).stdout == f"{person}\n"
