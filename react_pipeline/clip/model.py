"""Any open_clip model with its tokenizer and preprocessing: loading, saving, encoding.

On disk it is open_clip's config and safetensors, never pickle. Does not belong here: training,
evaluation. Shapes: B images, N texts, D embedding dimension, H x W pixels.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as functional
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from PIL import Image
from torch import Tensor, nn

from react_pipeline.clip.architecture import CONFIG_FILE, read_config
from react_pipeline.clip.built_encoder import encoder_of_tower
from react_pipeline.clip.gated import add_gated_blocks, gated_layers
from react_pipeline.clip.hub import reach_hub
from react_pipeline.clip.precision import arithmetic
from react_pipeline.clip.tower import encode_text, text_lengths
from react_pipeline.clip.trust import require_known_text_tower, text_folder
from react_pipeline.clip.weights import at_most, load_strictly, read_weights, save_tensors
from react_pipeline.settings import METHODS
from react_pipeline.store import InputError

WEIGHTS_FILE = "open_clip_model.safetensors"
FOREIGN_WEIGHTS_FILE = "open_clip_pytorch_model.bin"
"""The weights in a folder of the Hub that has no safetensors."""

TEXT_DIRECTORY = "text"
"""Holds config and tokenizer of a text tower that comes from transformers."""

TEXT_FILES = {
    "hf_model_name": ("config.json",),
    "hf_tokenizer_name": ("tokenizer_config.json", "tokenizer.json", "vocab.txt"),
}
"""Files that show that a folder holds a text tower's configuration, or a tokenizer."""

_POSITION_IDS = "text.transformer.embeddings.position_ids"
"""A constant that older releases of transformers saved with the weights."""


@dataclass
class Clip:
    """A model with what it needs to be used.

    Attributes:
        model: open_clip's CLIP or CustomTextCLIP, in eval mode.
        tokenizer: Texts to token ids (N, context length), int64.
        preprocess: RGB image to a tensor (3, H, W), float32, normalised, without augmentation.
        model_cfg: open_clip's architecture; `vision_cfg.react_cfg` describes gated blocks, `added`
            the new modules of other methods.
        preprocess_cfg: Size, mean, std, interpolation and resize mode.
    """

    model: Any
    tokenizer: Callable[[list[str]], Tensor]
    preprocess: Callable[[Image.Image], Tensor]
    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]
    device: str = "cpu"

    @property
    def dimension(self) -> int:
        """Return D, the width of the joint space."""
        return int(self.model_cfg["embed_dim"])

    @arithmetic()
    @torch.inference_mode()
    def encode_images(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to unit vectors (B, D), float32, on the CPU."""
        return self.model.encode_image(images.to(self.device), normalize=True).float().cpu()

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Map one text or more to token ids (N, context length), as many at once as tokenizers
        take.
        """
        starts = range(0, len(texts), 1024)
        return torch.cat([self.tokenizer(list(texts[start : start + 1024])) for start in starts])

    @arithmetic()
    def encode_texts(self, texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """Map texts to unit vectors (N, D), float32, on the CPU."""
        vectors = torch.empty(len(texts), self.dimension)
        if not len(texts):
            return vectors
        tokens = self.tokenize(texts)
        lengths = text_lengths(self.model, tokens)
        # Batches of like length compute little for padding.
        for chosen in lengths.argsort(stable=True).split(batch_size):
            cut = tokens[chosen, : int(lengths[chosen[-1]])].to(self.device)
            with torch.inference_mode():
                features = functional.normalize(encode_text(self.model, cut), dim=-1)
            vectors[chosen] = features.float().cpu()
        return vectors


def load(directory: Path | str, device: str = "cpu", *, foreign: bool = False) -> Clip:
    """Load a checkpoint written by `save`: strictly, with its activation, normalisation and gated
    blocks.

    Args:
        foreign: It may be a folder of the Hub, whose weights may be a plain torch file.

    Raises:
        InputError: If the directory holds no such checkpoint, if weights and architecture differ,
            or if it asks for code to be run (`trust`).
    """
    directory = Path(directory)
    model_cfg, preprocess_cfg = read_config(directory)
    weights = find_weights(directory, foreign=foreign)
    state = read_weights(weights)
    with at_most(state):
        clip = build(model_cfg, preprocess_cfg, directory)
    if foreign and _POSITION_IDS not in clip.model.state_dict():
        state.pop(_POSITION_IDS, None)
    load_strictly(clip.model, state, weights)
    return placed(clip, device)


def find_weights(directory: Path, *, foreign: bool = False) -> Path:
    """Return the file with the weights of a checkpoint folder; errors as of `load`."""
    names = (WEIGHTS_FILE, FOREIGN_WEIGHTS_FILE) if foreign else (WEIGHTS_FILE,)
    if path := next((directory / name for name in names if (directory / name).is_file()), None):
        return path
    raise InputError(
        f"{directory}: holds no {WEIGHTS_FILE}; other weights in a folder, pickled ones above "
        "all, are not read"
    )


@lru_cache(maxsize=1)
def loaded_base(directory: Path, device: str) -> Clip:
    """Load a published base that is only read from, as `load` does; steps of one process share it.

    A training loads its own, since it changes the model, and calls `loaded_base.cache_clear()` for
    the memory.
    """
    return load(directory, device)


def save(clip: Clip, directory: Path | str) -> None:
    """Write a checkpoint: `open_clip_config.json`, `open_clip_model.safetensors` and, where needed,
    `text/`.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    model_cfg = deepcopy(clip.model_cfg)
    gated = gated_layers(clip.model)
    model_cfg["vision_cfg"].pop("react_cfg", None)
    if gated:
        # Plain open_clip refuses this field, so it can never load the model silently without its
        # gated blocks.
        model_cfg["vision_cfg"]["react_cfg"] = {"enabled": True, "last_k_layers": len(gated)}
    text_cfg = model_cfg["text_cfg"]
    if text_cfg.get("hf_model_name"):
        clip.model.text.config.save_pretrained(directory / TEXT_DIRECTORY)
        text_cfg["hf_model_name"] = TEXT_DIRECTORY
    if text_cfg.get("hf_tokenizer_name"):
        clip.tokenizer.tokenizer.save_pretrained(directory / TEXT_DIRECTORY)  # type: ignore[attr-defined]
        text_cfg["hf_tokenizer_name"] = TEXT_DIRECTORY
    config = {"model_cfg": model_cfg, "preprocess_cfg": clip.preprocess_cfg}
    (directory / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    # Tensors that share memory are refused by safetensors; a copy of each is written and loads the
    # same.
    weights = {
        name: tensor.cpu().contiguous().clone() for name, tensor in clip.model.state_dict().items()
    }
    save_tensors(weights, directory / WEIGHTS_FILE)


def from_parts(
    model: nn.Module,
    model_cfg: dict[str, Any],
    preprocess_cfg: dict[str, Any],
    tokenizer: Path | None,
) -> Clip:
    """Wrap a model built elsewhere; `tokenizer` is a local folder of transformers
    files.
    """
    clip = build(model_cfg, preprocess_cfg, None if tokenizer is None else tokenizer.parent, model)
    return placed(clip, "cpu")


def build(
    model_cfg: dict[str, Any],
    preprocess_cfg: dict[str, Any],
    directory: Path | None = None,
    model: Any = None,
) -> Clip:
    """Build a model of this architecture with random weights, or wrap a given one; texts are read
    from `directory`.

    Raises:
        InputError: If it cannot be built, or its tokenizer or text tower is not in `directory`.
    """
    cfg = deepcopy(model_cfg)
    if "multimodal_cfg" in cfg:
        raise InputError("CoCa models are not supported: they have no plain image and text towers")
    react_cfg = cfg["vision_cfg"].pop("react_cfg", None) or {}
    added = cfg.pop("added", ())
    text_cfg = cfg["text_cfg"]
    if directory is not None:
        for field, files in TEXT_FILES.items():
            if name := text_cfg.get(field):
                text_cfg[field] = str(text_folder(directory, name, f"text_cfg.{field}", files))
    if built := encoder_of_tower(cfg["vision_cfg"].get("timm_model_name")):
        built.register()
    # Weights come from the checkpoint alone, never from a place that its architecture names.
    if "timm_model_name" in cfg["vision_cfg"]:
        cfg["vision_cfg"]["timm_model_pretrained"] = False
    if model is None:
        separate_text = cfg.pop("custom_text", False) or bool(text_cfg.get("hf_model_name"))
        if text_cfg.get("hf_model_name"):
            text_cfg["hf_model_pretrained"] = False
            require_known_text_tower(text_cfg["hf_model_name"])
        try:
            model = (CustomTextCLIP if separate_text else CLIP)(**cfg)
            if react_cfg.get("enabled"):
                add_gated_blocks(model, react_cfg["last_k_layers"])
        except Exception as error:
            raise InputError(
                f"this architecture cannot be built by open_clip {open_clip.__version__}: {error}"
            ) from error
        _add_modules(model, added)
    size = getattr(model.visual, "image_size", None)
    try:
        tokenizer = _tokenizer(text_cfg)
        preprocess_cfg = merge_preprocess_dict(preprocess_cfg, {"size": size})  # unless it is None
        preprocess = image_transform_v2(PreprocessCfg(**preprocess_cfg), is_train=False)
    except Exception as error:
        raise InputError(
            f"{directory or 'open_clip'}: tokenizer or preprocessing cannot be loaded: {error}"
        ) from error
    return Clip(model, tokenizer, preprocess, deepcopy(model_cfg), preprocess_cfg)


def _add_modules(model: nn.Module, added: Sequence[Mapping[str, Any]]) -> None:
    """Add the new modules of the methods that trained a checkpoint."""
    for entry in added:
        name = str(entry["method"])
        method: Any = METHODS.get(name)
        if method is None:
            raise InputError(
                f"this checkpoint has modules of the method {name!r}, which no installed extension "
                "brings; install the package that does"
            )
        try:
            method.reattach(model, entry["record"])
        except Exception as error:  # whatever a method of an extension raises
            raise InputError(
                f"this checkpoint's modules of the method {name!r} cannot be built: {error}"
            ) from error


def _tokenizer(text_cfg: dict[str, Any]) -> Callable[[list[str]], Tensor]:
    context_length = text_cfg.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH)
    options = text_cfg.get("tokenizer_kwargs") or {}
    if name := text_cfg.get("hf_tokenizer_name"):
        with nullcontext() if Path(name).is_dir() else reach_hub():
            fixed = {"context_length": context_length, "trust_remote_code": False}
            return open_clip.tokenizer.HFTokenizer(name, **fixed, **options)
    if not options:
        return _plain_tokenizer(context_length)
    return open_clip.SimpleTokenizer(context_length=context_length, **options)


@cache
def _plain_tokenizer(context_length: int) -> Callable[[list[str]], Tensor]:
    return open_clip.SimpleTokenizer(context_length=context_length)


def placed(clip: Clip, device: str) -> Clip:
    """Move a model to a device, in eval mode."""
    clip.model.to(device).eval()
    clip.device = device
    return clip
