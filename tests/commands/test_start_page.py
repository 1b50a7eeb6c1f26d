"""The start page: figures, and where to look."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest
from conftest import write_project
from support.promotion import publish_results

from react_pipeline import evaluation
from react_pipeline.commands.results import print_results, print_start_page
from react_pipeline.evaluation.comparison import compare
from react_pipeline.extensions.pages.overview import overview
from react_pipeline.extensions.ui.servers import locked_for_ui, tell_addresses
from react_pipeline.project.project import Project
from react_pipeline.tracking.log import Tracking

ANSWERS = {"base": [False, True] * 10, "gated-image": [True, True] * 10}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = write_project(tmp_path_factory.mktemp("reported"), Path("/none"), Path("/none"))
    for slug in ("shapes", "colours"):
        publish_results(project, slug, ANSWERS)
        compare(project, slug)
    overview(project)
    return project


def test_the_start_page_has_headline_and_links(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Mock(wraps=evaluation.comparison_is_current)
    monkeypatch.setattr(evaluation, "comparison_is_current", judge)
    print_start_page(project)
    assert sorted(call.args[1] for call in judge.call_args_list) == ["colours", "shapes"]
    shown = capsys.readouterr().out
    lines = {line.split()[0]: line.split()[1:] for line in shown.splitlines() if line.strip()}
    assert lines["mean"][:2] == ["gated-image", "100.0"] and "shapes" not in lines
    for stage, key in (("overview", "all"), ("comparison", "shapes"), ("comparison", "colours")):
        assert str(project.store.current(stage, key).path / "dashboard.html") in shown
    assert "react-pipeline ui" in shown and "http" not in shown
    print_results(project, ["shapes"])
    assert "\nmean " not in capsys.readouterr().out


def test_the_start_page_says_where_the_user_interfaces_answer(
    project: Project,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(
        Tracking, "results_page", lambda _self, address: f"{address}/#/experiments/1"
    )
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    url = "http://127.0.0.1:3000"
    with locked_for_ui(home) as lock:
        tell_addresses(lock, {"dagster": url, "mlflow": url}, [])
        print_start_page(project, ["shapes"])
        shown = capsys.readouterr().out
        assert f"Dagster    {url} " in shown and f"MLflow     {url}/#/experiments/1 " in shown
        assert "react-pipeline ui" not in shown and "mean" not in shown
    print_start_page(project, ["shapes"])
    assert "http" not in capsys.readouterr().out  # none runs any more


def test_start_page_of_project_without_results_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_start_page(write_project(tmp_path, Path("/none"), Path("/none")))
    shown = capsys.readouterr().out
    assert "materialize it first" in shown and "react-pipeline ui" in shown


def test_the_start_page_of_many_domains_fits_a_screen(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (project.config.domains / "shapes.yaml").read_text()
    for number in range(30):
        (project.config.domains / f"shapes-{number}.yaml").write_text(text)
    print_start_page(project)
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) <= 24
