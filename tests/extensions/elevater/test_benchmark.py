"""The benchmark end to end on stand-ins of the data: features, results, submission, comparison."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
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
from react_pipeline.clip.classifier import zero_shot_head
from react_pipeline.clip.model import load
from react_pipeline.extensions.elevater import encoding
from react_pipeline.extensions.elevater.comparison import compare_summaries
from react_pipeline.extensions.elevater.datasets import DATASETS, Dataset, dataset
from react_pipeline.extensions.elevater.features import Features, publish_features
from react_pipeline.extensions.elevater.measuring import Measurer
from react_pipeline.extensions.elevater.readers import read_dataset
from react_pipeline.extensions.elevater.results import collect_submission, publish_results
from react_pipeline.extensions.elevater.summary import SUMMARY_COLUMNS
from react_pipeline.lineage import fresh
from react_pipeline.project.project import Project
from react_pipeline.stage import STAGES
from react_pipeline.store.artifacts import Artifact
from react_pipeline.store.errors import InputError, StaleArtifact

FEW = ("fer-2013", "kitti-distance", "mnist", "oxford-iiit-pets")
GONE = ("dtd", "mnist", "stanford-cars")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_elevater(tmp_path_factory.mktemp("elevater"), {"train": 6, "val": 1, "test": 2})


@pytest.fixture
def project_on(make_project: Callable[..., Project], data: Path) -> Callable[..., Project]:
    def make(**elevater: object) -> Project:
        project = make_project(elevater={"root": str(data), **elevater})
        publish_base(project)
        return project

    return make


def results(project: Project, slug: str = "shapes") -> Artifact:
    publish_features(project, slug, "base")
    return publish_results(project, slug, "base")


def rows_of(artifact: Artifact) -> pd.DataFrame:
    return pd.read_parquet(artifact.file("results.parquet"))


@pytest.mark.parametrize("name", FEW)
def test_head_and_figure_are_those_of_open_clips_own_classifier(
    project_on: Callable[..., Project], data: Path, tiny_checkpoint: Path, name: str
) -> None:
    entry, clip = dataset(name), load(tiny_checkpoint)
    theirs = open_clip.build_zero_shot_classifier(
        clip.model, clip.tokenizer, entry.class_names, entry.templates, num_classes_per_batch=None
    )
    ours = zero_shot_head(clip, entry.class_names, entry.templates)
    assert torch.allclose(ours, theirs, rtol=0, atol=2e-6)

    images = read_dataset(data, name, "test")
    pictures = [
        Image.open(io.BytesIO(images.read(number))).convert("RGB") for number in range(len(images))
    ]
    if name == "kitti-distance":
        pictures = [resize(picture, [32, 32], InterpolationMode.BICUBIC) for picture in pictures]
    pixels = torch.stack([clip.preprocess(picture) for picture in pictures])
    with torch.inference_mode():
        logits = 100 * clip.model.encode_image(pixels, normalize=True) @ theirs
    hits = (logits.argmax(dim=1) == torch.from_numpy(images.labels)).double().numpy()
    by_class = [hits[images.labels == label].mean() for label in range(entry.num_classes)]
    expected = np.mean(by_class) if entry.metric == "mean-per-class" else hits.mean()

    (row,) = rows_of(results(project_on(datasets=[name]))).to_dict("records")
    assert row["value"] == expected
    assert (row["metric"], row["n"], row["protocol"]) == (entry.metric, len(images), "zero-shot")


@pytest.mark.parametrize(("name", "squash"), [("kitti-distance", True), ("patch-camelyon", False)])
def test_features_are_those_of_image_as_benchmark_prepares_it(
    make_project: Callable[..., Project],
    tiny_checkpoint: Path,
    tmp_path: Path,
    name: str,
    squash: bool,
) -> None:
    pictures = []
    for label, class_name in enumerate(dataset(name).class_names):
        folder = tmp_path / "data" / name / "test" / class_name
        folder.mkdir(parents=True)
        pictures.append(
            Image.fromarray(
                np.random.default_rng(label).integers(0, 255, (32, 90, 3), dtype=np.uint8)
            )
        )
        pictures[-1].save(folder / "0.png")
    project = make_project(elevater={"root": str(tmp_path / "data"), "datasets": [name]})
    publish_base(project)
    found = Features.read(publish_features(project, "shapes", "base"), name, "test")
    clip = load(tiny_checkpoint)
    for label, picture in enumerate(pictures):
        prepared = resize(picture, [32, 32], InterpolationMode.BICUBIC) if squash else picture
        with torch.inference_mode():
            expected = clip.model.encode_image(clip.preprocess(prepared)[None])[0].numpy()
        np.testing.assert_allclose(found.features[found.labels == label][0], expected, atol=1e-4)


def test_all_twenty_give_twenty_rows_and_a_whole_submission(
    project_on: Callable[..., Project], tmp_path: Path
) -> None:
    artifact = results(project_on())
    rows = rows_of(artifact)
    assert list(rows["dataset"]) == list(DATASETS)
    assert rows["value"].between(0, 1).all() and rows["unavailable"].isna().all()
    assert artifact.counts["datasets_evaluated"] == artifact.counts["of"] == 20
    assert artifact.counts["mean"]["zero-shot"] == pytest.approx(rows["value"].mean())
    assert artifact.counts["datasets_with_fewer_images"] == 20
    assert collect_submission(artifact, "zero_shot", tmp_path / "mine.zip") == []
    # Official numbers of images are something else, and the table says so.
    assert "| cifar-10 | accuracy | 20 of 10,000 |" in artifact.file("table.md").read_text()
    assert "officially: 20 of 20 data sets" in artifact.file("table.md").read_text()
    assert json.loads(artifact.file("results.json").read_text())[0]["dataset"] == "caltech-101"


def test_predictions_reproduce_the_figure_in_disk_order(
    make_project: Callable[..., Project], tmp_path: Path
) -> None:
    root = write_elevater(
        tmp_path / "data", {"train": 1, "val": 1, "test": 3}, only=["eurosat_clip"]
    )
    project = make_project(elevater={"root": str(root), "datasets": ["eurosat_clip"]})
    publish_base(project)
    artifact = results(project)
    prediction = json.loads(artifact.file("predictions/zero_shot/eurosat_clip.json").read_text())
    on_disk = read_dataset(root, "eurosat_clip", "test").labels
    predicted = np.argmax(prediction["predictions"][0], axis=1)
    assert np.mean(predicted == on_disk) == rows_of(artifact)["value"].iloc[0]
    assert (prediction["model_name"], prediction["n_shot"]) == ("CLIP-react-shapes-base", 0)
    backbone, whole = prediction["num_backbone_params"], prediction["num_params"]
    assert whole - backbone == round(32 * 57.55)  # the mean head of the 20, 1,151 classes in all


def test_seventeen_of_twenty_are_said_and_missing_is_not_zero(
    make_project: Callable[..., Project], data: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(data, tmp_path / "data")
    for name in GONE:
        shutil.rmtree(root / name)
    project = make_project(elevater={"root": str(root)})
    publish_base(project)
    artifact = results(project)
    rows = rows_of(artifact).set_index("dataset")
    assert rows.loc[list(GONE), "value"].isna().all()
    assert rows.loc[list(GONE), "unavailable"].str.contains("no copy of it").all()
    assert len(rows) == 20 and rows["value"].notna().sum() == 17
    assert (artifact.counts["datasets_evaluated"], artifact.counts["of"]) == (17, 20)
    assert artifact.counts["mean"]["zero-shot"] == pytest.approx(rows["value"].dropna().mean())
    assert set(artifact.counts["not_measured"]) == set(GONE)
    lacking = collect_submission(artifact, "zero_shot", tmp_path / "mine.zip")
    assert lacking == [f"{name}: no predictions" for name in GONE]
    assert "(17 of 20)" in artifact.file("table.md").read_text()


@pytest.mark.parametrize(("root", "wrong"), [(None, "not set"), ("nosuch", "no folder")])
def test_without_a_folder_of_data_nothing_is_published(
    make_project: Callable[..., Project], root: str | None, wrong: str
) -> None:
    project = make_project(elevater={"root": root})
    publish_base(project)
    with pytest.raises(InputError, match=f"elevater.root: .*{wrong}"):
        publish_features(project, "shapes", "base")
    assert not project.store.keys("benchmark_features")


def test_a_linear_head_has_no_features_of_its_own(project_on: Callable[..., Project]) -> None:
    with pytest.raises(InputError, match="base's own features"):
        publish_features(project_on(), "shapes", "linear-head-control")


def test_wrong_data_are_reported_before_anything_is_encoded(
    make_project: Callable[..., Project], data: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(data, tmp_path / "data")
    (root / "mnist" / "test" / "stray.png").write_bytes(b"x")
    (root / "dtd" / "test" / "banded").rename(root / "dtd" / "test" / "nosuch")
    project = make_project(elevater={"root": str(root)})
    publish_base(project)
    with pytest.raises(InputError) as raised:
        publish_features(project, "shapes", "base")
    assert "2 of 20" in str(raised.value) and "mnist/test" in str(raised.value)
    assert "dtd" in str(raised.value) and project.store.keys("benchmark_features") == []


def test_a_killed_encoding_resumes_after_finished_data_sets(
    project_on: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = project_on(datasets=["mnist", "fer-2013"])
    encode = encoding.encode

    def killed_at_the_second(*arguments: object) -> object:
        if str(arguments[-1]).startswith("fer-2013"):
            raise KeyboardInterrupt
        return encode(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(encoding, "encode", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        publish_features(project, "shapes", "base")
    (left,) = project.config.store.glob(".scratch/*/*/*/files/mnist/test.npy")
    inode, wanted = left.stat().st_ino, left.read_bytes()
    monkeypatch.setattr(encoding, "encode", encode)
    artifact = publish_features(project, "shapes", "base")
    assert (artifact.path / "mnist" / "test.npy").stat().st_ino == inode
    assert (artifact.path / "mnist" / "test.npy").read_bytes() == wanted
    assert artifact.counts["datasets"] == 2


def test_a_killed_measurement_resumes_after_finished_data_sets(
    project_on: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, measured, measure = (
        project_on(datasets=["mnist", "fer-2013"]),
        [],
        Measurer.measure,
    )
    publish_features(project, "shapes", "base")

    def killed_at_the_second(self: object, entry: Dataset, folder: Path) -> list[dict[str, object]]:
        measured.append(entry.name)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return measure(self, entry, folder)  # type: ignore[arg-type]

    monkeypatch.setattr(Measurer, "measure", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        publish_results(project, "shapes", "base")
    artifact = publish_results(project, "shapes", "base")
    assert measured[2:] == ["fer-2013"]
    assert set(rows_of(artifact)["dataset"]) == {"mnist", "fer-2013"}


def test_a_checkpoint_encodes_an_image_once_for_all_askers(
    project_on: Callable[..., Project],
) -> None:
    first = publish_features(project_on(datasets=["mnist"]), "shapes", "base")
    again = publish_features(project_on(datasets=["mnist"]), "colours", "base")
    assert (first.counts["splits_taken_over"], again.counts["splits_taken_over"]) == (0, 1)
    more = publish_features(project_on(datasets=["mnist", "fer-2013"], shots=[5]), "shapes", "base")
    assert (more.counts["splits_taken_over"], more.counts["images"]) == (1, 20 + 60 + 14 + 42)
    read = [Features.read(artifact, "mnist", "test") for artifact in (first, again, more)]
    assert all(np.array_equal(read[0].features, other.features) for other in read[1:])
    assert publish_features(project_on(datasets=["mnist"]), "shapes", "base").reused


def test_features_of_older_version_of_code_are_not_taken_over(
    project_on: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = project_on(datasets=["mnist"])
    publish_features(project, "shapes", "base")
    rows = dict(STAGES)
    rows["benchmark_features"] = replace(rows["benchmark_features"], version="newer")
    monkeypatch.setattr(stage_module, "_rows", lambda: rows)
    assert publish_features(project, "colours", "base").counts["splits_taken_over"] == 0


def test_adapted_figures_compare_only_on_equal_training_images(
    make_project: Callable[..., Project], tmp_path: Path
) -> None:
    summaries = []
    for name, train in (("whole", 7), ("two fewer", 6)):
        root = write_elevater(
            tmp_path / name, {"train": train, "val": 1, "test": 4}, only=["rendered-sst2"]
        )
        project = make_project(
            elevater={"root": str(root), "datasets": ["rendered-sst2"], "shots": [5], "seeds": 1}
        )
        publish_base(project)
        summaries.append(pd.read_parquet(results(project).file("summary.parquet")))
    table = compare_summaries(summaries[0], {"full": summaries[1]})
    statuses = table[table["dataset"] == "rendered-sst2"].set_index("figure")["status"]
    assert statuses["zero-shot"] == "ok"
    assert (
        "other images" in statuses["linear-probe-5.clean"]
        and "other images" in statuses["linear-probe-5.elevater"]
    )


def test_shots_are_measured_by_both_protocols_for_each_seed(
    project_on: Callable[..., Project],
) -> None:
    project = project_on(datasets=["rendered-sst2", "fer-2013"], shots=[5, 50], seeds=2)
    artifact = results(project)
    rows = rows_of(artifact)
    five = rows[rows["shots"] == 5]
    assert len(five) == 2 * 2 * 2 and set(five["protocol"]) == {"clean", "elevater"}
    values = five.pivot_table(index=["dataset", "seed"], columns="protocol", values="value")
    # The best epoch and the last: were the two exchanged, some would be below, and were they the
    # same, none above.
    assert (values["elevater"] >= values["clean"]).all() and (
        values["elevater"] > values["clean"]
    ).any()
    assert five["learning_rate"].notna().all()
    # A class has six training images: fifty shots are all of them.
    assert rows.loc[rows["shots"] == 50, "value"].notna().all()
    adapted = {
        f"linear-probe-{shots}.{protocol}": 2
        for shots in (5, 50)
        for protocol in ("clean", "elevater")
    }
    assert artifact.counts["datasets_in_mean"] == {"zero-shot": 2, **adapted}
    summary = pd.read_parquet(artifact.file("summary.parquet")).set_index(
        ["dataset", "experiment", "protocol"]
    )
    place = ("fer-2013", "linear-probe-5", "clean")
    assert summary.loc[place, "value"] == pytest.approx(values.loc["fer-2013", "clean"].mean())
    prediction = json.loads(
        artifact.file("predictions/linear_probe_5/seed1_fer-2013.json").read_text()
    )
    assert (prediction["rnd_seeds"], prediction["n_shot"]) == ([1], 5)
    assert np.shape(prediction["predictions"]) == (1, 14, 7)


def test_image_tower_is_fine_tuned_on_images_of_features(
    project_on: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module("react_pipeline.extensions.elevater.sweep")
    monkeypatch.setattr(module, "LEARNING_RATES", (1e-3,))
    project = project_on(datasets=["rendered-sst2"], shots=[5], seeds=1, adaptations=["fine-tune"])
    rows = rows_of(results(project))
    tuned = rows[rows["adaptation"] == "fine-tune"]
    assert len(tuned) == 2 and tuned["value"].notna().all()


def test_fine_tuning_refuses_images_changed_since_encoding(
    make_project: Callable[..., Project], tmp_path: Path
) -> None:
    root = write_elevater(
        tmp_path / "data", {"train": 6, "val": 1, "test": 2}, only=["rendered-sst2"]
    )
    elevater = {
        "root": str(root),
        "datasets": ["rendered-sst2"],
        "shots": [5],
        "adaptations": ["fine-tune"],
    }
    project = make_project(elevater=elevater)
    publish_base(project)
    publish_features(project, "shapes", "base")
    (root / "rendered-sst2" / "test" / "negative" / "0.png").write_bytes(png(0, "other"))
    with pytest.raises(StaleArtifact, match="benchmark_features"):
        publish_results(project, "shapes", "base")


def test_results_are_stale_when_shots_are_asked_for_later(
    project_on: Callable[..., Project],
) -> None:
    results(project_on(datasets=["mnist"]))
    with pytest.raises(InputError, match="rematerialize"):
        fresh(project_on(datasets=["mnist"], shots=[5]), "benchmark_results", "shapes/base")


@pytest.mark.parametrize(("cut", "reported"), [(0.8, None), (0.02, "no usable image")])
def test_a_truncated_image_counts_and_an_unusable_is_named(
    make_project: Callable[..., Project], tmp_path: Path, cut: float, reported: str | None
) -> None:
    names = dataset("patch-camelyon").class_names
    for name in names:
        folder = tmp_path / "data" / "patch-camelyon" / "test" / name
        folder.mkdir(parents=True)
        noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "0.jpg")
    whole = folder / "0.jpg"
    whole.write_bytes(whole.read_bytes()[: int(cut * whole.stat().st_size)])
    project = make_project(
        elevater={"root": str(tmp_path / "data"), "datasets": ["patch-camelyon"]}
    )
    publish_base(project)
    if reported:
        with pytest.raises(InputError, match=f"{names[1]}/0.jpg: {reported}"):
            publish_features(project, "shapes", "base")
    else:
        assert publish_features(project, "shapes", "base").counts["truncated"] == {
            "patch-camelyon/test": 1
        }


def summary(**values: float | None) -> pd.DataFrame:
    rows = [
        (
            name,
            "zero-shot",
            "zero-shot",
            "accuracy",
            value,
            0.0,
            1,
            10,
            10,
            "images",
            "ok" if value is not None else "gone",
        )
        for name, value in ((name.replace("_", "-"), value) for name, value in values.items())
    ]
    return pd.DataFrame(rows, columns=SUMMARY_COLUMNS)


def test_unequal_sets_are_compared_on_what_both_have() -> None:  # FAULTS 32
    base = summary(mnist=0.2, dtd=0.4, cifar_10=0.9, gtsrb=None)
    method = summary(mnist=0.3, dtd=0.5, cifar_10=None, gtsrb=0.8)
    table = compare_summaries(base, {"gated-image": method}).set_index("dataset")
    mean = table.loc["mean"]
    assert (mean["base"], mean["value"], mean["delta"]) == pytest.approx((0.3, 0.4, 0.1))
    assert mean["status"] == "2 of 20 data sets"
    assert table.loc["cifar-10", "status"] == "not measured of the method: gone"
    assert table.loc["gtsrb", "status"] == "not measured of the base: gone"
    assert table.loc[["cifar-10", "gtsrb"], "delta"].isna().all()


def test_figures_of_imagenet_or_other_images_are_not_averaged() -> None:
    base, method = (
        summary(mnist=0.2, dtd=0.4, imagenet_1k=0.1),
        summary(mnist=0.3, dtd=0.5, imagenet_1k=0.9),
    )
    method.loc[method["dataset"] == "dtd", "images"] = "others"
    table = compare_summaries(base, {"full": method}).set_index("dataset")
    assert "other images" in table.loc["dtd", "status"]
    assert table.loc["imagenet-1k", "delta"] == pytest.approx(0.8)
    assert (
        table.loc["mean", "delta"] == pytest.approx(0.1)
        and table.loc["mean", "status"] == "1 of 20 data sets"
    )


@pytest.mark.parametrize(
    ("elevater", "field"),
    [({"datasets": ["cifar10"]}, "datasets"), ({"shots": [7]}, "shots"), ({"seeds": 0}, "seeds")],
)
def test_a_wrong_setting_names_its_field(
    make_project: Callable[..., Project], elevater: dict[str, object], field: str
) -> None:
    with pytest.raises(InputError, match=rf"elevater\.{field}"):
        make_project(elevater=elevater)
