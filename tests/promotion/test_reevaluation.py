"""The champion measured again on other images, with a real model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from react_pipeline.evaluation.domain_results import EvalResult, evaluate
from react_pipeline.labelled.labelled import publish_evaluation_set
from react_pipeline.project.project import Project
from react_pipeline.promotion.case import reevaluate, standing
from react_pipeline.promotion.decision import decide, promote
from react_pipeline.retrieval.retrieve import retrieve_pairs
from react_pipeline.training.customization import customize

GATED = "gated-image"


def measure(project: Project) -> None:
    publish_evaluation_set(project, "shapes")
    retrieve_pairs(project, "shapes")
    customize(project, "shapes", GATED)
    for method in ("base", GATED):
        evaluate(project, "shapes", method)


@pytest.mark.slow
@pytest.mark.operations
def test_a_champion_is_measured_with_its_own_checkpoint(
    indexed_project: Project, tmp_path: Path
) -> None:
    project = indexed_project
    measure(project)
    decide(project, "shapes")
    promote(project, "shapes", GATED, "to have a champion")
    old = standing(project, "shapes")[0].champion
    first = EvalResult.read(project.store.open("domain_results", f"shapes/{GATED}", old.result))

    file = project.config.domains / "shapes.yaml"
    domain = yaml.safe_load(file.read_text())
    shutil.copytree(domain["evaluation"]["path"], tmp_path / "images")
    for image in (tmp_path / "images").glob("*/3.png"):
        image.unlink()
    domain["evaluation"]["path"] = str(tmp_path / "images")
    file.write_text(yaml.safe_dump({**domain, "customization": {"seed": 1}}))
    measure(project)
    assert decide(project, "shapes").counts["decision"] == "incomparable"

    again = EvalResult.read(reevaluate(project, "shapes"))
    assert again.checkpoint_fingerprint == first.checkpoint_fingerprint == old.checkpoint
    assert (first.n, again.n) == (16, 12)
    fresh_set = project.store.current("evaluation_set", "shapes").fingerprint
    assert again.evaluation_set_fingerprint == fresh_set != first.evaluation_set_fingerprint
    assert reevaluate(project, "shapes").reused
    verdict = decide(project, "shapes").counts
    assert verdict["decision"] in ("kept", "challenger", "promoted") and verdict["n"] == 12
