"""Two classes of one name: their ids keep them apart from the domain file to a prediction."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from support.drawings import draw
from support.upkeep import edit_domain

from react_pipeline.evaluation.domain_results import evaluate
from react_pipeline.labelled.labelled import publish_evaluation_set
from react_pipeline.project.project import Project
from react_pipeline.retrieval.control import draw_control
from react_pipeline.retrieval.retrieve import retrieve_pairs
from react_pipeline.training.customization import customize
from react_pipeline.use.classifier import Classifier

TWINS = ["circle (thin)", "circle (wide)"]
LABELS = [*TWINS, "square", "triangle", "cross"]


@pytest.fixture
def project(indexed_project: Project, drawings: Path, tmp_path: Path) -> Project:
    folder = Path(shutil.copytree(drawings / "evaluation" / "shapes", tmp_path / "labelled"))
    for number, path in enumerate(sorted((folder / "circle").iterdir())):
        (folder / TWINS[number % 2]).mkdir(exist_ok=True)
        path.rename(folder / TWINS[number % 2] / path.name)
    (folder / "circle").rmdir()
    edit_domain(
        indexed_project,
        "shapes",
        classes=[*({"id": label, "name": "circle"} for label in TWINS), *LABELS[2:]],
        evaluation={"name": "drawn", "kind": "folder", "path": str(folder)},
    )
    for publish in (publish_evaluation_set, retrieve_pairs, draw_control):
        publish(indexed_project, "shapes")
    return indexed_project


def test_both_sets_are_equally_large_and_name_each_other(project: Project) -> None:
    artifact = project.store.current("retrieved_set", "shapes")
    pairs = pd.read_parquet(artifact.file("pairs.parquet"))
    assert pairs["row"].is_unique
    counts = pairs["class"].value_counts()
    thin, wide = counts[TWINS]
    assert thin > 0 and abs(thin - wide) <= 1
    for names in pairs.loc[pairs["class"].isin(TWINS), "classes"]:
        assert {*TWINS} <= {*names}
    classes = pd.read_parquet(artifact.file("classes.parquet"))
    assert classes["class"].tolist() == LABELS
    assert classes.loc[0, "candidates"] == classes.loc[1, "candidates"]
    assert artifact.counts["starving"] == []


@pytest.mark.parametrize("method", ["gated-image", "linear-head", "linear-head-control"])
def test_results_and_predictions_keep_them_apart(project: Project, method: str) -> None:
    checkpoint = customize(project, "shapes", method)
    classes = pd.read_parquet(evaluate(project, "shapes", method).file("per_class.parquet"))
    images = classes.set_index("class")["images"].to_dict()
    assert images == {**dict.fromkeys(LABELS, 4), **dict.fromkeys(TWINS, 2)}
    classifier = Classifier.load(
        "shapes", method, config=project.path, device="cpu", precision="fp32"
    )
    assert list(classifier.classes) == LABELS
    (found,) = classifier.predict([draw("circle", "red", 7)], top_k=5)
    assert sorted(found.classes) == sorted(LABELS)
    if method == "gated-image":
        # From their name alone nothing distinguishes them.
        scores = dict(zip(found.classes, found.scores, strict=True))
        assert scores[TWINS[0]] == pytest.approx(scores[TWINS[1]], abs=1e-6)
    else:
        assert json.loads(checkpoint.file("head.json").read_text())["classes"] == LABELS
