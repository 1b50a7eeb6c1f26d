"""A new method is one class of an extension, as docs/methods.md shows: settings, lineage, training,
evaluation, Dagster, `status`, `plan` and export follow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import open_clip
import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import load_file
from support.commands import status
from support.new_methods import installed, module_of_page
from torch.nn.functional import normalize

from react_pipeline import Classifier
from react_pipeline.assets.definitions import build_defs
from react_pipeline.clip.classifier import load_classifier
from react_pipeline.clip.model import Clip, load
from react_pipeline.clip.tower import ImageTower
from react_pipeline.evaluation.comparison import compare
from react_pipeline.evaluation.domain_results import evaluate
from react_pipeline.extension import Extension
from react_pipeline.extensions.hub.export import export
from react_pipeline.extensions.plan import Machine, make_plan
from react_pipeline.lineage import fresh
from react_pipeline.project.project import Project
from react_pipeline.settings.methods import METHODS, Method
from react_pipeline.settings.training import TrainingConfig
from react_pipeline.stage import STAGES
from react_pipeline.store.artifacts import Artifact
from react_pipeline.store.errors import InputError
from react_pipeline.training.customization import customize

PAGE = module_of_page()
Adapter, ClassMeans, Mine = PAGE["Adapter"], PAGE["ClassMeans"], PAGE["Mine"]
NAMES = ["base", "adapter", "adapter-control", "class-means", "class-means-control"]
IMAGES = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def _installed() -> Iterator[None]:
    with installed("mine", Mine()):
        yield


@pytest.fixture
def project(
    _installed: None, make_project: Callable[..., Project], retrieved_project: Project
) -> Project:
    fields = {"interpolation": "held-out", "held_out_fraction": 0.25}
    return make_project(methods=NAMES, customization={"methods": {"adapter": fields}})


def trained(project: Project, method: str) -> Artifact:
    return customize(project, "shapes", method)


def opened(clip: Clip) -> Any:
    """A model whose new matrices change something."""
    Adapter().attach_to(clip, TrainingConfig(last_k_layers=1))
    torch.nn.init.eye_(clip.model.visual.transformer.resblocks[-1].mlp.c_proj.adapter[2].weight)
    return clip.model


def test_a_loss_of_a_method_takes_the_place_of_the_field(
    make_project: Callable[..., Project], retrieved_project: Project
) -> None:
    with installed("mine", Mine()):
        project = make_project(methods=["base", "gated-smooth"])
        smooth, plain = (
            [json.loads(line)["loss"] for line in checkpoint.file("metrics.jsonl").open()]
            for checkpoint in (trained(project, "gated-smooth"), trained(project, "gated-image"))
        )
        config = trained(project, "gated-smooth").manifest["config"]
    assert config["smoothing"] == 0.1 and "loss" not in config
    assert smooth[0] != plain[0]


def test_both_are_trained_evaluated_and_compared(project: Project) -> None:
    for method in NAMES[1:]:
        trained(project, method)
    results = {method: evaluate(project, "shapes", method) for method in NAMES}
    counts = compare(project, "shapes").counts
    assert sorted(counts["top1"]) == sorted(NAMES)
    assert all(counts["top1"][name] == results[name].counts["top1"] for name in NAMES)
    assert "base_checkpoint" in results["class-means"].parents
    assert "base_checkpoint" not in results["adapter"].parents
    for name, stage in (("class-means", "retrieved_set"), ("class-means-control", "control_set")):
        assert stage in fresh(project, "customized_checkpoint", f"shapes/{name}").parents


def test_new_weights_are_saved_loaded_and_interpolated(project: Project) -> None:
    base = project.store.current("base_checkpoint", "all")
    checkpoint = trained(project, "adapter")
    assert checkpoint.counts["step0_max_difference"] == 0
    assert set(checkpoint.counts["interpolation_scores"]) == {"0.0", "0.25", "0.5", "0.75", "1.0"}
    assert checkpoint.counts["trainable_parameters"] == 1 + 2 * 8 * (32 + 32)
    before = load_file(base.path / "open_clip_model.safetensors")
    after = load_file(checkpoint.path / "open_clip_model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed <= {"logit_scale"}
    assert {name for name in after if name not in before} == {
        f"visual.transformer.resblocks.{block}.mlp.c_proj.adapter.{part}.weight"
        for block in (0, 1)
        for part in (0, 2)
    }
    clip, _ = load_classifier(checkpoint, None, project.domain("shapes"), "cpu")
    assert all(torch.equal(weight, after[name]) for name, weight in clip.model.state_dict().items())


def test_only_used_fields_and_identity_rebuild_a_method(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config(method: str, **fields: Any) -> Any:
        overrides = project.config.customization.model_copy(
            update={"defaults": project.config.customization.defaults.model_copy(update=fields)}
        )
        changed = project.config.model_copy(update={"customization": overrides})
        row = STAGES["customized_checkpoint"]
        return row.identity(Project(project.path, changed), f"shapes/{method}")

    assert config("class-means") == config("class-means", steps=9, last_k_layers=1)
    assert config("adapter") != config("adapter", last_k_layers=1)
    assert config("locked-text") == config("locked-text", last_k_layers=1)
    assert config("adapter")["width"] == 8
    before = config("adapter")
    monkeypatch.setattr(Adapter, "identity", {"width": 4})
    assert config("adapter") != before


def test_status_plan_and_partitions_have_them(project: Project, processor: None) -> None:
    lines = status(project)
    assert any("customized_checkpoint of adapter " in line for line in lines)
    assert any("class-means-control" in line for line in lines)
    defs = build_defs(NAMES).resolve_asset_graph()

    def methods_of(stage: str) -> set[str]:
        partitions = defs.get(dg.AssetKey(stage)).partitions_def
        with dg.DagsterInstance.ephemeral() as instance:
            instance.add_dynamic_partitions("domains", ["shapes"])
            keys = partitions.get_partition_keys(dynamic_partitions_store=instance)
        return {key.split("|")[-1] for key in keys} & set(NAMES)

    assert methods_of("customized_checkpoint") == set(NAMES) - {"base"}
    encoders = [row for row in STAGES.values() if row.scope == "encoder"]
    assert encoders and all(row.is_for("adapter") for row in encoders)
    assert not any(row.is_for("class-means") for row in encoders)

    def planned(method: str) -> Any:
        only = Project(
            project.path, project.config.model_copy(update={"methods": ("base", method)})
        )
        machine = Machine(cores=2, memory=10**10, disk=10**12)
        steps = {step.stage: step for step in make_plan(only, machine, 100).steps}
        return steps["customized_checkpoint"]

    assert planned("class-means").disk == 2 * 8 * 32 * 4  # two domains
    assert planned("class-means").cpu_hours < planned("adapter").cpu_hours


def test_exported_it_is_used_where_its_extension_is(project: Project, tmp_path: Path) -> None:
    checkpoint = trained(project, "adapter")
    folder = export(project, "shapes", "adapter", tmp_path / "exported", formats=["onnx"])
    card = (folder / "README.md").read_text()
    assert "modules of the method adapter" in card and "a thin layer" in card
    ours = load(folder).encode_images(IMAGES)
    assert torch.equal(ours, load(checkpoint.path).encode_images(IMAGES))
    assert Classifier.load(folder).origin.method == "adapter"
    with pytest.raises((RuntimeError, TypeError)):
        open_clip.create_model(f"local-dir:{folder}")


def test_a_checkpoint_without_its_extension_is_refused_by_name(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    from react_pipeline.clip.model import save

    with installed("mine", Mine()):
        clip = load(tiny_checkpoint)
        opened(clip)
        save(clip, tmp_path / "saved")
        assert torch.equal(
            load(tmp_path / "saved").encode_images(IMAGES), clip.encode_images(IMAGES)
        )
    with pytest.raises(InputError, match="adapter"):
        load(tmp_path / "saved")


def test_a_trained_tower_runs_new_modules(tiny_checkpoint: Path) -> None:
    base = load(tiny_checkpoint)
    before = base.encode_images(IMAGES)
    model = opened(base)
    Adapter().set_trainable(model)
    tower = ImageTower(model)
    assert tower.splits and tower.start == 1
    after = normalize(tower(IMAGES).detach(), dim=-1)
    assert not torch.allclose(after, before, atol=1e-3)
    torch.testing.assert_close(after, base.encode_images(IMAGES), atol=1e-5, rtol=0)


def test_the_methods_of_the_page_fit_a_timm_tower() -> None:
    vision = {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "token"}
    text = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
    model = CLIP(embed_dim=16, vision_cfg={**vision, "timm_proj": "linear"}, text_cfg=text).eval()
    images = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    before = model.encode_image(images)
    assert any(map(PAGE["Norms"]().trains, model.state_dict()))
    Adapter().attach(model, TrainingConfig(last_k_layers=1))
    assert torch.equal(model.encode_image(images), before)
    for name, weight in model.named_parameters():
        if Adapter().trains(name):
            torch.nn.init.ones_(weight)
    assert not torch.equal(model.encode_image(images), before)


@pytest.mark.parametrize("name", ["class-means-control", "full", "Class Means"])
def test_a_method_of_a_bad_name_is_refused(name: str) -> None:
    class Bad(Extension):
        def methods(self) -> Iterator[Method]:
            yield ClassMeans()
            other = ClassMeans()
            other.name = name
            yield other

    with installed("bad", Bad()), pytest.raises(InputError, match=name):
        len(METHODS)
