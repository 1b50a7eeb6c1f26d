"""The benchmark end to end on stand-ins of the data: features, results, submission, comparison."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from PIL import Image
from support.elevater import png, write_elevater
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize

from react_pipeline import stage as stage_module
from react_pipeline.clip.base import publish_base
from react_pipeline.clip.model import load
from react_pipeline.extensions.elevater import encoding
from react_pipeline.extensions.elevater.datasets import DATASETS, Dataset, dataset
from react_pipeline.extensions.elevater.features import Features, publish_features
from react_pipeline.extensions.elevater.figures import SUMMARY_COLUMNS, compare_summaries
from react_pipeline.extensions.elevater.measuring import Measurer
from react_pipeline.extensions.elevater.readers import read_dataset
from react_pipeline.extensions.elevater.results import publish_results
from react_pipeline.extensions.elevater.submission import write_submission
from react_pipeline.lineage import fresh
from react_pipeline.project.project import Project
from react_pipeline.stage import STAGES
from react_pipeline.store.artifacts import Artifact
from react_pipeline.store.errors import InputError, StaleArtifact

GONE = ("dtd", "mnist", "stanford-cars")
SST = "rendered-sst2"


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_elevater(tmp_path_factory.mktemp("elevater"), {"train": 6, "val": 1, "test": 2})


@pytest.fixture
def project_on(make_project: Callable[..., Project], data: Path) -> Callable[..., Project]:
    def make(root: Path | str | None = data, **elevater: object) -> Project:
        project = make_project(elevater={"root": root and str(root), **elevater})
        publish_base(project)
        return project

    return make


def results(project: Project, slug: str = "shapes") -> Artifact:
    publish_features(project, slug, "base")
    return publish_results(project, slug, "base")


def rows_of(artifact: Artifact) -> pd.DataFrame:
    return pd.read_parquet(artifact.file("results.parquet"))


@pytest.mark.parametrize("name", ["fer-2013", "oxford-iiit-pets"])
def test_a_figure_is_that_of_open_clips_own_classifier(
    project_on: Callable[..., Project], data: Path, tiny_checkpoint: Path, name: str
) -> None:
    entry, clip = dataset(name), load(tiny_checkpoint)
    theirs = open_clip.build_zero_shot_classifier(
        clip.model, clip.tokenizer, entry.class_names, entry.templates, num_classes_per_batch=None
    )
    images = read_dataset(data, name, "test")
    pictures = [
        Image.open(io.BytesIO(images.read(number))).convert("RGB") for number in range(len(images))
    ]
    pixels = torch.stack([clip.preprocess(picture) for picture in pictures])
    with torch.inference_mode():
        logits = 100 * clip.model.encode_image(pixels, normalize=True) @ theirs
    hits = (logits.argmax(dim=1) == torch.from_numpy(images.labels)).double().numpy()
    by_class = [hits[images.labels == label].mean() for label in range(entry.num_classes)]
    expected = np.mean(by_class) if entry.metric == "mean-per-class" else hits.mean()

    artifact = results(project_on(datasets=[name]))
    (row,) = rows_of(artifact).to_dict("records")
    assert row["value"] == expected
    assert (row["metric"], row["n"], row["protocol"]) == (entry.metric, len(images), "zero-shot")
    prediction = json.loads(artifact.file(f"predictions/zero_shot/{name}.json").read_text())
    predicted = np.argmax(prediction["predictions"][0], axis=1)
    assert predicted.tolist() == logits.argmax(dim=1).tolist()  # in the order on disk
    assert (prediction["model_name"], prediction["n_shot"]) == ("CLIP-react-shapes-base", 0)
    backbone, whole = prediction["num_backbone_params"], prediction["num_params"]
    assert whole - backbone == round(32 * 57.55)  # the mean head of the 20, 1,151 classes in all


@pytest.mark.parametrize(("name", "squash"), [("kitti-distance", True), ("patch-camelyon", False)])
def test_only_images_of_kitti_are_squashed(
    project_on: Callable[..., Project],
    tiny_checkpoint: Path,
    tmp_path: Path,
    name: str,
    squash: bool,
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (32, 90, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    for class_name in dataset(name).class_names:
        (folder := tmp_path / "data" / name / "test" / class_name).mkdir(parents=True)
        picture.save(folder / "0.png")
    project = project_on(tmp_path / "data", datasets=[name])
    found = Features.read(publish_features(project, "shapes", "base"), name, "test")
    clip = load(tiny_checkpoint)
    prepared = resize(picture, [32, 32], InterpolationMode.BICUBIC) if squash else picture
    with torch.inference_mode():
        expected = clip.model.encode_image(clip.preprocess(prepared)[None])[0].numpy()
    np.testing.assert_allclose(found.features[0], expected, atol=1e-4)


def test_seventeen_of_twenty_are_said_and_missing_is_not_zero(
    project_on: Callable[..., Project], data: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(data, tmp_path / "data")
    for name in GONE:
        shutil.rmtree(root / name)
    artifact = results(project_on(root))
    rows = rows_of(artifact).set_index("dataset")
    assert rows.loc[list(GONE), "value"].isna().all()
    assert rows.loc[list(GONE), "unavailable"].str.contains("no copy of it").all()
    assert list(rows.index) == list(DATASETS) and rows["value"].notna().sum() == 17
    assert (artifact.counts["datasets_evaluated"], artifact.counts["of"]) == (17, 20)
    assert artifact.counts["mean"]["zero-shot"] == pytest.approx(rows["value"].dropna().mean())
    assert set(artifact.counts["not_measured"]) == set(GONE)
    names = write_submission(artifact, "zero_shot", tmp_path / "mine.zip")
    assert names == [name for name in DATASETS if name not in GONE]
    table = artifact.file("table.md").read_text()
    assert "(17 of 20)" in table
    # Official numbers of images are something else, and the table says so.
    assert artifact.counts["datasets_with_fewer_images"] == 17
    assert "| cifar-10 | accuracy | 20 of 10,000 |" in table


def test_what_cannot_be_measured_is_said_before_encoding(
    project_on: Callable[..., Project], data: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(data, tmp_path / "data")
    (root / "mnist" / "test" / "stray.png").write_bytes(b"x")
    (root / "dtd" / "test" / "banded").rename(root / "dtd" / "test" / "nosuch")
    for given, method, words in (
        (root, "base", r"2 of 20[\s\S]*dtd[\s\S]*mnist/test"),
        (None, "base", "elevater.root: .*not set"),
        ("nosuch", "base", "elevater.root: .*no folder"),
        (data, "linear-head-control", "base's own features"),
    ):
        project = project_on(given)
        with pytest.raises(InputError, match=words):
            publish_features(project, "shapes", method)
    assert not project.store.keys("benchmark_features")


def test_a_kill_costs_only_what_was_not_finished(
    project_on: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = project_on(datasets=["mnist", "fer-2013"])
    encode, measure, measured = encoding.encode, Measurer.measure, []

    def killed_encoding(*arguments: object) -> object:
        if str(arguments[-1]).startswith("fer-2013"):
            raise KeyboardInterrupt
        return encode(*arguments)  # type: ignore[arg-type]

    def killed_measuring(self: object, entry: Dataset, folder: Path) -> list[dict[str, object]]:
        measured.append(entry.name)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return measure(self, entry, folder)  # type: ignore[arg-type]

    monkeypatch.setattr(encoding, "encode", killed_encoding)
    with pytest.raises(KeyboardInterrupt):
        publish_features(project, "shapes", "base")
    (left,) = project.config.store.glob(".scratch/*/*/*/files/mnist/test.npy")
    inode, wanted = left.stat().st_ino, left.read_bytes()
    monkeypatch.setattr(encoding, "encode", encode)
    artifact = publish_features(project, "shapes", "base")
    assert (artifact.path / "mnist" / "test.npy").stat().st_ino == inode
    assert (artifact.path / "mnist" / "test.npy").read_bytes() == wanted
    assert artifact.counts["datasets"] == 2

    monkeypatch.setattr(Measurer, "measure", killed_measuring)
    with pytest.raises(KeyboardInterrupt):
        publish_results(project, "shapes", "base")
    artifact = publish_results(project, "shapes", "base")
    assert measured[2:] == ["fer-2013"]
    assert set(rows_of(artifact)["dataset"]) == {"mnist", "fer-2013"}


def test_a_checkpoint_encodes_an_image_once_for_all_askers(
    project_on: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = publish_features(project_on(datasets=["mnist"]), "shapes", "base")
    again = publish_features(project_on(datasets=["mnist"]), "colours", "base")
    assert (first.counts["splits_taken_over"], again.counts["splits_taken_over"]) == (0, 1)
    more = publish_features(project_on(datasets=["mnist", "fer-2013"], shots=[5]), "shapes", "base")
    assert (more.counts["splits_taken_over"], more.counts["images"]) == (1, 20 + 60 + 14 + 42)
    read = [Features.read(artifact, "mnist", "test") for artifact in (first, again, more)]
    assert all(np.array_equal(read[0].features, other.features) for other in read[1:])
    project = project_on(datasets=["mnist"])
    assert publish_features(project, "shapes", "base").reused
    rows = dict(STAGES)
    rows["benchmark_features"] = replace(rows["benchmark_features"], version="newer")
    monkeypatch.setattr(stage_module, "_rows", lambda: rows)
    assert publish_features(project, "colours", "base").counts["splits_taken_over"] == 0


def test_shots_are_measured_by_both_protocols_for_each_seed(
    project_on: Callable[..., Project],
) -> None:
    artifact = results(project_on(datasets=[SST, "fer-2013"], shots=[5, 50], seeds=2))
    rows = rows_of(artifact)
    five = rows[rows["shots"] == 5]
    assert len(five) == 2 * 2 * 2 and set(five["protocol"]) == {"clean", "elevater"}
    values = five.pivot_table(index=["dataset", "seed"], columns="protocol", values="value")
    # The best epoch and the last: were the two exchanged, some would be below, and were they the
    # same, none above.
    assert (values["elevater"] >= values["clean"]).all()
    assert (values["elevater"] > values["clean"]).any()
    assert five["learning_rate"].notna().all()
    # Figures compare only where the training images are equal too.
    assert five["images"].str.contains("+", regex=False).all()
    # A class has six training images: fifty shots are all of them.
    assert rows.loc[rows["shots"] == 50, "value"].notna().all()
    adapted = [f"linear-probe-{shots}.{way}" for shots in (5, 50) for way in ("clean", "elevater")]
    assert artifact.counts["datasets_in_mean"] == dict.fromkeys(["zero-shot", *adapted], 2)
    summary = pd.read_parquet(artifact.file("summary.parquet")).set_index(["dataset", "figure"])
    mean = summary.loc[("fer-2013", "linear-probe-5.clean"), "value"]
    assert mean == pytest.approx(values.loc["fer-2013", "clean"].mean())
    path = artifact.file("predictions/linear_probe_5/seed1_fer-2013.json")
    prediction = json.loads(path.read_text())
    assert (prediction["rnd_seeds"], prediction["n_shot"]) == ([1], 5)
    assert np.shape(prediction["predictions"]) == (1, 14, 7)
    with pytest.raises(InputError, match="rematerialize"):
        fresh(project_on(datasets=[SST], shots=[5]), "benchmark_results", "shapes/base")


@pytest.mark.parametrize("change", [False, True])
def test_a_tower_is_fine_tuned_on_the_images_of_its_features(
    project_on: Callable[..., Project],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    change: bool,
) -> None:
    monkeypatch.setattr("react_pipeline.extensions.elevater.sweep.LEARNING_RATES", (1e-3,))
    root = write_elevater(tmp_path / "data", {"train": 6, "val": 1, "test": 2}, only=[SST])
    project = project_on(root, datasets=[SST], shots=[5], seeds=1, adaptations=["fine-tune"])
    publish_features(project, "shapes", "base")
    if change:
        (root / SST / "test" / "negative" / "0.png").write_bytes(png(0, "other"))
        with pytest.raises(StaleArtifact, match="benchmark_features"):
            publish_results(project, "shapes", "base")
        return
    rows = rows_of(publish_results(project, "shapes", "base"))
    tuned = rows[rows["adaptation"] == "fine-tune"]
    assert len(tuned) == 2 and tuned["value"].notna().all()


@pytest.mark.parametrize(("cut", "reported"), [(0.8, None), (0.02, "no usable image")])
def test_a_truncated_image_counts_and_an_unusable_is_named(
    project_on: Callable[..., Project], tmp_path: Path, cut: float, reported: str | None
) -> None:
    name = "patch-camelyon"
    names = dataset(name).class_names
    for class_name in names:
        folder = tmp_path / "data" / name / "test" / class_name
        folder.mkdir(parents=True)
        noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "0.jpg")
    whole = folder / "0.jpg"
    whole.write_bytes(whole.read_bytes()[: int(cut * whole.stat().st_size)])
    project = project_on(tmp_path / "data", datasets=[name])
    if reported:
        with pytest.raises(InputError, match=f"{names[1]}/0.jpg: {reported}"):
            publish_features(project, "shapes", "base")
    else:
        counts = publish_features(project, "shapes", "base").counts
        assert counts["images"] == 2


def summary(**values: float | None) -> pd.DataFrame:
    rows = [
        {
            **{"dataset": name.replace("_", "-"), "figure": "zero-shot", "metric": "accuracy"},
            **{"value": value, "n": 10, "expected": 10, "images": "images"},
            "status": "gone" if value is None else "ok",
        }
        for name, value in values.items()
    ]
    return pd.DataFrame(rows, columns=SUMMARY_COLUMNS)


def test_unequal_sets_are_compared_on_what_both_have() -> None:  # FAULTS 32
    base = summary(mnist=0.2, dtd=0.4, cifar_10=0.9, gtsrb=None, food_101=0.5, imagenet_1k=0.1)
    method = summary(mnist=0.3, dtd=0.5, cifar_10=None, gtsrb=0.8, food_101=1.0, imagenet_1k=0.9)
    method.loc[method["dataset"] == "food-101", "images"] = "others"
    table = compare_summaries(base, {"gated-image": method}).set_index("dataset")
    mean = table.loc["mean"]
    assert (mean["base"], mean["value"], mean["delta"]) == pytest.approx((0.3, 0.4, 0.1))
    assert mean["status"] == "2 of 20 data sets"
    assert table.loc["cifar-10", "status"] == "not measured of the method: gone"
    assert table.loc["gtsrb", "status"] == "not measured of the base: gone"
    assert "other images" in table.loc["food-101", "status"]
    assert table.loc[["cifar-10", "gtsrb", "food-101"], "delta"].isna().all()
    assert table.loc["imagenet-1k", "delta"] == pytest.approx(0.8)  # and in no mean


@pytest.mark.parametrize(
    ("elevater", "field"),
    [({"datasets": ["cifar10"]}, "datasets"), ({"shots": [7]}, "shots"), ({"seeds": 0}, "seeds")],
)
def test_a_wrong_setting_names_its_field(
    make_project: Callable[..., Project], elevater: dict[str, object], field: str
) -> None:
    with pytest.raises(InputError, match=rf"elevater\.{field}"):
        make_project(elevater=elevater)
