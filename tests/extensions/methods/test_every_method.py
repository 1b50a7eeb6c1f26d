"""Every method, through all that follows its training: nothing there knows one by its name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.drawings import SHOTS, draw, encode, write_shots
from support.upkeep import edit_domain

from react_pipeline import Classifier
from react_pipeline.evaluation import compare, evaluate
from react_pipeline.extensions.hub.export import export
from react_pipeline.extensions.hub.onnx_model import FORMATS
from react_pipeline.lineage import run
from react_pipeline.project import Project
from react_pipeline.promotion import Verdict, decide
from react_pipeline.settings import trained_methods
from react_pipeline.training import customize

ALL = trained_methods()


@pytest.fixture
def project(retrieved_project: Project) -> Project:
    """With two shots of each class, and short trainings."""
    write_shots(retrieved_project.path.parent)
    edit_domain(retrieved_project, "shapes", shots=SHOTS)
    project = Project.load(retrieved_project.path)
    run(project, "few_shot_set", "shapes")
    return project


@pytest.mark.slow
def test_every_method_is_compared_predicted_with_and_exported(
    project: Project, tmp_path: Path
) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(encode(draw("circle", "red", 1)))
    for method in ("base", *ALL):
        if method != "base":
            customize(project, "shapes", method)
        evaluate(project, "shapes", method)
    comparison = compare(project, "shapes")
    assert {*comparison.counts["top1"]} == {"base", *ALL}
    page = comparison.file("dashboard.html").read_text()
    assert all(method in page for method in ALL)
    assert Verdict.read(decide(project, "shapes")).decision != "incomparable"
    for method in ALL:
        folder = export(project, "shapes", method, tmp_path / method, formats=[*FORMATS])
        assert [*json.loads((folder / "export.json").read_text())["formats"]] == [*FORMATS]
        (ours,) = Classifier.load("shapes", method, config=project.path, precision="fp32").predict(
            [picture]
        )
        (theirs,) = Classifier.load(folder, precision="fp32").predict([picture])
        assert ours.classes == theirs.classes
