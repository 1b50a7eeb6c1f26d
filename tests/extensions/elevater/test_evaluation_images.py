"""A data set's test images as a domain's labelled images, in place."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from support.elevater import png, write_elevater, write_images
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize

from react_pipeline.clip import load, publish_base, zero_shot_head
from react_pipeline.corpus import decode_image
from react_pipeline.evaluation import evaluate
from react_pipeline.extensions.elevater.datasets import DATASETS, dataset
from react_pipeline.extensions.elevater.domains import make_domain, write_domains
from react_pipeline.extensions.elevater.extension import Elevater
from react_pipeline.extensions.elevater.features import Features, publish_features
from react_pipeline.extensions.elevater.readers import read_dataset
from react_pipeline.labelled import (
    encode_images,
    normal,
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
    clip = load(tiny_checkpoint)
    vectors = encode_images(project.config, clip, images)
    last = clip.preprocess(decode_image(there.pictures[-1].read(), 10_000))
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
    ("name", "reported"),
    [
        ("voc-2007-classification", "several classes"),
        ("cifar10", "evaluation.dataset: .*did you mean cifar-10"),
    ],
)
def test_wrong_evaluation_is_reported_with_its_reason(
    project: Project, data: Path, name: str, reported: str
) -> None:
    domain = make_domain(dataset(NAME), data)
    write(project, {**domain, "evaluation": {**domain["evaluation"], "dataset": name}})
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


@pytest.fixture
def oblong(make_project: Callable[..., Project], tmp_path: Path) -> Callable[..., Any]:
    """One oblong image a class of a data set, which a domain and the benchmark measure on."""

    def make(name: str, suffix: str) -> tuple[Project, list[Path]]:
        root = tmp_path / "data"
        paths = write_images(root, name, suffix)
        project = make_project(elevater={"root": str(root), "datasets": [name]})
        write(project, make_domain(dataset(name), root))
        publish_base(project)
        return project, paths

    return make


def test_images_of_kitti_are_squashed_only_to_be_measured(
    oblong: Callable[..., Any], tiny_checkpoint: Path
) -> None:
    name, clip = "kitti-distance", load(tiny_checkpoint)
    project, paths = oblong(name, "png")
    images = [Image.open(path) for path in sorted(paths)]
    small = [resize(image, [32, 32], InterpolationMode.BICUBIC) for image in images]
    squashed, cropped = (
        clip.encode_images(torch.stack(list(map(clip.preprocess, some))))
        for some in (small, images)
    )
    found = Features.read(publish_features(project, "shapes", "base"), name, "test").features
    np.testing.assert_allclose(found, squashed, atol=1e-4)
    published, domain = publish_evaluation_set(project, name), project.domain(name)
    head = zero_shot_head(clip, domain.class_names, domain.templates)
    shares = (100 * squashed @ head).softmax(dim=1).amax(dim=1)
    predictions = pd.read_parquet(evaluate(project, name, "base").file("predictions.parquet"))
    np.testing.assert_allclose(predictions["probability"], shares, rtol=1e-3)
    assert not np.allclose(squashed, cropped, atol=1e-2)
    compared = read_kept_out(project, name, published, clip).vectors
    np.testing.assert_allclose(compared, cropped, atol=1e-6)


def test_a_truncated_image_counts_and_an_unusable_is_named(
    oblong: Callable[..., Any], tiny_checkpoint: Path
) -> None:
    project, (*_, last) = oblong("patch-camelyon", "jpg")
    whole = last.read_bytes()
    last.write_bytes(whole[: int(0.8 * len(whole))])
    images = read_images(publish_evaluation_set(project, "patch-camelyon"))
    assert np.isfinite(encode_images(project.config, load(tiny_checkpoint), images)).all()
    assert publish_features(project, "shapes", "base").counts["images"] == len(images) == 2
    last.write_bytes(whole[: int(0.02 * len(whole))])
    with pytest.raises(InputError, match=f"{last.parent.name}/0.jpg: no usable image"):
        publish_features(project, "shapes", "base")


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
