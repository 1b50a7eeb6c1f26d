"""Models by the names that open_clip gives them: folders and places of the Hub in the layouts found
there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CustomTextCLIP
from PIL import Image
from safetensors.torch import save_file
from support.text_tower import WORDS, write_bert
from torch.nn.functional import normalize
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from react_pipeline.clip import from_open_clip, load, publish_base, require_available
from react_pipeline.clip.base import fetched
from react_pipeline.project import Project
from react_pipeline.settings import EncoderConfig
from react_pipeline.store import InputError

Make, Put = Callable[..., Project], Callable[[str, Path], None]
TRUNK = {"image_size": 160, "timm_model_name": "test_vit", "timm_model_pretrained": False}
BERT = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
HALVES = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}


def write_folder(
    folder: Path, model_cfg: dict[str, Any], preprocess_cfg: dict[str, Any], text: str = ""
) -> Any:
    """Write configuration and random weights; `text` is where the text tower's configuration is.
    Returns the model.
    """
    folder.mkdir()
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    fields = {key: value for key, value in model_cfg.items() if key != "custom_text"}
    if text:
        named = {"hf_model_name": text, "hf_model_pretrained": False}
        fields["text_cfg"] = fields["text_cfg"] | named
    torch.manual_seed(0)
    return CustomTextCLIP(**fields).eval()


def write_siglip2(folder: Path) -> Any:
    """As timm/ViT-B-16-SigLIP2: a timm trunk, safetensors, and Gemma's tokenizer beside them, named
    by its place.
    """
    text_cfg = {
        **{"context_length": 8, "vocab_size": len(WORDS), "width": 64, "heads": 2, "layers": 1},
        **{"no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
        "hf_tokenizer_name": "timm/ViT-B-16-SigLIP2",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "norm_kwargs": {"eps": 1e-6},
    }
    vision_cfg = {**TRUNK, "timm_pool": "map", "timm_proj": "none"}
    model_cfg = {"embed_dim": 64, "init_logit_bias": -10, "custom_text": True}
    model = write_folder(
        folder, {**model_cfg, "vision_cfg": vision_cfg, "text_cfg": text_cfg}, HALVES
    )
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    words = BertTokenizerFast(str(write_bert(folder.parent) / "vocab.txt")).backend_tokenizer
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]").save_pretrained(folder)  # noqa: S106
    return model


def write_biomed(folder: Path) -> Any:
    """As BiomedCLIP: a pickled state dict of an older transformers, BERT's tokenizer, its
    configuration elsewhere.
    """
    bert = write_bert(folder.parent)
    text_cfg = {
        **{"hf_model_name": BERT, "hf_tokenizer_name": BERT, "hf_proj_type": "mlp"},
        **{"hf_pooler_type": "cls_last_hidden_state_pooler", "context_length": 8},
    }
    vision_cfg = {**TRUNK, "timm_pool": "", "timm_proj": "linear"}
    model_cfg = {"embed_dim": 24, "vision_cfg": vision_cfg, "text_cfg": text_cfg}
    model = write_folder(
        folder, model_cfg, {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]}, str(bert)
    )
    state = model.state_dict()
    state["text.transformer.embeddings.position_ids"] = torch.arange(16)[None]
    torch.save(state, folder / "open_clip_pytorch_model.bin")
    for file in bert.glob("[tv]*"):
        shutil.copy(file, folder)
    return model


@pytest.fixture(params=[write_siglip2, write_biomed], ids=["SigLIP 2", "BiomedCLIP"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return request.param(tmp_path / "folder")


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], None]:
    """Puts a folder into the Hub's cache, as if it had been fetched; nothing else is there."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))

    def put(name: str, folder: Path) -> None:
        place = tmp_path / "cache" / f"models--{name.replace('/', '--')}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text("0" * 40)
        (place / "snapshots").mkdir()
        (place / "snapshots" / ("0" * 40)).symlink_to(folder)

    return put


@pytest.mark.parametrize("prefix", ["local-dir:", "hf-hub:"])
def test_a_model_of_the_hub_is_a_base_by_either_name(
    model: Any, prefix: str, make_project: Make, tmp_path: Path, cached: Put
) -> None:
    folder, is_bert = tmp_path / "folder", isinstance(model.text, HFTextEncoder)
    name = "organization/model" if prefix == "hf-hub:" else "folder"
    if is_bert and prefix == "local-dir:":
        with pytest.raises(InputError, match="hf_model_name"):
            from_open_clip(EncoderConfig(model=f"local-dir:{folder}"))
        (folder / "text").mkdir()
        shutil.copy(tmp_path / "tiny-bert" / "config.json", folder / "text")
    cached(BERT, tmp_path / "tiny-bert")
    cached("organization/model", folder)
    project = make_project(encoder={"model": prefix + name, "pretrained": None})
    clip = load(publish_base(project).path)
    assert clip.preprocess_cfg.get("resize_mode") == (None if is_bert else "squash")
    tokens = clip.tokenizer(["a red circle"])
    assert tokens.tolist() == [[2, 5, 6, 7, 3, 0, 0, 0]]
    image = clip.preprocess(Image.linear_gradient("L").convert("RGB").resize((90, 40)))[None]
    with torch.no_grad():
        images, texts = model.encode_image(image), model.encode_text(tokens)
    assert torch.allclose(clip.encode_images(image), normalize(images), atol=1e-5)
    assert torch.allclose(clip.encode_texts(["a red circle"]), normalize(texts), atol=1e-5)


@pytest.mark.parametrize(
    "encoder",
    [{"model": "hf-hub:organization/model@v2", "pretrained": None}, {"pretrained": "openai"}],
)
def test_without_the_hub_its_cache_is_used(
    encoder: dict[str, Any],
    make_project: Make,
    tmp_path: Path,
    cached: Put,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("time.sleep", lambda _: None)  # before each of its many tries
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(InputError, match=r"encoder\.pretrained: .* cannot be fetched"):
        publish_base(make_project(encoder=encoder))
    write_siglip2(tmp_path / "folder")
    cached("organization/cached", tmp_path / "folder")
    with fetched(EncoderConfig(model="hf-hub:organization/cached")) as found:
        assert (Path(str(found.pretrained)) / "open_clip_config.json").is_file()


@pytest.mark.parametrize(
    ("encoder", "reason"),
    [
        ({"pretrained": "/nowhere/a.pt"}, "encoder.pretrained: .*nowhere"),
        ({"pretrained": "opnai"}, "encoder.pretrained: .*did you mean openai"),
        ({"pretrained": "no-such-tag"}, "laion2b_s34b_b79k"),
        ({"model": "ViT-Z-99", "pretrained": "openai"}, "encoder.model: .*'ViT-Z-99'"),
    ],
)
def test_names_and_weights_that_are_not_there_are_named(
    encoder: dict[str, str], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        require_available(EncoderConfig(**encoder))  # type: ignore[arg-type]
    require_available(EncoderConfig(pretrained="hf-hub:no/model"))  # the Hub is not asked


def test_a_file_is_resized_as_its_architecture_unless_stated(
    named: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    siglip = open_clip.get_pretrained_cfg("ViT-B-16-SigLIP", "webli")
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"webli": siglip})
    path = str(named / "open_clip_model.safetensors")
    clip = from_open_clip(EncoderConfig(model="tiny", pretrained=path))
    siglips = {"resize_mode": "squash", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    assert clip.preprocess_cfg.items() >= siglips.items()
    said = from_open_clip(EncoderConfig(model="tiny", pretrained=path, resize_mode="shortest"))
    # A strip is seen whole, or only its middle.
    strip = Image.new("RGB", (64, 32))
    strip.paste("white", (0, 0, 8, 32))
    assert clip.preprocess(strip)[0, :, 0].min() > 0 > said.preprocess(strip)[0, :, 0].max()
