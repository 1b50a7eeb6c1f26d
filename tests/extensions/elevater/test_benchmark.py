"""The benchmark end to end on stand-ins of the data: features, results, submission, comparison, and
its assets.
"""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from conftest import write_project
from mlflow import MlflowClient
from PIL import Image
from support.elevater import png, write_elevater
from support.launch import dagster_home, metadata_of

from react_pipeline.assets import to_partition_key
from react_pipeline.assets.launch import materialize, open_instance
from react_pipeline.clip import load, publish_base
from react_pipeline.embedding import Encoder
from react_pipeline.extensions.elevater.assets import benchmark_mean_is_at_least_base, count_pairs
from react_pipeline.extensions.elevater.datasets import DATASETS, dataset
from react_pipeline.extensions.elevater.features import digests_of_test_images, publish_features
from react_pipeline.extensions.elevater.measuring import Measurer
from react_pipeline.extensions.elevater.readers import read_dataset
from react_pipeline.extensions.elevater.results import (
    SUMMARY_COLUMNS,
    compare_summaries,
    publish_results,
)
from react_pipeline.extensions.elevater.submission import write_submission
from react_pipeline.lineage import fresh
from react_pipeline.project import Project
from react_pipeline.store import Artifact, InputError, Inputs, StaleArtifact

GONE = ("dtd", "mnist", "stanford-cars")
SST = "rendered-sst2"


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_elevater(tmp_path_factory.mktemp("elevater"), {"train": 6, "val": 1, "test": 2})


@pytest.fixture
def project_on(make_project: Callable[..., Project], data: Path) -> Callable[..., Project]:
    def make(root: Path | str | None = data, **elevater: object) -> Project:
        elevater["root"] = root and str(root)
        project = make_project(elevater=elevater, embedding={"batch_size": 8})
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
    pictures = [Image.open(io.BytesIO(one.read())).convert("RGB") for one in images.pictures]
    pixels = torch.stack([clip.preprocess(picture) for picture in pictures])
    with torch.inference_mode():
        logits = 100 * clip.model.encode_image(pixels, normalize=True) @ theirs
    hits = (logits.argmax(dim=1) == torch.from_numpy(images.labels)).double().numpy()
    by_class = [hits[images.labels == label].mean() for label in range(entry.num_classes)]
    expected = np.mean(by_class) if entry.metric == "mean-per-class" else hits.mean()

    artifact = results(project_on(datasets=[name]))
    (row,) = rows_of(artifact).to_dict("records")
    assert row["value"] == expected
    assert (row["metric"], row["n"], row["protocol"]) == (entry.metric, len(pictures), "zero-shot")
    prediction = json.loads(artifact.file(f"predictions/zero_shot/{name}.json").read_text())
    predicted = np.argmax(prediction["predictions"][0], axis=1)
    assert predicted.tolist() == logits.argmax(dim=1).tolist()  # in the order on disk
    assert (prediction["model_name"], prediction["n_shot"]) == ("CLIP-react-shapes-base", 0)
    backbone, whole = prediction["num_backbone_params"], prediction["num_params"]
    assert whole - backbone == round(32 * 57.55)  # the mean head of the 20, 1,151 classes in all


def test_seventeen_of_twenty_are_said_and_missing_is_not_zero(
    project_on: Callable[..., Project], tmp_path: Path
) -> None:
    there = [name for name in DATASETS if name not in GONE]
    artifact = results(project_on(write_elevater(tmp_path / "data", 2, only=there)))
    rows, counts = rows_of(artifact).set_index("dataset"), artifact.counts
    assert rows.loc[list(GONE), "value"].isna().all()
    assert rows.loc[list(GONE), "unavailable"].str.contains("no copy of it").all()
    assert list(rows.index) == list(DATASETS) and rows["value"].notna().sum() == 17
    assert (counts["datasets_evaluated"], counts["of"]) == (17, 20)
    assert counts["datasets_with_fewer_images"] == 17
    assert counts["mean"]["zero-shot"] == pytest.approx(rows["value"].mean())
    assert set(counts["not_measured"]) == set(GONE)
    assert write_submission(artifact, "zero_shot", tmp_path / "mine.zip") == there
    # Official numbers of images are something else, and the table says so.
    table = artifact.file("table.md").read_text()
    assert "(17 of 20)" in table and "| cifar-10 | accuracy | 20 of 10,000 |" in table


def test_what_cannot_be_measured_is_said_before_encoding(
    project_on: Callable[..., Project], tmp_path: Path
) -> None:
    root = write_elevater(tmp_path / "data", 1, only=["dtd", "mnist"])
    (root / "mnist" / "test" / "stray.png").write_bytes(b"x")
    (root / "dtd" / "test" / "banded").rename(root / "dtd" / "test" / "nosuch")
    for given, method, words in (
        (root, "base", r"2 of 20[\s\S]*dtd[\s\S]*mnist/test"),
        (None, "base", "elevater.root: .*not set"),
        ("nosuch", "base", "elevater.root: .*no folder"),
        (root, "linear-head-control", "base's own features"),
    ):
        project = project_on(given)
        with pytest.raises(InputError, match=words):
            publish_features(project, "shapes", method)
    assert not project.store.keys("benchmark_features")
    with pytest.raises(InputError, match=r"elevater\.datasets"):
        project_on(datasets=["cifar10"])


def test_a_kill_costs_only_what_was_not_finished(
    project_on: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = project_on(datasets=["mnist", "fer-2013"])
    done: list[Any] = []

    def killed_once(function: Callable[..., Any], number: int) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            done.append(given[1])
            if len(done) == number:
                raise KeyboardInterrupt
            return function(*given)

        return call

    for owner, name, number, publish, seen in (
        (Encoder, "images", 4, publish_features, [8, 8, 4, 8, 8, 6]),  # of 20 and of 14 images
        (Measurer, "measure", 2, publish_results, ["mnist", "fer-2013", "fer-2013"]),
    ):
        done.clear()
        monkeypatch.setattr(owner, name, killed_once(getattr(owner, name), number))
        with pytest.raises(KeyboardInterrupt):
            publish(project, "shapes", "base")
        made = publish(project, "shapes", "base")
        assert [one.name if owner is Measurer else len(one) for one in done] == seen
    assert set(rows_of(made)["dataset"]) == {"mnist", "fer-2013"}


FIELDS = [
    *("model_name", "dataset_name", "num_trainable_params", "num_params", "num_visual_params"),
    *("num_backbone_params", "n_shot", "rnd_seeds", "predictions"),
]
"""In the order of ELEVATER's submissions."""


def test_shots_are_measured_by_both_protocols_for_each_seed(
    project_on: Callable[..., Project], tmp_path: Path
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
    mine = tmp_path / "mine.zip"
    names = write_submission(artifact, "linear_probe_5", mine)
    assert names == ["fer-2013", SST]
    with zipfile.ZipFile(mine) as archive:
        (member,) = archive.infolist()
        entries = json.loads(archive.read("all_predictions.json"))["data"]
    assert member.compress_type == zipfile.ZIP_DEFLATED
    assert [entry["dataset_name"] for entry in entries] == names
    assert list(entries[0]) == FIELDS and entries[0]["rnd_seeds"] == [0, 1]
    assert entries[0]["predictions"][1:] == prediction["predictions"]
    before = mine.read_bytes()
    assert write_submission(artifact, "linear_probe_5", mine) and mine.read_bytes() == before
    with pytest.raises(InputError, match="rematerialize"):
        fresh(project_on(datasets=[SST], shots=[5]), "benchmark_results", "shapes/base")


def test_a_submission_that_cannot_be_finished_leaves_no_zip(tmp_path: Path) -> None:
    results: Any = SimpleNamespace(path=tmp_path)
    folder = tmp_path / "predictions" / "linear_probe_5"
    folder.mkdir(parents=True)
    (folder / "seed1_dtd.json").write_text("{")
    with pytest.raises(ValueError, match="line 1"):
        write_submission(results, folder.name, tmp_path / "mine.zip")
    assert not list(tmp_path.glob("*.zip*"))


def test_a_tower_is_fine_tuned_on_the_images_of_its_features(
    project_on: Callable[..., Project],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("react_pipeline.extensions.elevater.trainer.LEARNING_RATES", (1e-3,))
    root = write_elevater(tmp_path / "data", {"train": 6, "val": 1, "test": 2}, only=[SST])
    project = project_on(root, datasets=[SST], shots=[5], seeds=1, adaptations=["fine-tune"])
    publish_features(project, "shapes", "base")
    image = root / SST / "test" / "negative" / "0.png"
    before = image.read_bytes()
    image.write_bytes(png(0, "other"))
    with pytest.raises(StaleArtifact, match="benchmark_features"):
        publish_results(project, "shapes", "base")
    image.write_bytes(before)
    artifact = publish_results(project, "shapes", "base")
    rows = rows_of(artifact)
    tuned = rows[rows["adaptation"] == "fine-tune"]
    assert len(tuned) == 2 and tuned["value"].notna().all()
    assert artifact.file(f"predictions/finetuning_5/seed0_{SST}.json").is_file()


def summary(**values: float | None) -> pd.DataFrame:
    table = pd.DataFrame({"value": values}, dtype=float).rename_axis("dataset").reset_index()
    status = np.where(table["value"].isna(), "gone", "ok")
    every = {"figure": "zero-shot", "metric": "accuracy", "n": 10, "expected": 10}
    return table.assign(status=status, images="images", **every).reindex(columns=SUMMARY_COLUMNS)


def test_unequal_sets_are_compared_on_what_both_have() -> None:  # FAULTS 32
    base = summary(mnist=0.2, dtd=0.4, country211=0.9, gtsrb=None, voc=0.5, imagenet=0.1)
    method = summary(mnist=0.3, dtd=0.5, country211=None, gtsrb=0.8, voc=1.0, imagenet=0.9)
    method.loc[method["dataset"] == "voc", "images"] = "others"
    table = compare_summaries(base, {"gated-image": method}).set_index("dataset")
    mean = table.loc["mean"]
    assert (mean["base"], mean["value"], mean["delta"]) == pytest.approx((0.3, 0.4, 0.1))
    assert mean["status"] == "2 of 20 data sets"
    assert table.loc["country211", "status"] == "not measured of the method: gone"
    assert table.loc["gtsrb", "status"] == "not measured of the base: gone"
    assert "other images" in table.loc["voc", "status"]
    assert table.loc[["country211", "gtsrb", "voc"], "delta"].isna().all()
    assert table.loc["imagenet", "delta"] == pytest.approx(0.8)  # and in no mean


WANTED = ["fer-2013", "mnist", "dtd"]
METHODS = ("base", "gated-image", "linear-head")


@pytest.mark.slow
@pytest.mark.operations
def test_a_launch_builds_checks_shows_and_compares_the_benchmark(
    tmp_path: Path, tiny_checkpoint: Path, drawings: Path, mlflow_database: Path
) -> None:
    """The whole lineage of one domain, with two of three data sets there."""
    write_elevater(tmp_path / "data", only=WANTED[:2])
    elevater = {"root": "data", "datasets": WANTED}
    project = write_project(tmp_path, tiny_checkpoint, drawings, elevater=elevater)
    shutil.copy(mlflow_database, tmp_path)
    with dagster_home(tmp_path / "home"):
        first = materialize("*", ["shapes"], METHODS, project.path)
        second = materialize("group:benchmark", ["shapes"], METHODS, project.path)
        with open_instance(project) as instance:
            key = to_partition_key("shapes/gated-image")
            shown = metadata_of(instance, "benchmark_results", key)
    assert not first.failed and not first.skipped
    # Features and results of the base and the method with an image tower, and their comparison.
    assert (second.built, second.reused) == (0, 5)
    artifact = project.store.current("benchmark_results", "shapes/gated-image")
    run = MlflowClient(project.config.tracking_uri).get_run(str(shown["mlflow_run_id"]))
    for name in ("mean.zero-shot", "value.zero-shot.mnist", "datasets_evaluated"):
        assert shown[name] == run.data.metrics[name]
    assert shown["mean.zero-shot"] == artifact.counts["mean"]["zero-shot"]
    assert "dtd" in str(shown["table"]) and "2 of 20" in str(shown["table"])

    artifact = project.store.current("benchmark_comparison", "shapes")
    assert artifact.counts["methods"] == ["gated-image"] and not artifact.counts["skipped"]
    assert artifact.counts["datasets_compared"] == {"gated-image.zero-shot": 2}
    assert artifact.counts["mean_delta"].keys() == {"gated-image.zero-shot"}


def test_the_mean_is_checked_against_a_fresh_base(project_on: Callable[..., Project]) -> None:
    project = project_on(datasets=[SST])
    artifact = results(project)
    assert "mean over 1" in str(benchmark_mean_is_at_least_base(project, artifact).description)
    stale = project_on(datasets=[SST, "mnist"])
    assert "no fresh" in str(benchmark_mean_is_at_least_base(stale, artifact).description)


def test_training_pair_that_is_a_test_image_is_counted(tiny_project: Project) -> None:
    def write(directory: Path, _: object) -> dict[str, int]:
        pairs = pd.DataFrame({"image_sha256": ["ab" * 32, "cd" * 32, "ef" * 32]})
        pairs.to_parquet(directory / "pairs.parquet")
        (directory / "mnist").mkdir()
        for split, byte in (("test", 0xAB), ("train", 0xCD)):
            digests = np.full((1, 32), byte, np.uint8)
            np.save(directory / "mnist" / f"{split}_sha256.npy", digests)
        return {}

    made = tiny_project.store.build(Inputs("retrieved_set", "shapes", {}, {}, "1"), write)
    assert count_pairs(made, digests_of_test_images(made)) == 1
