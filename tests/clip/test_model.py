from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from open_clip.transformer import QuickGELU
from PIL import Image
from safetensors.torch import save_file
from support.trap import Trap

from react_pipeline.clip import Clip, add_gated_blocks, from_open_clip, gated_layers, load, save
from react_pipeline.clip.classifier import prompt_vectors
from react_pipeline.clip.weights import at_most
from react_pipeline.settings import EncoderConfig
from react_pipeline.store import InputError

HALF = (0.5, 0.5, 0.5)
WHOLE = {"quick_gelu": True, "mean": HALF, "std": HALF}


def test_a_saved_model_loads_gates_activation_and_pixels(clip: Clip, tmp_path: Path) -> None:
    add_gated_blocks(clip.model, 1)
    for block in gated_layers(clip.model).values():
        torch.nn.init.constant_(block.alpha_attn, 0.5)
    clip.model_cfg["quick_gelu"] = True
    save(clip, tmp_path)
    again = load(tmp_path)
    assert list(gated_layers(again.model)) == [1] and again.model_cfg["quick_gelu"]
    assert isinstance(again.model.transformer.resblocks[0].mlp.gelu, QuickGELU)
    assert tuple(again.preprocess_cfg["mean"]) == (0.5,) * 3
    assert again.preprocess(Image.new("RGB", (50, 40), "red")).shape == (3, 32, 32)


def test_loading_skips_random_initial_values(
    clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(clip, tmp_path)
    draw = Mock(side_effect=AssertionError)
    monkeypatch.setattr(torch.Tensor, "normal_", draw, raising=False)
    assert load(tmp_path).model.state_dict().keys() == clip.model.state_dict().keys()
    draw.assert_not_called()


def pickled(path: Path) -> None:
    torch.save({"state_dict": Trap(path.parent / "owned")}, path)


def truncated(path: Path) -> None:
    save_file({"a": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:-50])


@pytest.mark.parametrize(
    ("write", "name"),
    [(pickled, "weights.pt"), (truncated, "weights.safetensors"), (Path.touch, "weights.pt")],
)
def test_hostile_and_broken_checkpoints_are_refused_unrun(
    tmp_path: Path, write: Callable[[Path], None], name: str
) -> None:  # FAULTS 24, 5
    write(tmp_path / name)
    with pytest.raises(InputError, match="weights"):
        from_open_clip(EncoderConfig(model="ViT-B-32", pretrained=str(tmp_path / name)))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("given", [{}, {"quick_gelu": False, "mean": HALF}, WHOLE])
def test_what_a_checkpoint_file_does_not_record_is_warned_of(
    named: Path, caplog: pytest.LogCaptureFixture, given: dict[str, Any]
) -> None:
    path = str(named / "open_clip_model.safetensors")
    from_open_clip(EncoderConfig(model="tiny", pretrained=path, **given))
    warned = [message for message in caplog.messages if "encoder.quick_gelu" in message]
    assert len(warned) == (given is not WHOLE) and all(path in message for message in warned)


def test_what_is_no_model_of_ours_is_named(named: Path, clip: Clip, tmp_path: Path) -> None:
    path = str(named / "open_clip_model.safetensors")
    with pytest.raises(InputError, match="no gated blocks, and encoder.model is 'react_tiny'"):
        from_open_clip(EncoderConfig(model="react_tiny", pretrained=path))
    torch.save({"epoch": 3}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="no state dict"):
        from_open_clip(EncoderConfig(model="tiny", pretrained=str(tmp_path / "other.pt")))
    clip.model_cfg["multimodal_cfg"] = {}
    save(clip, tmp_path)
    with pytest.raises(InputError, match="CoCa"):
        load(tmp_path)


def test_no_text_gives_no_vector(clip: Clip) -> None:
    assert clip.encode_texts([]).shape == prompt_vectors(clip, []).shape == (0, clip.dimension)


def test_a_layer_without_bias_counts_as_it_is() -> None:
    with at_most({}):
        assert torch.nn.Linear(2, 2, bias=False).bias is None
