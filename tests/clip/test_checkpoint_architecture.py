"""A checkpoint folder tells what it is: what it records must not be configured, and a card says
what the folder says.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest

from react_pipeline.clip.architecture import encoder_fields, read_config
from react_pipeline.clip.base import publish_base
from react_pipeline.clip.gated import add_gated_blocks, gated_layers
from react_pipeline.clip.model import load, save
from react_pipeline.clip.pretrained import from_open_clip
from react_pipeline.project.project import Project
from react_pipeline.settings.config import EncoderConfig
from react_pipeline.store.errors import InputError

HALF = (0.5, 0.5, 0.5)


@pytest.fixture
def named(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a model that open_clip knows as `tiny`, and with QuickGELU as
    `tiny-quickgelu`.
    """
    model_cfg, _ = read_config(tiny_checkpoint)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", model_cfg)
    monkeypatch.setitem(
        open_clip.factory._MODEL_CONFIGS, "tiny-quickgelu", {**model_cfg, "quick_gelu": True}
    )
    return tiny_checkpoint


@pytest.mark.parametrize(
    "added", [[{"record": [], "method": "full"}], [{"record": {}, "method": 1}], [1], 1]
)
def test_a_wrong_list_of_added_parts_is_one_error(tmp_path: Path, added: object) -> None:
    parts = {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}, "added": added}
    config = {"model_cfg": parts, "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="not an open_clip checkpoint folder"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    "given",
    [
        {"model": "ViT-L-14"},
        {"model": "tiny"},
        {"quick_gelu": False},
        {"mean": HALF},
        {"std": (0.1, 0.2, 0.3)},
        {"resize_mode": "squash"},
        {"model": "ViT-L-14", "quick_gelu": True, "std": (1, 1, 1)},
    ],
    ids="-".join,
)
def test_what_a_folder_records_must_not_be_configured(named: Path, given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="records its own") as error:
        from_open_clip(EncoderConfig(pretrained=str(named), **given))
    assert all(word in str(error.value) for word in (str(named), *given))


@pytest.mark.parametrize("given", [{}, {"quick_gelu": None, "mean": None}])
def test_a_folder_loads_by_what_it_says_itself(named: Path, given: dict[str, Any]) -> None:
    clip = from_open_clip(EncoderConfig(pretrained=str(named), **given))
    assert (clip.dimension, tuple(clip.preprocess_cfg["mean"])) == (32, HALF)


def test_a_folder_loads_with_its_activation_and_gated_blocks(named: Path, tmp_path: Path) -> None:
    clip = load(named)
    add_gated_blocks(clip.model, 1)
    clip.model_cfg["quick_gelu"] = True
    save(clip, tmp_path)
    again = from_open_clip(EncoderConfig(pretrained=str(tmp_path)))
    assert list(gated_layers(again.model)) == [1] and again.model_cfg["quick_gelu"]
    said = {"model": "tiny", "pretrained": "local"}
    assert encoder_fields(said, tmp_path)["model"] == "tiny"


def test_base_that_is_not_what_pipeline_says_is_never_published(
    make_project: Callable[..., Project],
) -> None:
    project = make_project(encoder={"model": "ViT-B-16", "mean": [0.1, 0.2, 0.3]})
    with pytest.raises(InputError, match=r"encoder\.model"):
        publish_base(project)
    assert project.store.keys("base_checkpoint") == []


@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"model_cfg": {"embed_dim": 8}, "preprocess_cfg": {}}', "{", "1"]
)
def test_a_folder_with_another_files_content_is_no_checkpoint(tmp_path: Path, content: str) -> None:
    (tmp_path / "open_clip_config.json").write_text(content)
    with pytest.raises(InputError, match=r"open_clip_config\.json"):
        from_open_clip(EncoderConfig(pretrained=str(tmp_path)))


@pytest.mark.parametrize("entry", [{"method": "a", "record": []}, {"method": 1, "record": {}}])
def test_modules_without_method_and_record_are_refused(
    named: Path, tmp_path: Path, entry: dict[str, Any]
) -> None:
    config = json.loads((named / "open_clip_config.json").read_text())
    config["model_cfg"]["added"] = [entry]
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="`added`"):
        read_config(tmp_path)


def test_a_card_names_an_architecture_only_where_it_fits(
    named: Path,
) -> None:
    said = {
        "model": "ViT-B-32",
        "pretrained": "local",
        "quick_gelu": None,
        "mean": None,
        "std": None,
    }
    fields = encoder_fields(said, named)
    for part in ("vision_cfg.layers 2", "vision_cfg.width 32", "vision_cfg.image_size 32"):
        assert part in fields["model"]
    assert "ViT" not in fields["model"]
    assert fields["mean"] == fields["std"] == list(HALF) and fields["quick_gelu"] is False
    assert encoder_fields({**said, "model": "tiny"}, named)["model"] == "tiny"
    assert encoder_fields({**said, "model": "demo"}, named)["model"] == "demo"


def test_timm_and_transformers_towers_are_described_as_such(tmp_path: Path) -> None:
    vision, text = {"timm_model_name": "convnext_atto", "image_size": 64}, {"hf_model_name": "text"}
    resnet = {"layers": [1, 2, 3, 4], "width": 8, "patch_size": None}
    for vision_cfg, words in (
        (vision, "vision_cfg.timm_model_name convnext_atto"),
        (resnet, "vision_cfg.layers [1, 2, 3, 4]"),
    ):
        model_cfg = {"embed_dim": 8, "vision_cfg": vision_cfg, "text_cfg": text}
        config = {"model_cfg": model_cfg, "preprocess_cfg": {}}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
        reported = encoder_fields({"model": "ViT-B-32", "pretrained": "local"}, tmp_path)["model"]
        assert words in reported
