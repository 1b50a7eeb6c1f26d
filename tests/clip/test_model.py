from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import CLIP
from PIL import Image
from safetensors.torch import load_file, save_file

from react_pipeline.clip.gated import add_gated_blocks, gated_layers
from react_pipeline.clip.model import Clip, from_parts, load, save
from react_pipeline.clip.pretrained import from_open_clip
from react_pipeline.settings.config import EncoderConfig
from react_pipeline.store.errors import InputError


@pytest.fixture
def clip(tiny_checkpoint: Path) -> Clip:
    return load(tiny_checkpoint)


def test_a_saved_model_loads_gates_activation_and_pixels(clip: Clip, tmp_path: Path) -> None:
    add_gated_blocks(clip.model, 1)
    for block in gated_layers(clip.model).values():
        torch.nn.init.constant_(block.alpha_attn, 0.5)
    save(clip, tmp_path)
    again = load(tmp_path)
    assert list(gated_layers(again.model)) == [1]
    assert (
        again.preprocess_cfg["mean"] == clip.preprocess_cfg["mean"]
        or tuple(again.preprocess_cfg["mean"]) == (0.5,) * 3
    )
    image = again.preprocess(Image.new("RGB", (50, 40), "red"))[None]
    assert image.shape == (1, 3, 32, 32)
    torch.testing.assert_close(again.encode_images(image), clip.encode_images(image))
    torch.testing.assert_close(
        again.encode_texts(["a cat", "dogs"]), clip.encode_texts(["a cat", "dogs"])
    )


def test_vectors_have_unit_norm_and_keep_the_order_of_the_texts(clip: Clip) -> None:
    texts = ["a very long text about many things", "short", "a drawing of a circle"]
    vectors = clip.encode_texts(texts, batch_size=2)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    for number, text in enumerate(texts):
        torch.testing.assert_close(
            vectors[number], clip.encode_texts([text])[0], atol=1e-5, rtol=1e-5
        )


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("kind", ["pickled object", "text", "truncated safetensors", "empty"])
def test_hostile_and_broken_checkpoints_are_refused_unrun(
    tmp_path: Path, kind: str
) -> None:  # FAULTS 24, 5
    path = tmp_path / ("weights.safetensors" if "safetensors" in kind else "weights.pt")
    if kind == "pickled object":
        torch.save({"state_dict": Evil(tmp_path / "owned")}, path)
    elif kind == "text":
        path.write_text("not a checkpoint")
    elif kind == "truncated safetensors":
        save_file({"a": torch.zeros(100)}, path)
        path.write_bytes(path.read_bytes()[:-50])
    else:
        path.touch()
    with pytest.raises(InputError, match="weights"):
        from_open_clip(EncoderConfig(model="ViT-B-32", pretrained=str(path)))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("given", [{}, {"quick_gelu": False, "mean": (0.5, 0.5, 0.5)}, None])
def test_what_a_checkpoint_file_does_not_record_is_warned_of(
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    given: dict[str, Any] | None,
) -> None:
    model_cfg = json.loads((tiny_checkpoint / "open_clip_config.json").read_text())["model_cfg"]
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", model_cfg)
    whole = {"quick_gelu": True, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    path = str(tiny_checkpoint / "open_clip_model.safetensors")
    fields = whole if given is None else given
    from_open_clip(EncoderConfig(model="tiny", pretrained=path, **fields))
    warned = [
        record.getMessage() for record in caplog.records if "encoder.quick_gelu" in str(record.msg)
    ]
    assert len(warned) == (given is not None) and all(path in message for message in warned)


@pytest.mark.parametrize(
    "react_cfg", [7, {"enabled": True}, {"enabled": True, "last_k_layers": "all"}]
)
def test_a_broken_description_of_gated_blocks_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, react_cfg: Any
) -> None:
    shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["vision_cfg"]["react_cfg"] = react_cfg
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match="cannot build"):
        load(path.parent)


RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None}


def test_a_tower_without_blocks_loads_or_its_gaps_are_named(
    tmp_path: Path,
) -> None:  # FAULTS 25
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    model_cfg = {"embed_dim": 16, "vision_cfg": RESNET, "text_cfg": text}
    torch.manual_seed(0)
    clip = from_parts(CLIP(**model_cfg), model_cfg, {"size": 32}, None)
    save(clip, tmp_path)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(load(tmp_path).encode_images(images), clip.encode_images(images))
    path, key = tmp_path / "open_clip_model.safetensors", "visual.conv1.weight"
    save_file({name: value for name, value in load_file(path).items() if name != key}, path)
    with pytest.raises(InputError) as error:
        load(tmp_path)
    assert str(path) in str(error.value) and f'state_dict: "{key}"' in str(error.value)
