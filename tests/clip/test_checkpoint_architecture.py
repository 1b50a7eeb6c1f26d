"""A checkpoint folder tells what it is; a configuration that says otherwise is refused, and no card
repeats it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest

from react_pipeline.clip.architecture import differences, encoder_fields, read_config
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
    ("given", "reported"),
    [
        ({"model": "ViT-L-14"}, ["encoder.model is 'ViT-L-14'", "embed_dim 32 instead of 768"]),
        (
            {"model": "ViT-B-32"},
            ["encoder.model is 'ViT-B-32'", "and the folder's has embed_dim 32 instead of 512"],
        ),
        (
            {"model": "mine"},
            ["encoder.model is 'mine'", "unknown to open_clip", "vision_cfg.layers 2"],
        ),
        ({"model": "react_tiny"}, ["encoder.model is 'react_tiny'", "no gated blocks"]),
        ({"model": "tiny-quickgelu"}, ["encoder.model is 'tiny-quickgelu'", "QuickGELU"]),
        ({"quick_gelu": True}, ["encoder.quick_gelu is True", "the folder's is False"]),
        (
            {"mean": (0.1, 0.2, 0.3)},
            ["encoder.mean is [0.1, 0.2, 0.3]", "the folder's is [0.5, 0.5, 0.5]"],
        ),
        (
            {"std": (0.1, 0.2, 0.3)},
            ["encoder.std is [0.1, 0.2, 0.3]", "the folder's is [0.5, 0.5, 0.5]"],
        ),
        (
            {"model": "ViT-L-14", "quick_gelu": True, "std": (1, 1, 1)},
            ["encoder.model", "quick_gelu", "encoder.std"],
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_folder_unlike_the_configuration_is_refused(
    named: Path, given: dict[str, Any], reported: list[str]
) -> None:
    with pytest.raises(InputError) as error:
        from_open_clip(EncoderConfig(pretrained=str(named), **given))
    assert all(words in str(error.value) for words in (str(named), *reported))


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"quick_gelu": None, "mean": None},
        {"model": "tiny", "quick_gelu": False, "mean": HALF, "std": HALF},
        {"model": "tiny-quickgelu", "quick_gelu": False},
    ],
)
def test_a_folder_loads_by_what_it_says_itself(named: Path, given: dict[str, Any]) -> None:
    clip = from_open_clip(EncoderConfig(pretrained=str(named), **given))
    assert (clip.dimension, tuple(clip.preprocess_cfg["mean"])) == (32, HALF)


@pytest.mark.parametrize("name", ["tiny", "react_tiny"])
def test_a_gated_folder_has_the_names_of_its_base_and_react(
    named: Path, tmp_path: Path, name: str
) -> None:
    clip = load(named)
    add_gated_blocks(clip.model, 1)
    save(clip, tmp_path)
    assert list(
        gated_layers(from_open_clip(EncoderConfig(model=name, pretrained=str(tmp_path))).model)
    ) == [1]


def test_a_folder_loads_by_a_name_that_leaves_activation_open(named: Path, tmp_path: Path) -> None:
    clip = load(named)
    clip.model_cfg["quick_gelu"] = True
    save(clip, tmp_path)
    assert from_open_clip(EncoderConfig(model="tiny", pretrained=str(tmp_path))).model_cfg[
        "quick_gelu"
    ]


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


def test_values_that_mean_the_same_are_no_difference() -> None:
    vision = {"layers": 1, "image_size": 32, "norm_kwargs": None, "patch_size": 16}
    one = {"embed_dim": 8, "vision_cfg": vision, "text_cfg": {"layers": 1}}
    same = {"image_size": [32, 32], "norm_kwargs": {}, "width": 768, "react_cfg": {"enabled": True}}
    assert differences(one, {**one, "quick_gelu": True, "vision_cfg": {**vision, **same}}) == []
    other = {
        **one,
        "vision_cfg": {**vision, "image_size": [32, 64]},
        "text_cfg": {"layers": 1, "hf_model_name": "x"},
    }
    assert [line.split()[0] for line in differences(one, other)] == [
        "vision_cfg.image_size",
        "text_cfg.transformers",
    ]


def test_every_open_clip_architecture_agrees_with_itself_only() -> None:
    known = open_clip.get_model_config("ViT-B-32")
    alike = [
        name
        for name in open_clip.list_models()
        if not differences(open_clip.get_model_config(name), known)
    ]
    assert alike == ["ViT-B-32", "ViT-B-32-quickgelu"]


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
        assert words in reported and "text_cfg.transformers True" in reported
