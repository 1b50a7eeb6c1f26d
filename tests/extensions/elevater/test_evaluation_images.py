"""A data set's test images as a domain's labelled images, in place."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from support.elevater import png, write_elevater, write_images

from react_pipeline.clip import load, publish_base, zero_shot_head
from react_pipeline.corpus import decode_image
from react_pipeline.evaluation import evaluate
from react_pipeline.extensions.elevater.datasets import DATASETS, dataset
from react_pipeline.extensions.elevater.domains import make_domain, write_domains
from react_pipeline.extensions.elevater.extension import Elevater
from react_pipeline.extensions.elevater.readers import read_dataset
from react_pipeline.labelled import (
    encode_images,
    normal,
    preprocessing,
    publish_evaluation_set,
    read_images,
)
from react_pipeline.project import Project
from react_pipeline.retrieval.decontamination import read_kept_out
from react_pipeline.settings import load_domain
from react_pipeline.store import ChangedSource, InputError

NAME = "fer-2013"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_elevater(tmp_path / "data", 2, only=[NAME, "voc-2007-classification"])


@pytest.fixture
def project(tiny_project: Project, data: Path) -> Project:
    write(tiny_project, make_domain(dataset(NAME), data))
    return tiny_project


def write(project: Project, domain: dict[str, object]) -> None:
    (project.config.domains / f"{domain['slug']}.yaml").write_text(yaml.safe_dump(domain))


def test_images_are_listed_and_read_in_place(
    project: Project, data: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    artifact = publish_evaluation_set(project, NAME)
    images = read_images(artifact, project.domain(NAME))
    there = read_dataset(data, NAME, "test")
    assert images["class_id"].tolist() == there.labels.tolist()
    assert images["class"].tolist() == [there.entry.class_names[label] for label in there.labels]
    assert artifact.counts["classes_without_images"] == []
    clip = load(tiny_checkpoint)
    vectors = encode_images(project.config, clip, images)
    last = clip.preprocess(decode_image(there.read(len(there) - 1), 10_000))
    np.testing.assert_allclose(vectors[-1], clip.encode_images(last[None])[0], atol=1e-6)
    # Identity is content, not place.
    moved = data.rename(tmp_path / "moved")
    write(project, make_domain(dataset(NAME), moved))
    second = publish_evaluation_set(project, NAME)
    assert second.reused and second.fingerprint == artifact.fingerprint
    paths = read_images(second, project.domain(NAME))["path"]
    assert paths.str.startswith(str(moved)).all()


def test_a_domain_with_more_classes_keeps_ids_and_fewer_fail(project: Project, data: Path) -> None:
    domain = make_domain(dataset(NAME), data)
    write(project, {**domain, "classes": ["zebra", *domain["classes"]]})
    images = read_images(publish_evaluation_set(project, NAME))
    assert images["class_id"].tolist() == (read_dataset(data, NAME, "test").labels + 1).tolist()
    write(project, {**domain, "classes": domain["classes"][:-2]})
    with pytest.raises(InputError, match="lacks 2 classes of fer-2013\n  sad\n  surprised"):
        publish_evaluation_set(project, NAME)


def test_data_that_are_not_there_are_unavailable_with_reason(project: Project, data: Path) -> None:
    shutil.rmtree(data / NAME / "test")
    assert "split test: no copy" in publish_evaluation_set(project, NAME).counts["unavailable"]
    write(project, make_domain(dataset(NAME), data / "nosuch"))
    assert "nosuch" in publish_evaluation_set(project, NAME).counts["unavailable"]


@pytest.mark.parametrize(
    ("changes", "reported"),
    [
        ({"dataset": "voc-2007-classification"}, "several classes"),
        ({"dataset": "cifar10"}, "did you mean cifar-10"),
        ({"dataset": None}, "evaluation.dataset: "),
        ({"kind": "folder"}, "evaluation.dataset: unknown field"),
    ],
)
def test_wrong_evaluation_is_reported_with_its_reason(
    project: Project, data: Path, changes: dict[str, object], reported: str
) -> None:
    domain = make_domain(dataset(NAME), data)
    write(project, {**domain, "evaluation": {**domain["evaluation"], **changes}})
    with pytest.raises(InputError, match=reported):
        project.domain(NAME)


def test_every_data_set_is_a_domain_and_the_union_unique(tmp_path: Path) -> None:
    paths = write_domains(tmp_path / "data", tmp_path / "domains")
    domains = {path.stem: load_domain(path) for path in paths}
    assert len(domains) == 21
    for name, entry in DATASETS.items():
        domain = domains[name.replace("_", "-")]
        assert tuple(domain.class_names) == entry.class_names
        assert tuple(domain.templates) == entry.templates
        assert (domain.evaluation is None) == entry.multilabel
    union = [normal(name) for name in domains["elevater"].class_names]
    every = {normal(name) for entry in DATASETS.values() for name in entry.class_names}
    assert len(union) == len(set(union)) and set(union) == every
    assert write_domains(tmp_path / "data", tmp_path / "domains") == paths
    paths[0].write_text("classes: [mine]\n")
    with pytest.raises(InputError, match=paths[0].name):
        write_domains(tmp_path / "data", tmp_path / "domains")
    assert paths[0].read_text() == "classes: [mine]\n"


def test_images_of_kitti_are_squashed_only_to_be_measured(
    tiny_project: Project, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    name, clip = "kitti-distance", load(tiny_checkpoint)
    write_images(tmp_path / "data", name, "png")
    write(tiny_project, make_domain(dataset(name), tmp_path / "data"))
    publish_base(tiny_project)
    published = publish_evaluation_set(tiny_project, name)
    domain = tiny_project.domain(name)
    images = read_images(published, domain)
    squashed, cropped = (
        encode_images(tiny_project.config, clip, images, preprocessing(clip, squash=squash))
        for squash in (True, False)
    )
    head = zero_shot_head(clip, domain.class_names, domain.templates)
    shares = (100 * torch.from_numpy(squashed) @ head).softmax(dim=1).amax(dim=1)
    predictions = pd.read_parquet(evaluate(tiny_project, name, "base").file("predictions.parquet"))
    np.testing.assert_allclose(predictions["probability"], shares, rtol=1e-3)
    assert not np.allclose(squashed, cropped, atol=1e-2)
    compared = read_kept_out(tiny_project, name, published, "own", clip).vectors
    np.testing.assert_allclose(compared, cropped, atol=1e-6)


def test_an_image_that_ends_too_early_counts_with_what_is_there(
    tiny_project: Project, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    name = "patch-camelyon"
    cut = write_images(tmp_path / "data", name, "jpg")[-1]
    cut.write_bytes(cut.read_bytes()[: int(0.8 * cut.stat().st_size)])
    write(tiny_project, make_domain(dataset(name), tmp_path / "data"))
    images = read_images(publish_evaluation_set(tiny_project, name), tiny_project.domain(name))
    vectors = encode_images(tiny_project.config, load(tiny_checkpoint), images)
    assert len(images) == len(vectors) == 2 and np.isfinite(vectors).all()


def test_another_image_in_the_place_of_a_listed_one_is_refused(
    project: Project, data: Path, tiny_checkpoint: Path
) -> None:
    images = read_images(publish_evaluation_set(project, NAME), project.domain(NAME))
    (data / NAME / "test" / "angry" / "-.png").write_bytes(png(0, "before the others"))
    publish_evaluation_set(project, NAME)  # reads the lists again
    for part in (images[:1], images[-1:]):
        with pytest.raises(ChangedSource, match="`evaluation_set`"):
            encode_images(project.config, load(tiny_checkpoint), part)


def test_without_data_there_are_no_test_images(make_project: Callable[..., Project]) -> None:
    for root in (None, "nosuch"):
        project = make_project(elevater={"root": root})
        sets = Elevater().test_digests(project, "shapes")
        assert bool(sets) == bool(root) and not any(read() for read in sets.values())
