"""Scenes of the demo's drawings, read by the readers of real sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from react_pipeline.extensions.demo.scenes import IGNORED, SIDE, build_scenes
from react_pipeline.extensions.dense.sets import read_dense_set
from react_pipeline.extensions.dense.settings import DenseConfig
from react_pipeline.project.project import Project
from react_pipeline.settings.files import load_domain, load_pipeline
from react_pipeline.stage import STAGES

ROOT = Path(__file__).parents[3]


def test_boxes_are_tight_and_classes_are_the_domains(tmp_path: Path) -> None:
    objects = build_scenes("demo/activities", tmp_path / "activities", seed=1, scenes=6)
    boxes, masks = (
        read_dense_set(tmp_path, entry)
        for entry in load_pipeline(ROOT / "pipeline.yaml").section(DenseConfig).sets("activities")
    )
    assert (
        boxes.truth is not None and len(boxes.truth["annotations"]) == objects and len(masks) == 6
    )
    assert set(boxes.class_names) == set(
        load_domain(ROOT / "domains" / "activities.yaml").class_names
    )
    assert masks.class_names == ("background", *boxes.class_names) and not boxes.skipped
    hidden = 0
    for position, about in enumerate(boxes.truth["images"]):
        ids = masks.label_map(position, (SIDE, SIDE))
        hidden += int((ids == IGNORED).sum())
        mine = [box for box in boxes.truth["annotations"] if box["image_id"] == about["id"]]
        assert 1 <= len(mine) <= 5
        for box in mine:
            left, top, width, height = map(int, box["bbox"])
            part = ids[top : top + height, left : left + width] == box["category_id"]
            assert part.sum() == box["area"]
            assert part.any(axis=0)[[0, -1]].all() and part.any(axis=1)[[0, -1]].all()
        # White ground is background, and a drawing is not.
        white = (np.asarray(boxes.image(position, 10**9)) == 255).all(axis=2)
        assert (ids[white] == 0).mean() > 0.9


def test_a_seed_gives_the_same_bytes_and_another_one_others(tmp_path: Path) -> None:
    for number, seed in enumerate((0, 0, 1)):
        build_scenes("demo/food", tmp_path / str(number), seed, scenes=2)
    files = [
        sorted(path for path in (tmp_path / str(n)).rglob("*") if path.is_file()) for n in range(3)
    ]
    read = [[path.read_bytes() for path in paths] for paths in files]
    assert read[0] == read[1] and read[0] != read[2]


@pytest.mark.parametrize("project", [ROOT / "pipeline.yaml"])
def test_the_demo_measures_scenes_only_once_they_are_made(project: Path) -> None:
    from react_pipeline.stage import left_out_stages

    config = Project.load(project).config
    root = config.section(DenseConfig).root
    there = root is not None and root.is_dir()
    benchmark = {name for name in STAGES if name.startswith(("benchmark_", "guard_"))}
    dense = {name for name in STAGES if name.startswith("dense_")}
    assert left_out_stages(config) == (benchmark if there else benchmark | dense)


def test_scenes_of_more_than_256_classes_show_the_first(tmp_path: Path) -> None:
    build_scenes("demo/objects", tmp_path, seed=0, scenes=2)
    names = (tmp_path / "names.txt").read_text().splitlines()
    assert len(names) == IGNORED and "identification card" not in names
