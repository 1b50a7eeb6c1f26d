from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import write_project
from PIL import Image, ImageChops
from safetensors.torch import load_file

from react_pipeline.clip import Pixels
from react_pipeline.clip.model import load, loaded_base
from react_pipeline.corpus.collected import CollectedPairs
from react_pipeline.lineage import resolve
from react_pipeline.project.project import Project
from react_pipeline.retrieval.retrieve import retrieve_pairs
from react_pipeline.store.artifacts import Inputs
from react_pipeline.store.errors import InputError, RetrievalError, StaleArtifact, TrainingError
from react_pipeline.training import train
from react_pipeline.training.augmentation import augmentation, turn_and_recolour
from react_pipeline.training.customization import _plot_losses, customize
from react_pipeline.training.data import Views
from react_pipeline.training.step import TrainingStep

Make = Callable[..., Project]


def prepared(project: Project, store: Path) -> Project:
    """The project with everything up to the pairs of `shapes` published."""
    shutil.copytree(store, project.config.store)
    return project


@pytest.fixture
def project(retrieved_project: Project) -> Project:
    return retrieved_project


def losses(project: Project, method: str) -> list[float]:
    artifact = customize(project, "shapes", method)
    return [
        json.loads(line)["loss"] for line in artifact.file("metrics.jsonl").read_text().splitlines()
    ]


@pytest.mark.parametrize(
    "method",
    ["gated-image", "gated-image-control", "gated-both", "locked-text", "locked-image", "full"],
)
def test_each_method_trains_its_own_part_and_nothing_else(project: Project, method: str) -> None:
    artifact = customize(project, "shapes", method)
    base = load_file(
        project.store.current("base_checkpoint", "all").file("open_clip_model.safetensors")
    )
    trained = load_file(artifact.file("open_clip_model.safetensors"))
    changed = {name for name in base if not torch.equal(base[name], trained[name])}
    added = trained.keys() - base.keys()
    if method.startswith("gated"):
        text = {name for name in base if not name.startswith("visual.")}
        assert changed <= (text if method == "gated-both" else {"logit_scale"})
        assert any(name.startswith("transformer.") for name in changed) == (method == "gated-both")
        assert len(added) == 28
        gates = [name for name in added if "alpha" in name]
        assert all(trained[name] != 0 for name in gates)
    else:
        assert not added
        assert any(name.startswith("visual.") for name in changed) == (method != "locked-image")
        assert any(name.startswith("transformer.") for name in changed) == (
            method in ("full", "locked-image")
        )
    counts = artifact.counts
    assert counts["step0_max_difference"] == 0
    assert counts["trainable_parameters"] < counts["parameters"] or method == "full"
    assert counts["steps"] == 4
    load(artifact.path)


def test_a_control_trains_on_as_many_random_pairs(project: Project) -> None:
    ours, control = (
        customize(project, "shapes", method) for method in ("gated-image", "gated-image-control")
    )
    assert ours.counts["pairs"] == control.counts["pairs"] > 0
    assert set(control.parents) == {"base_checkpoint", "control_set"}


def test_a_linear_head_reads_vectors_and_decodes_no_image(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(CollectedPairs, "decoded")
    head = customize(project, "shapes", "linear-head")
    assert set(head.parents) == {"base_checkpoint", "retrieved_set"}
    assert head.counts["steps"] == 4


def test_reading_steps_share_the_base_and_training_releases_it(
    project: Project,
) -> None:
    loaded_base.cache_clear()
    for method in ("linear-head", "linear-head-control"):
        customize(project, "shapes", method)
    assert (loaded_base.cache_info().misses, loaded_base.cache_info().hits) == (1, 1)
    customize(project, "shapes", "gated-image")
    assert loaded_base.cache_info().currsize == 0


def test_the_same_inputs_give_the_same_weights(project: Project) -> None:
    first = customize(project, "shapes", "gated-image")
    weights = load_file(first.file("open_clip_model.safetensors"))
    assert customize(project, "shapes", "gated-image").reused
    shutil.rmtree(first.path)
    again = load_file(
        customize(project, "shapes", "gated-image").file("open_clip_model.safetensors")
    )
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_losses_fall_when_there_is_something_to_learn(
    make_project: Make, _retrieved_store: Path
) -> None:
    defaults = {
        "augmentation": "none",
        "steps": 60,
        "learning_rate": 3e-3,
        "last_k_layers": 2,
        "batch_size": 16,
        "warmup_steps": 3,
    }
    project = prepared(make_project(customization={"defaults": defaults}), _retrieved_store)
    curve = losses(project, "gated-image")
    assert sum(curve[-10:]) < 0.95 * sum(curve[:10])


# A batch has more pairs than the corpus has captions (17), so some are equal, whichever pairs are
# retrieved.
RETRIEVAL = {"k_per_prompt": 96, "max_per_class": 24}
DEFAULTS: dict[str, object] = {
    "last_k_layers": 2,
    "steps": 4,
    "batch_size": 24,
    "warmup_steps": 1,
    "augmentation": "none",
}


@pytest.fixture(scope="module")
def reference(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_checkpoint: Path,
    drawings: Path,
    _retrieved_store: Path,
) -> tuple[Path, list[float]]:
    """A store with more pairs, and the losses of a training on them with `DEFAULTS`."""
    directory, training = tmp_path_factory.mktemp("reference"), {"defaults": DEFAULTS}
    project = write_project(
        directory, tiny_checkpoint, drawings, retrieval=RETRIEVAL, customization=training
    )
    prepared(project, _retrieved_store)
    assert retrieve_pairs(project, "shapes").counts["pairs"] >= 24
    return project.config.store, losses(project, "gated-image")


@pytest.mark.parametrize(
    "fields",
    [
        {"loss": "infonce-captions"},
        {"loss": "infonce-masked"},
        {"loss": "unicl"},
        {"augmentation": "timm"},
        {"augmentation": "mild"},
        {"augmentation": "mild", "views": 3},
        {"class_prompt_fraction": 1.0},
        {"held_out_fraction": 0.3},
    ],
    ids=str,
)
def test_training_choices_change_the_training(
    make_project: Make, reference: tuple[Path, list[float]], fields: dict[str, object]
) -> None:
    store, curve = reference
    training = {"defaults": {**DEFAULTS, **fields}}
    project = prepared(make_project(retrieval=RETRIEVAL, customization=training), store)
    other = losses(project, "gated-image")
    assert len(other) == len(curve)
    assert other != curve


def test_interpolated_back_to_nothing_it_is_the_base(
    make_project: Make, _retrieved_store: Path
) -> None:
    defaults = {"last_k_layers": 2, "steps": 4, "batch_size": 8, "interpolation": 0.0}
    project = prepared(make_project(customization={"defaults": defaults}), _retrieved_store)
    clip = load(customize(project, "shapes", "gated-image").path)
    base = load(project.store.current("base_checkpoint", "all").path)
    image = base.preprocess(Image.new("RGB", (40, 40), "red"))[None]
    assert torch.equal(clip.encode_images(image), base.encode_images(image))


def test_without_kept_tokens_the_losses_are_the_same(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = losses(project, "gated-image")
    shutil.rmtree(project.store.current("customized_checkpoint", "shapes/gated-image").path)
    monkeypatch.setattr("react_pipeline.training.kept_tokens.MAX_DISK_FRACTION", 0)
    assert losses(project, "gated-image") == pytest.approx(kept, rel=1e-5)


def test_starving_classes_stop_the_training(
    make_project: Make, _retrieved_store: Path
) -> None:  # FAULTS 19
    retrieval = {"min_per_class": 10_000, "near_duplicate_similarity": 1.01, "k_per_prompt": 10}
    project = prepared(make_project(retrieval=retrieval), _retrieved_store)
    retrieve_pairs(project, "shapes")
    with pytest.raises(RetrievalError, match="circle"):
        customize(project, "shapes", "gated-image")


def test_stale_pairs_are_refused_by_name(
    make_project: Make, _retrieved_store: Path
) -> None:  # FAULTS 6
    prepared(make_project(), _retrieved_store)
    changed = make_project(retrieval={"k_per_prompt": 3, "near_duplicate_similarity": 1.01})
    with pytest.raises(StaleArtifact, match="k_per_prompt"):
        customize(changed, "shapes", "gated-image")


def test_an_unknown_method_is_reported(project: Project) -> None:
    with pytest.raises(InputError, match="gated-image"):
        customize(project, "shapes", "gated-imge")


@pytest.mark.parametrize("kind", ["mild", "timm"])
def test_views_are_fixed_by_their_number_and_view_zero_is_image(
    project: Project, tiny_checkpoint: Path, kind: str
) -> None:
    pairs = CollectedPairs(project.store.current("retrieved_set", "shapes"))
    clip = load(tiny_checkpoint)
    pixels = Pixels(clip.preprocess)
    first, second = (
        Views(pairs, pixels, augmentation(kind, pixels, clip.preprocess_cfg), seed=0)
        for _ in range(2)
    )
    torch.manual_seed(7)
    assert torch.equal(first[0, 2], second[0, 2])
    assert not torch.equal(first[0, 2], first[0, 1])
    assert not torch.equal(first[0, 2], first[1, 2])
    assert torch.equal(first.batch([(0, 0)])[0], clip.preprocess(pairs.decoded(0)))
    assert first[0, 2].shape == first[0, 0].shape


def test_augmenting_leaves_the_generators_of_the_process_alone(tiny_checkpoint: Path) -> None:
    clip = load(tiny_checkpoint)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    augmentation("timm", Pixels(clip.preprocess), clip.preprocess_cfg)(
        Image.new("RGB", (20, 30), "red"), 5
    )
    assert torch.equal(torch.rand(2), expected)


def test_the_strongest_augmentation_is_one_that_pillow_takes(tiny_checkpoint: Path) -> None:
    clip = load(tiny_checkpoint)
    augment = augmentation("timm", Pixels(clip.preprocess), clip.preprocess_cfg)
    image = Image.new("RGB", (20, 30), "red")
    # Of 300 draws some ask for the least bits that a colour may keep.
    assert all(augment(image, seed).dtype == torch.uint8 for seed in range(300))


def test_a_turned_image_keeps_its_size() -> None:
    image = Image.new("RGB", (20, 30), "red")
    assert turn_and_recolour(image, np.random.default_rng(0)).size == (20, 30)


@pytest.mark.parametrize("method", ["gated-image", "full", "locked-image"])
def test_parts_of_a_batch_take_the_steps_of_the_whole_batch(
    make_project: Make, _retrieved_store: Path, method: str
) -> None:
    defaults = {
        "last_k_layers": 2,
        "steps": 4,
        "batch_size": 8,
        "warmup_steps": 1,
        "learning_rate": 1e-3,
    }
    whole = prepared(make_project(customization={"defaults": defaults}), _retrieved_store)
    reference = losses(whole, method)
    shutil.rmtree(whole.store.current("customized_checkpoint", f"shapes/{method}").path)
    parts = make_project(customization={"defaults": {**defaults, "accumulation": 3}})
    assert losses(parts, method) == pytest.approx(reference, rel=1e-4)


@pytest.mark.parametrize(
    ("method", "workers"), [("gated-image", 0), ("gated-image", 2), ("full", 0)]
)
def test_workers_and_recomputing_change_no_loss(
    make_project: Make, _retrieved_store: Path, method: str, workers: int
) -> None:
    defaults = {
        "last_k_layers": 2,
        "steps": 3,
        "batch_size": 8,
        "augmentation": "timm",
        "workers": 1,
    }
    project = prepared(make_project(customization={"defaults": defaults}), _retrieved_store)
    reference = losses(project, method)
    shutil.rmtree(project.store.current("customized_checkpoint", f"shapes/{method}").path)
    changed = {**defaults, "workers": workers, "activation_checkpointing": True}
    assert losses(make_project(customization={"defaults": changed}), method) == reference


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_follows_the_full_one(
    make_project: Make, _retrieved_store: Path, precision: str
) -> None:
    defaults = {
        "last_k_layers": 2,
        "steps": 12,
        "batch_size": 8,
        "warmup_steps": 1,
        "augmentation": "none",
    }
    whole = make_project(customization={"defaults": defaults})
    reference = losses(prepared(whole, _retrieved_store), "gated-image")
    half = make_project(customization={"defaults": {**defaults, "precision": precision}})
    # In fp16 the scaler skips first steps until it has found its scale, so its curve runs some
    # steps behind.
    tolerance = {"bf16": 0.02, "fp16": 0.1}[precision]
    assert losses(half, "gated-image") == pytest.approx(reference, rel=tolerance)


def test_epochs_become_steps_and_a_killed_training_resumes(
    make_project: Make, _retrieved_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = {
        "epochs": 2,
        "batch_size": 8,
        "warmup_steps": 0.25,
        "last_k_layers": 2,
        "checkpoint_every": 2,
    }
    project = prepared(make_project(customization={"defaults": defaults}), _retrieved_store)
    # The steps of the default are no part of it.
    assert "steps" not in resolve(project, "customized_checkpoint", "shapes/full").config
    whole = customize(project, "shapes", "gated-image")
    records = [json.loads(line) for line in whole.file("metrics.jsonl").read_text().splitlines()]
    assert (
        whole.counts["steps"]
        == len(records)
        == 2 * ((whole.counts["pairs"] - whole.counts["held_out_pairs"]) // 8)
    )
    rates = [record["learning_rate"] for record in records]
    assert rates.index(max(rates)) in (round(0.25 * len(records)) - 1, round(0.25 * len(records)))
    shutil.rmtree(whole.path)
    take = TrainingStep.take

    def dying(self: TrainingStep, step: int, *rest: Any, **options: Any) -> Any:
        if step == 5:
            raise KeyboardInterrupt
        return take(self, step, *rest, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrainingStep, "take", dying)
        customize(project, "shapes", "gated-image")
    again = customize(project, "shapes", "gated-image")
    assert again.counts["first_step"] == 4
    assert [
        json.loads(line)["loss"] for line in again.file("metrics.jsonl").read_text().splitlines()
    ] == [record["loss"] for record in records]
    head = customize(project, "shapes", "linear-head").counts
    assert head["steps"] == 2 * ((head["pairs"] - head["held_out_pairs"]) // 8)


def test_held_out_recall_is_measured_before_and_after(
    make_project: Make, _retrieved_store: Path
) -> None:
    defaults = {
        "steps": 30,
        "learning_rate": 3e-3,
        "last_k_layers": 2,
        "batch_size": 16,
        "warmup_steps": 3,
    }
    fields = {
        **defaults,
        "held_out_fraction": 0.3,
        "augmentation": "none",
        "interpolation": "held-out",
    }
    project = prepared(make_project(customization={"defaults": fields}), _retrieved_store)
    counts = customize(project, "shapes", "gated-image").counts
    assert counts["held_out_pairs"] > 0
    assert set(counts["held_out_before"]) == set(counts["held_out_after"])
    assert set(counts["interpolation_scores"]) == {"0.0", "0.25", "0.5", "0.75", "1.0"}
    best = max(counts["interpolation_scores"].values())
    assert counts["interpolation_scores"][str(counts["interpolation"])] == best


def test_the_sigmoid_loss_is_for_models_with_a_bias(
    make_project: Make, _retrieved_store: Path
) -> None:
    project = prepared(
        make_project(customization={"defaults": {"loss": "sigmoid", "steps": 2}}), _retrieved_store
    )
    with pytest.raises(InputError, match="logit bias"):
        customize(project, "shapes", "gated-image")


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU"
)
@pytest.mark.parametrize("method", ["gated-image", "locked-text"])
def test_a_compiled_tower_follows_the_plain_one(
    make_project: Make, _retrieved_store: Path, method: str
) -> None:
    defaults = {
        "last_k_layers": 2,
        "steps": 4,
        "batch_size": 8,
        "warmup_steps": 1,
        "augmentation": "none",
    }
    reference = losses(
        prepared(make_project(customization={"defaults": defaults}), _retrieved_store), method
    )
    compiled = make_project(customization={"defaults": {**defaults, "compile": True}})
    shutil.rmtree(compiled.store.current("customized_checkpoint", f"shapes/{method}").path)
    assert losses(compiled, method) == pytest.approx(reference, rel=1e-4)


class Listening:
    """An observer that remembers what it was reported."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def started(self, inputs: Inputs, first_step: int) -> None:
        self.calls.append((inputs.key, first_step))

    def stepped(self, record: Mapping[str, float]) -> None:
        self.calls.append(record["step"])

    def failed(self, error: BaseException) -> None:
        self.calls.append(type(error))


@pytest.mark.parametrize("method", ["gated-image", "linear-head"])
def test_an_observer_sees_the_start_and_of_every_step(project: Project, method: str) -> None:
    observer = Listening()
    customize(project, "shapes", method, observer)
    assert observer.calls == [(f"shapes/{method}", 0), 0, 1, 2, 3]


def test_a_head_that_ends_worse_than_it_began_is_not_published(
    make_project: Make, _retrieved_store: Path
) -> None:
    # The rate still rises at the last step, so that nothing can be mended by a falling one.
    defaults = {"learning_rate": 50.0, "steps": 3, "batch_size": 16, "warmup_steps": 3}
    project = prepared(make_project(customization={"defaults": defaults}), _retrieved_store)
    observer = Listening()
    with pytest.raises(TrainingError, match="learning_rate"):
        customize(project, "shapes", "linear-head", observer)
    assert observer.calls[-1] is TrainingError
    assert project.store.keys("customized_checkpoint") == []


def test_choosing_on_held_out_pairs_needs_held_out_pairs(
    make_project: Make, _retrieved_store: Path
) -> None:
    defaults = {"steps": 4, "batch_size": 8, "interpolation": "held-out", "held_out_fraction": 0.0}
    project = prepared(make_project(customization={"defaults": defaults}), _retrieved_store)
    observer = Listening()
    with pytest.raises(InputError, match="held_out_fraction"):
        customize(project, "shapes", "gated-image", observer)
    assert observer.calls == [InputError]


@pytest.mark.parametrize(
    ("method", "fraction"), [("linear-head", 0.5), ("ncm", 0.5), ("gda", 0.01)]
)
def test_the_default_of_a_head_needs_no_held_out_pairs(
    make_project: Make, _retrieved_store: Path, method: str, fraction: float
) -> None:
    few = {"held_out_fraction": 0.0}  # as a tenth of nine pairs
    project = prepared(make_project(customization={"defaults": few}), _retrieved_store)
    checkpoint = customize(project, "shapes", method)
    counts = checkpoint.counts
    assert (counts["interpolation"], counts["interpolation_scores"]) == (fraction, {})
    assert json.loads(checkpoint.file("head.json").read_text())["interpolation"] == fraction
    written = make_project(customization={"defaults": {**few, "interpolation": "held-out"}})
    shutil.rmtree(project.store.root / "customized_checkpoint")
    with pytest.raises(InputError, match="held_out_fraction"):
        customize(written, "shapes", method)


@pytest.mark.parametrize(
    ("method", "place", "advice"),
    [
        (
            "gated-image",
            "training.step.TrainingStep.take",
            "with batch_size 16; raise customization.accumulation",
        ),
        (
            "gated-image",
            "training.preparation.keep_tokens",
            "on cpu, outside the steps of the training; end what else",
        ),
        (
            "linear-head",
            "extensions.methods.head_steps.Head.step",
            "with batch_size 16; lower customization batch_size",
        ),
        (
            "locked-image",
            "training.image_encoder.ImageEncoder.frozen",
            "with batch_size 16; raise customization.accumulation",
        ),
    ],
)
def test_memory_that_runs_out_is_reported_with_what_to_do(
    make_project: Make,
    _retrieved_store: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    place: str,
    advice: str,
) -> None:
    def greedy(*_: object, **__: object) -> dict[str, float]:
        return {"loss": float(torch.empty(1 << 60).sum())}

    monkeypatch.setattr(f"react_pipeline.{place}", greedy)
    augmentation = "mild" if method == "locked-image" else "none"
    defaults = {"steps": 2, "batch_size": 16, "last_k_layers": 2, "augmentation": augmentation}
    project = prepared(make_project(customization={"defaults": defaults}), _retrieved_store)
    with pytest.raises(TrainingError, match=f"out of memory {advice}"):
        customize(project, "shapes", method)


def test_training_whose_publication_fails_does_not_start_again(
    make_project: Make, _retrieved_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = {
        "steps": 4,
        "batch_size": 8,
        "last_k_layers": 2,
        "augmentation": "none",
        "checkpoint_every": 2,
    }
    project = prepared(make_project(customization={"defaults": defaults}), _retrieved_store)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("react_pipeline.store.store.with_digest", killed)
        customize(project, "shapes", "gated-image")
    monkeypatch.setattr(train, "_take_steps", Mock(side_effect=AssertionError))
    artifact = customize(project, "shapes", "gated-image")
    assert len(artifact.file("metrics.jsonl").read_text().splitlines()) == 4
    assert not list((project.config.store / ".scratch").glob("*"))


def test_a_training_with_other_batches_starts_again(
    make_project: Make, _retrieved_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = {
        "steps": 8,
        "batch_size": 8,
        "last_k_layers": 2,
        "augmentation": "none",
        "held_out_fraction": 0.3,
    }
    fields = {**defaults, "checkpoint_every": 2}
    project = prepared(make_project(customization={"defaults": fields}), _retrieved_store)

    def dying(at: int) -> Callable[..., dict[str, float]]:
        def take(self: TrainingStep, step: int, *rest: Any, **options: Any) -> dict[str, float]:
            if step == at:
                raise KeyboardInterrupt
            return whole(self, step, *rest, **options)

        return take

    whole = TrainingStep.take
    monkeypatch.setattr(TrainingStep, "take", dying(7))
    with pytest.raises(KeyboardInterrupt):
        customize(project, "shapes", "gated-image")
    # As with another number of processes among few pairs.
    monkeypatch.setattr("react_pipeline.training.batches.fit_batch_size", lambda *_: 6)
    monkeypatch.setattr(TrainingStep, "take", dying(5))
    with pytest.raises(KeyboardInterrupt):
        customize(project, "shapes", "gated-image")
    scratch = max(
        (project.config.store / ".scratch").glob("*/*"), key=lambda path: path.stat().st_mtime
    )
    names = [f"step-{step:09d}" for step in (2, 4)]
    assert sorted(path.name for path in scratch.glob("step-*")) == names
    monkeypatch.setattr(TrainingStep, "take", whole)
    artifact = customize(project, "shapes", "gated-image")
    assert artifact.counts["first_step"] == 4
    records = [json.loads(line) for line in artifact.file("metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(8))


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_locked_image_tower_gives_same_features_kept_or_not(
    make_project: Make, _retrieved_store: Path, precision: str
) -> None:
    defaults = {
        "steps": 3,
        "batch_size": 8,
        "augmentation": "none",
        "precision": precision,
        "held_out_fraction": 0.2,
    }
    project = prepared(make_project(customization={"defaults": defaults}), _retrieved_store)
    kept = losses(project, "locked-image")
    shutil.rmtree(project.store.current("customized_checkpoint", "shapes/locked-image").path)
    defaults = {**defaults, "keep_prefix": False}
    assert losses(
        make_project(customization={"defaults": defaults}), "locked-image"
    ) == pytest.approx(kept, rel=1e-6)


def test_a_training_that_skipped_all_is_not_published_later(
    make_project: Make, _retrieved_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = {
        "steps": 4,
        "batch_size": 8,
        "last_k_layers": 2,
        "precision": "fp16",
        "checkpoint_every": 2,
    }
    project = prepared(make_project(customization={"defaults": defaults}), _retrieved_store)
    monkeypatch.setattr("torch.nn.utils.get_total_norm", lambda *_: torch.tensor(torch.inf))
    for _ in range(2):
        with pytest.raises(TrainingError, match="skipped every step"):
            customize(project, "shapes", "gated-image")
    assert project.store.keys("customized_checkpoint") == []


def test_a_field_unused_by_a_method_leaves_checkpoints_fresh(
    make_project: Make, _retrieved_store: Path
) -> None:
    defaults = {
        "last_k_layers": 2,
        "steps": 4,
        "batch_size": 8,
        "warmup_steps": 1,
        "augmentation": "none",
    }
    project = prepared(make_project(customization={"defaults": defaults}), _retrieved_store)
    for method in ("gated-image", "locked-text", "linear-head"):
        customize(project, "shapes", method)
    other = make_project(customization={"defaults": {**defaults, "last_k_layers": 1}})
    reused = {
        method: customize(other, "shapes", method).reused
        for method in ("gated-image", "locked-text")
    }
    assert reused == {"gated-image": False, "locked-text": True}
    augmented = make_project(customization={"defaults": {**defaults, "augmentation": "mild"}})
    assert customize(augmented, "shapes", "linear-head").reused


def test_losses_of_several_steps_are_drawn(tmp_path: Path) -> None:
    records = [json.dumps({"step": step, "loss": 1.0}) for step in range(2)]
    (tmp_path / "metrics.jsonl").write_text(records[0])
    _plot_losses(tmp_path / "metrics.jsonl", tmp_path / "loss.png")
    assert not (tmp_path / "loss.png").exists()
    (tmp_path / "metrics.jsonl").write_text("\n".join(records))
    _plot_losses(tmp_path / "metrics.jsonl", tmp_path / "loss.png")
    with Image.open(tmp_path / "loss.png") as picture:
        red, _, blue = picture.convert("RGB").split()
    assert ImageChops.subtract(blue, red).getextrema()[1] > 100
