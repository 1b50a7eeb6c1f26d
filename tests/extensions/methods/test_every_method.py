"""Every method, through all that follows its training: nothing there knows one by its name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from support.drawings import SHAPES, draw, encode

from react_pipeline import Classifier
from react_pipeline.evaluation.comparison import compare
from react_pipeline.evaluation.domain_results import evaluate
from react_pipeline.extensions.hub.export import export
from react_pipeline.extensions.hub.onnx_model import FORMATS
from react_pipeline.lineage import run
from react_pipeline.project.project import Project
from react_pipeline.promotion.decision import decide
from react_pipeline.promotion.verdicts import Verdict
from react_pipeline.settings.methods import trained_methods
from react_pipeline.training.customization import customize

ALL = trained_methods()


@pytest.fixture
def project(retrieved_project: Project) -> Project:
    """With two shots of each class, and short trainings."""
    folder = retrieved_project.path.parent
    for name in SHAPES:
        for number in range(2):
            path = folder / "shots" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(draw(name, "green", 9000 + number)))
    domain = folder / "domains" / "shapes.yaml"
    shots = {"name": "my shots", "kind": "folder", "path": "../shots"}
    domain.write_text(yaml.safe_dump({**yaml.safe_load(domain.read_text()), "shots": shots}))
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
