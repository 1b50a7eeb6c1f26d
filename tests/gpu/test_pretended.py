"""The paths of a GPU on a machine without one: everything runs on a pretended GPU, and gives what
the processor gives.

In fp32 losses differ by 1e-5 of their value at most, vectors have a cosine above 0.999999, and
hits, predictions and accuracies are equal.
"""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
import torch
import yaml
from conftest import write_project
from support.dense import OWN, write_sets
from support.drawings import SHOTS, write_shots
from support.elevater import write_elevater
from support.pretended_gpu import pretended_gpu
from support.training import losses
from support.upkeep import edit_domain
from support.vectors import read_vectors
from torch._dynamo.exc import TorchDynamoException

from react_pipeline.clip import ImageTower
from react_pipeline.embedding import FOLDERS, embed_corpus
from react_pipeline.extensions.predict import Options, predict_pictures
from react_pipeline.lineage import run
from react_pipeline.project import Project
from react_pipeline.promotion import Verdict
from react_pipeline.settings import METHODS
from react_pipeline.store import Artifact, InputError
from react_pipeline.training import customize
from react_pipeline.use import Classifier

pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory'")

LOSSES, COSINE = 1e-5, 0.999_999
STEPS: dict[str, Any] = {
    **{"last_k_layers": 2, "steps": 2, "batch_size": 8, "warmup_steps": 1},
    **{"checkpoint_every": 2, "augmentation": "none", "held_out_fraction": 0.2},
}
IMAGES: dict[str, Any] = {
    **{"augmentation": "timm", "accumulation": 2, "activation_checkpointing": True},
    **{"loss": "unicl", "interpolation": "held-out"},
}
"""The other way through a training: no kept tokens, parts of a batch."""

ALL = list(METHODS)
DENSE: dict[str, Any] = {
    **{"root": "dense", "own": OWN, "short_side": 64},
    **{"key_smoothing": 0.5, "student_images": "{domain}/images", "student_steps": 1},
}
ELEVATER: dict[str, Any] = {
    **{"root": "elevater", "datasets": ["rendered-sst2"], "shots": [5], "seeds": 1},
    "adaptations": ["linear-probe", "fine-tune"],
}


STEPS_OF_DOMAIN = [
    *("corpus", "base_checkpoint", "corpus_embeddings", "faiss_index"),
    *(f"{stage} shapes" for stage in ("evaluation_set", "retrieved_set", "control_set")),
    "few_shot_set shapes",
    *(f"customized_checkpoint shapes/{method}" for method in ALL[1:]),
    *(f"domain_results shapes/{method}" for method in ALL),
    "dense_results shapes/gated-image",
    *("benchmark_features shapes/gated-image", "benchmark_results shapes/gated-image"),
    *("comparison shapes", "promotion shapes"),
]
"""Stage and key, in order."""
COMPUTING = (
    *("corpus_embeddings", "retrieved_set", "few_shot_set", "customized_checkpoint"),
    *("domain_results", "dense_results", "benchmark_"),
)


class Lineage(NamedTuple):
    """What a device made of the project: artifacts and operations of the pretended GPU, by step."""

    project: Project
    made: dict[str, Artifact]
    operations: dict[str, Counter[str]]


def on(device: str) -> contextlib.AbstractContextManager[Counter[str]]:
    return pretended_gpu() if device == "cuda" else contextlib.nullcontext(Counter())


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What users bring beside corpus and checkpoint: shots, sets with boxes and masks, ELEVATER."""
    folder = tmp_path_factory.mktemp("inputs")
    write_shots(folder)
    write_sets(folder / "dense" / "shapes", 2)
    write_elevater(
        folder / "elevater", {"train": 6, "val": 1, "test": 2}, only=ELEVATER["datasets"]
    )
    return folder


@pytest.fixture(scope="module")
def lineages(
    inputs: Path, tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, drawings: Path
) -> dict[str, Lineage]:
    """The same project from corpus to promotion on both devices."""

    def build(device: str) -> Lineage:
        folder = tmp_path_factory.mktemp(device)
        shutil.copytree(inputs, folder, dirs_exist_ok=True)
        sections = {"customization": {"defaults": STEPS}, "elevater": ELEVATER, "dense": DENSE}
        made = write_project(
            folder, tiny_checkpoint, drawings, device=device, methods=ALL, **sections
        )
        edit_domain(made, "shapes", shots=SHOTS)
        lineage = Lineage(Project.load(made.path), {}, {})
        with on(device) as operations:
            for step in STEPS_OF_DOMAIN:
                operations.clear()
                stage, _, key = step.partition(" ")
                lineage.made[step] = run(lineage.project, stage, key or "all")
                lineage.operations[step] = operations.copy()
        return lineage

    with pytest.MonkeyPatch.context() as patch:
        # One point of ELEVATER's search in place of hundreds.
        search = "react_pipeline.extensions.elevater.trainer"
        patch.setattr(f"{search}.LEARNING_RATES", (1e-3,))
        patch.setattr(f"{search}.FIRST_POINTS", (0,))
        patch.setattr(f"{search}.STEPS", ())
        patch.setattr(f"{search}.SWEEP_EPOCHS", 2)
        patch.setattr(f"{search}.FINAL_EPOCHS", 2)
        return {device: build(device) for device in ("cuda", "cpu")}


@pytest.fixture
def changed(lineages: dict[str, Lineage], tmp_path: Path) -> Callable[..., Project]:
    """Copies the project of a device up to what it trains on, with some sections replaced."""
    later = shutil.ignore_patterns("customized_checkpoint", "*_results", "benchmark_*")

    def change(device: str, **sections: Any) -> Project:
        path = lineages[device].project.path
        folder = tmp_path / f"{device}-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(path.parent, folder, ignore=later)
        given = yaml.safe_load(path.read_text())
        (folder / path.name).write_text(yaml.safe_dump({**given, **sections}))
        return Project.load(folder / path.name)

    return change


@pytest.fixture
def trained(changed: Callable[..., Project]) -> Callable[..., Artifact]:
    def train(device: str, method: str, **fields: Any) -> Artifact:
        defaults = {**STEPS, "precision": "fp32", **fields}
        project = changed(device, customization={"defaults": defaults})
        with on(device):
            return customize(project, "shapes", method)

    return train


def assert_same_vectors(one: Artifact, other: Artifact, cosine: float) -> None:
    for side in FOLDERS:
        pair = [torch.from_numpy(read_vectors(artifact, side)) for artifact in (one, other)]
        assert torch.cosine_similarity(*pair).min() > cosine, side


@pytest.fixture
def pair(lineages: dict[str, Lineage]) -> tuple[Lineage, Lineage]:
    return lineages["cuda"], lineages["cpu"]


def test_each_step_computes_on_the_gpu(pair: tuple[Lineage, Lineage]) -> None:
    there, _ = pair
    for step, operations in there.operations.items():
        method = METHODS.get(step.partition("/")[2])
        if method and (not method.has_model or step == "domain_results shapes/base"):
            continue  # what a head is fitted to, and what the base encodes, may be encoded already
        computing = operations.keys() - {"detach"}  # of weights, whose digest is taken
        assert bool(computing) == step.startswith(COMPUTING), step
        assert there.made[step].counts.get("device", "cuda") == "cuda"
    # Only the search among the vectors of the corpus takes the largest of many.
    assert there.operations["retrieved_set shapes"]["topk"]


def test_vectors_and_hits_are_those_of_the_processor(pair: tuple[Lineage, Lineage]) -> None:
    assert_same_vectors(*(one.made["corpus_embeddings"] for one in pair), COSINE)
    for stage in ("retrieved_set", "control_set"):
        files = [one.made[f"{stage} shapes"].file("pairs.parquet") for one in pair]
        pd.testing.assert_frame_equal(*map(pd.read_parquet, files), check_exact=False, rtol=1e-5)


@pytest.mark.parametrize("method", ALL)
def test_a_method_trains_and_measures_as_here(pair: tuple[Lineage, Lineage], method: str) -> None:
    if method != "base":
        there, here = (losses(one.made[f"customized_checkpoint shapes/{method}"]) for one in pair)
        assert there and there == pytest.approx(here, rel=LOSSES)
    there, here = (one.made[f"domain_results shapes/{method}"].counts["top1"] for one in pair)
    assert there == here


def test_tasks_and_promotion_end_as_here(pair: tuple[Lineage, Lineage]) -> None:
    def of_both(step: str, read: Callable[[Artifact], Any]) -> list[Any]:
        return [read(one.made[step]) for one in pair]

    for task in ("detection", "segmentation"):
        there, here = of_both(
            "dense_results shapes/gated-image",
            lambda one, task=task: one.counts[task],
        )
        assert there and there == pytest.approx(here, abs=1e-3)
    there, here = of_both(
        "benchmark_results shapes/gated-image",
        lambda one: pd.read_parquet(one.file("results.parquet"))["value"].tolist(),
    )
    assert len(there) == 5 and there == pytest.approx(here)
    for step, read in (
        ("comparison shapes", lambda one: one.counts["top1"]),
        ("promotion shapes", lambda one: Verdict.read(one).decision),
    ):
        there, here = of_both(step, read)
        assert there == here


@pytest.mark.parametrize("method", ["gated-image", "locked-image", "full"])
def test_parts_of_a_batch_of_images_train_as_here(
    trained: Callable[..., Artifact], method: str
) -> None:
    there, here = (trained(device, method, **IMAGES) for device in ("cuda", "cpu"))
    assert losses(there) == pytest.approx(losses(here), rel=LOSSES)
    assert there.counts["interpolation"] == here.counts["interpolation"]


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.02), ("fp16", 0.1)])
def test_half_precision_trains_and_embeds(
    lineages: dict[str, Lineage],
    trained: Callable[..., Artifact],
    changed: Callable[..., Project],
    precision: str,
    tolerance: float,
) -> None:
    # The loss scaler of fp16 skips the first steps of so small a model.
    steps = 12 if precision == "fp16" else 2
    there = trained("cuda", "gated-image", steps=steps, precision=precision)
    assert (there.counts["precision"], there.counts["step0_max_difference"]) == (precision, 0)
    here = trained("cpu", "gated-image", steps=steps)
    assert losses(there) == pytest.approx(losses(here), rel=tolerance)
    project = changed("cuda", embedding={"precision": precision, "workers": 0})
    with pretended_gpu():
        embedded = embed_corpus(project)
    assert embedded.counts["precision"] == precision
    assert_same_vectors(embedded, lineages["cpu"].made["corpus_embeddings"], 0.999)


def test_long_runs_are_compiled_and_what_fails_runs_as_it_is(
    lineages: dict[str, Lineage],
    trained: Callable[..., Artifact],
    changed: Callable[..., Project],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked: list[str] = []

    def cannot(run: Callable[..., Any]) -> Callable[..., Any]:
        def call(*_: Any) -> Any:
            raise TorchDynamoException("no triton for a pretended GPU")

        asked.append(run.__name__)
        return call

    monkeypatch.setattr(torch, "compile", cannot)
    trained("cuda", "gated-image")
    assert not asked  # too short
    monkeypatch.setattr("react_pipeline.clip.device.COMPILED_IMAGES", 1)
    here, there = (losses(trained(device, "gated-image")) for device in ("cpu", "cuda"))
    assert asked == ["features", "entering"] and there == pytest.approx(here, rel=LOSSES)
    asked.clear()
    with pretended_gpu():
        project = changed("cuda", embedding={"precision": "fp32"})
        shutil.rmtree(project.config.store / "corpus_embeddings")
        embedded = embed_corpus(project)
    assert asked == ["features", "entering", "_torch_texts"]
    assert_same_vectors(embedded, lineages["cpu"].made["corpus_embeddings"], COSINE)
    assert [one.getMessage().count("pretended") for one in caplog.records].count(1) == 1


@pytest.mark.parametrize("stage", ["corpus_embeddings all", "domain_results shapes/base"])
def test_out_of_memory_names_the_batch_that_fits(
    changed: Callable[..., Project], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    encode = ImageTower.__call__

    def with_little_memory(tower: ImageTower, images: torch.Tensor) -> torch.Tensor:
        if len(images) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return encode(tower, images)

    monkeypatch.setattr(ImageTower, "__call__", with_little_memory)
    project = changed("cuda", embedding={"precision": "fp32", "workers": 0})
    shutil.rmtree(project.config.store / stage.split()[0], ignore_errors=True)
    with (
        pretended_gpu(),
        pytest.raises(InputError, match=r"batch_size: .* \d+ rows.*about [\d,]+ fit"),
    ):
        run(project, *stage.split())


@pytest.mark.parametrize("method", ["gated-both", "gda"])
def test_predictions_are_those_of_the_processor(
    lineages: dict[str, Lineage], inputs: Path, tmp_path: Path, method: str
) -> None:
    found = []
    for device, lineage in lineages.items():
        with on(device) as operations:
            model = Classifier.load(
                "shapes", method, config=lineage.project.path, device=device, precision="fp32"
            )
            predict_pictures(model, str(inputs / "shots"), tmp_path / device, Options(workers=0))
            assert bool(operations) == (device == "cuda")
        found.append(pd.read_parquet(tmp_path / device / "predictions.parquet"))
    pd.testing.assert_frame_equal(*found, check_exact=False, atol=1e-4)
