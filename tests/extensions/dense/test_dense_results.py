"""Detection and segmentation as artifacts: figures, resuming by image, comparison, checks,
leaked images.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from support.dense import OWN, instances, write_sets

from react_pipeline.clip import publish_base
from react_pipeline.commands.cli import main
from react_pipeline.extensions.dense import compare_dense, publish_dense
from react_pipeline.extensions.dense import results as dense_results
from react_pipeline.extensions.dense.assets import wrong_detections
from react_pipeline.extensions.dense.detection import Detector
from react_pipeline.extensions.dense.extension import Dense
from react_pipeline.extensions.dense.maps import Segmenter
from react_pipeline.extensions.dense.measures import box_figures
from react_pipeline.extensions.dense.sets import read_dense_set
from react_pipeline.extensions.dense.settings import DenseConfig
from react_pipeline.extensions.elevater import contradictions
from react_pipeline.lineage import is_current
from react_pipeline.project import Project
from react_pipeline.store import InputError, MissingArtifact, StaleArtifact

SETTINGS = {"root": "dense", "own": OWN, "boxes": ["truth", "file"], "short_side": 64}


@pytest.fixture
def project(make_project: Callable[..., Project], tmp_path: Path) -> Project:
    write_sets(tmp_path / "dense" / "shapes")
    boxes = [box for box in instances()["annotations"] if not box["iscrowd"]]
    path = tmp_path / "dense" / "boxes" / "boxes.json"
    path.parent.mkdir()
    path.write_text(json.dumps([{**box, "score": 0.9} for box in boxes]))
    made = make_project(dense=SETTINGS)
    publish_base(made)
    return made


def changed(project: Project, **fields: Any) -> Project:
    dense = project.config.section(DenseConfig).model_copy(update=fields)
    return replace(project, config=project.config.model_copy(update={"dense": dense}))


def test_a_checkpoint_is_measured_on_boxes_and_on_masks(project: Project) -> None:
    made = publish_dense(project, "shapes", "base")
    boxes, masks = made.counts["detection"], made.counts["segmentation"]
    assert boxes.keys() >= {"boxes.truth.ap", "boxes.truth.ap50", "boxes.file.ap"}
    assert boxes["boxes.file.proposal_recall_100"] == 1.0
    assert boxes["boxes.file.proposal_recall_1000"] == 1.0
    assert not any(name.startswith("boxes.truth.proposal") for name in boxes)
    assert set(masks) == {"masks.map.miou", "masks.map.pixel_accuracy"}
    assert 0 < masks["masks.map.pixel_accuracy"] < 1
    # What is published are the detections that the figures were computed of.
    dense = project.config.section(DenseConfig)
    images = read_dense_set(dense.root, dense.sets("shapes")[0])
    found = json.loads(made.file("detections/boxes--truth.json").read_text())
    for name, value in box_figures(images.truth, found, {})[0].items():
        assert 0 <= value <= 1 and value == boxes[f"boxes.truth.{name}"]
    assert wrong_detections(made) == 0
    assert publish_dense(project, "shapes", "base").reused


@pytest.mark.parametrize(("predictor", "images"), [(Detector, 4 + 4), (Segmenter, 4)])
def test_a_killed_measurement_predicts_only_remaining_images(
    project: Project, monkeypatch: pytest.MonkeyPatch, predictor: Any, images: int
) -> None:
    wanted = publish_dense(project, "shapes", "base")
    files = {name: file["sha256"] for name, file in wanted.manifest["files"].items()}
    shutil.rmtree(wanted.path.parent)
    predict, seen = predictor.__call__, []

    def killed(self: Any, image: Image.Image, *given: Any) -> Any:
        seen.append(image)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return predict(self, image, *given)

    monkeypatch.setattr(predictor, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        publish_dense(project, "shapes", "base")
    made = publish_dense(project, "shapes", "base")
    assert len(seen) == images + 1  # only the one that was killed is predicted again
    assert {name: file["sha256"] for name, file in made.manifest["files"].items()} == files
    for kind in ("detection", "segmentation"):
        assert made.counts[kind] == wanted.counts[kind]


def test_what_is_not_there_is_a_reason_and_never_a_0(project: Project, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "dense" / "shapes" / "labels")
    made = publish_dense(changed(project, datasets=("coco-80",)), "shapes", "base")
    assert set(made.counts["not_measured"]) == {"masks", "coco-80"}
    assert not made.counts["segmentation"]
    rows = pd.read_parquet(made.file("results.parquet"))
    assert rows[rows["set"] == "masks"]["value"].isna().all() and contradictions(rows) == 0
    with pytest.raises(InputError, match="dense.root"):
        publish_dense(changed(project, root=None), "shapes", "base")


def test_a_student_is_measured_beside_the_map_it_learned_from(project: Project) -> None:
    learning = {"student_images": "{domain}/images", "student_steps": 2}
    made = publish_dense(changed(project, **learning), "shapes", "base")
    assert {name.split(".")[1] for name in made.counts["segmentation"]} == {"map", "student"}


def test_images_of_the_sets_are_kept_out_of_training(project: Project) -> None:
    digests = Dense().test_digests(project, "shapes")
    boxes, masks = digests["dense/boxes"](), digests["dense/masks"]()
    assert boxes == masks and len(boxes) == 4
    assert not Dense().test_digests(changed(project, root=None), "shapes")


def test_a_fingerprint_sees_settings_and_data_and_no_paths(
    project: Project, tmp_path: Path
) -> None:
    def fingerprint(**fields: Any) -> str:
        return publish_dense(changed(project, **fields), "shapes", "base").fingerprint

    first = fingerprint()
    shutil.copytree(tmp_path / "dense", tmp_path / "copy")
    assert fingerprint(root=tmp_path / "copy") == first
    assert fingerprint(prompt_denoising=0.5) != first
    Image.new("L", (64, 64)).save(tmp_path / "dense" / "shapes" / "labels" / "1.png")
    assert fingerprint() != first


@pytest.fixture
def compared(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """With a second result that is the base's under the name of a method."""
    publish_dense(project, "shapes", "base")
    resolve = dense_results.resolve

    def as_base(project: Project, stage: str, key: str, **given: Any) -> Any:
        inputs = resolve(project, stage, "shapes/base", **given)
        return replace(inputs, key=key)

    monkeypatch.setattr(dense_results, "resolve", as_base)
    publish_dense(project, "shapes", "gated-image")
    fresh = Project.load(project.path)
    monkeypatch.setattr(
        "react_pipeline.lineage.fresh",
        lambda project, stage, key, *_: project.store.current(stage, key),
    )
    return fresh


def test_a_method_stands_beside_the_base(compared: Project) -> None:
    with pytest.raises(MissingArtifact, match="the base"):
        compare_dense(compared, "colours")
    made = compare_dense(compared, "shapes")
    table = pd.read_parquet(made.file("table.parquet"))
    assert set(table["method"]) == {"gated-image"} and (table["delta"] == 0).all()
    assert {("boxes", "truth", "ap50"), ("masks", "map", "miou")} <= set(
        zip(table["set"], table["source"], table["figure"], strict=True)
    )
    assert made.counts["delta"]["gated-image"]["masks.map.miou"] == 0
    assert "| gated-image | masks | map | miou |" in made.file("table.md").read_text()
    assert is_current(compared, "dense_comparison", "shapes").fingerprint == made.fingerprint
    publish_dense(changed(compared, short_side=80), "shapes", "gated-image")
    with pytest.raises(StaleArtifact):
        is_current(compared, "dense_comparison", "shapes")


def test_a_check_reads_all_files_and_fails_only_for_wrong_ones(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project.path.write_text(
        project.path.read_text().replace("short_side:", "datasets: [coco-80]\n  short_side:")
    )

    def run(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            main(["dense", "check", *arguments, "--config", str(project.path)])
        reported = capsys.readouterr()
        return int(stop.value.code or 0), reported.out + reported.err

    code, out = run("shapes")
    states = dict(line.split()[:3:2] for line in out.splitlines()[1:4])
    assert code == 0 and states == {"coco-80": "missing", "boxes": "ok", "masks": "ok"}
    Image.new("L", (65, 64)).save(tmp_path / "dense" / "shapes" / "labels" / "2.png")
    code, out = run("shapes")
    assert code == 1 and "65, 64" in out
    for domain in ([], ["nosuch"]):  # paths hold `{domain}`
        code, out = run(*domain)
        assert code == 2 and "shapes" in out
