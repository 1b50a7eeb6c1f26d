"""A new method is one class of an extension, as docs/methods.md shows: settings, lineage, training,
evaluation, Dagster, `status`, `plan` and export follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file
from support.new_methods import installed, module_of_page
from support.training import losses
from support.upkeep import edit_domain
from torch.nn.functional import normalize

from react_pipeline import Classifier
from react_pipeline.clip import (
    WEIGHTS_FILE,
    Clip,
    ImageTower,
    domain_head,
    load,
    load_classifier,
    save,
)
from react_pipeline.extension import Extension
from react_pipeline.extensions.hub.export import export
from react_pipeline.project import Project
from react_pipeline.settings import METHODS, Method, TrainingConfig
from react_pipeline.stage import STAGES
from react_pipeline.store import Artifact, InputError
from react_pipeline.training import customize

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
        smooth, plain = (trained(project, name) for name in ("gated-smooth", "gated-image"))
    config = smooth.manifest["config"]
    assert config["smoothing"] == 0.1 and "loss" not in config
    assert losses(smooth)[0] != losses(plain)[0]


def test_new_weights_are_saved_loaded_and_interpolated(project: Project) -> None:
    base = project.store.current("base_checkpoint", "all")
    checkpoint = trained(project, "adapter")
    assert checkpoint.counts["step0_max_difference"] == 0
    assert len(checkpoint.counts["interpolation_scores"]) == 5
    assert checkpoint.counts["trainable_parameters"] == 1 + 2 * 8 * (32 + 32)
    before, after = (load_file(one.path / WEIGHTS_FILE) for one in (base, checkpoint))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed <= {"logit_scale"}
    places = {name.partition(".mlp.c_proj.adapter.")[::2] for name in after.keys() - before}
    blocks = [f"visual.transformer.resblocks.{block}" for block in (0, 1)]
    assert places == {(block, f"{part}.weight") for block in blocks for part in (0, 2)}
    clip, head = load_classifier(checkpoint, None, project.domain("shapes"), "cpu")
    assert all(torch.equal(weight, after[name]) for name, weight in clip.model.state_dict().items())
    assert torch.equal(head.vectors, domain_head(clip, project.domain("shapes")))


def test_only_used_fields_and_identity_rebuild_a_method(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config(method: str, **fields: Any) -> Any:
        edit_domain(project, "shapes", customization=fields)
        return STAGES["customized_checkpoint"].identity(project, f"shapes/{method}")

    assert config("class-means") == config("class-means", steps=9, last_k_layers=1)
    assert config("locked-text") == config("locked-text", last_k_layers=1)
    before = config("adapter")
    assert before != config("adapter", last_k_layers=1) and before["width"] == 8
    monkeypatch.setattr(Adapter, "identity", {"width": 4})
    assert config("adapter") != before


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


def test_a_checkpoint_without_its_extension_is_refused_by_name(clip: Clip, tmp_path: Path) -> None:
    with installed("mine", Mine()):
        opened(clip)
        save(clip, tmp_path / "saved")
        again = load(tmp_path / "saved")
        assert torch.equal(again.encode_images(IMAGES), clip.encode_images(IMAGES))
    with pytest.raises(InputError, match="adapter"):
        load(tmp_path / "saved")


def test_a_trained_tower_runs_new_modules(clip: Clip) -> None:
    before = clip.encode_images(IMAGES)
    model = opened(clip)
    Adapter().set_trainable(model)
    tower = ImageTower(model)
    assert tower.splits and tower.start == 1
    after = normalize(tower(IMAGES).detach(), dim=-1)
    assert not torch.allclose(after, before, atol=1e-3)
    torch.testing.assert_close(after, clip.encode_images(IMAGES), atol=1e-5, rtol=0)


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
