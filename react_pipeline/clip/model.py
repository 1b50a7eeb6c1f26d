"""Any open_clip model with its tokenizer and preprocessing: loading, saving, encoding.

On disk it is open_clip's config and safetensors, never pickle. Does not belong here: training,
evaluation. Shapes: B images, N texts, D embedding dimension, H x W pixels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
import torch.nn.functional as functional
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from react_pipeline.clip.architecture import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    find_weights,
    read_config,
    text_folder,
)
from react_pipeline.clip.device import arithmetic
from react_pipeline.clip.gated import add_gated_blocks, gated_layers
from react_pipeline.clip.tower import encode_text, in_text_tower, text_lengths
from react_pipeline.clip.weights import WithoutDraws, at_most, load_strictly, read_weights
from react_pipeline.settings import METHODS
from react_pipeline.store import InputError, StoreWriteError

_GATED = ".gated_attn_block."

MOST_KEPT_BYTES = 64 << 20
"""Limit of all that `Clip.once` keeps."""

_results: dict[bytes, Tensor] = {}
"""Results of `Clip.once`, by the digest of tower and inputs."""

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
        source: Name of the folder that it was loaded from; in a store its fingerprint.
    """

    model: Any
    tokenizer: Callable[[list[str]], Tensor]
    preprocess: Callable[[Image.Image], Tensor]
    model_cfg: dict[str, Any]
    preprocess_cfg: dict[str, Any]
    device: str = "cpu"
    source: str = ""

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
        """Map texts to token ids (N, context length)."""
        return self.tokenizer(list(texts))

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

    def once(
        self, tower: Literal["text", "image"], inputs: bytes, make: Callable[[], Tensor]
    ) -> Tensor:
        """Return what `make` returns; a process calls it once for equal weights and inputs.

        A method that freezes the text tower has the base's vectors of the prompts, and all heads
        have the base's vectors of the same images.

        Args:
            inputs: All but the tower that decides the result.
        """
        key = hashlib.sha256(self._tower_digest(tower) + inputs).digest()
        result = _results.get(key)
        if result is None:
            result = make()
            if sum(kept.nbytes for kept in _results.values()) > MOST_KEPT_BYTES:
                _results.clear()
            _results[key] = result
        return result.clone()

    def _tower_digest(self, tower: Literal["text", "image"]) -> bytes:
        """Return the SHA-256 of a tower's architecture, device and weights."""
        other = "vision_cfg" if tower == "text" else "text_cfg"
        cfg = {name: value for name, value in self.model_cfg.items() if name != other}
        digest = hashlib.sha256(f"{cfg} {self.device}".encode())
        for name, weight in self.model.state_dict().items():
            if in_text_tower(name) if tower == "text" else name.startswith("visual."):
                digest.update(name.encode())
                digest.update(weight.cpu().contiguous().numpy())
        return digest.digest()


def load(directory: Path | str, device: str = "cpu") -> Clip:
    """Load a checkpoint written by `save`, or a folder of the Hub: strictly, with its activation,
    normalisation and gated blocks.

    Raises:
        InputError: If the directory holds no such checkpoint, if weights and architecture differ,
            or if it asks for code to be run.
    """
    directory = Path(directory)
    model_cfg, preprocess_cfg = read_config(directory)
    clip = load_weights(model_cfg, preprocess_cfg, find_weights(directory), directory, device)
    clip.source = directory.name
    return clip


def load_weights(
    model_cfg: dict[str, Any],
    preprocess_cfg: dict[str, Any],
    file: Path,
    directory: Path | None,
    device: str,
) -> Clip:
    """Build an architecture and load the weights of a file; `directory` and errors as of
    `from_parts` and `load`.
    """
    state = read_weights(file)
    if layers := {key.split(_GATED)[0] for key in state if _GATED in key}:
        model_cfg["vision_cfg"]["react_cfg"] = {"enabled": True, "last_k_layers": len(layers)}
    with at_most(state), WithoutDraws():
        clip = from_parts(None, model_cfg, preprocess_cfg, directory)
    if _POSITION_IDS not in clip.model.state_dict():
        state.pop(_POSITION_IDS, None)
    load_strictly(clip.model, state, file)
    clip.model.to(device)
    clip.device = device
    return clip


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

    Raises:
        StoreWriteError: If the disk refuses the weights, with the bytes needed.
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
    try:
        save_file(weights, directory / WEIGHTS_FILE)
    except SafetensorError as error:
        needed = sum(tensor.nbytes for tensor in weights.values())
        raise StoreWriteError(
            f"{directory / WEIGHTS_FILE}: {error}; {needed:,} bytes are needed. Free space and run "
            "again"
        ) from error


def from_parts(
    model: Any,
    model_cfg: dict[str, Any],
    preprocess_cfg: dict[str, Any],
    directory: Path | None = None,
) -> Clip:
    """Wrap a model, or build one of this architecture with random weights where it is None.

    Args:
        directory: Has the transformers files of texts, in its `text/` or itself.

    Raises:
        InputError: If it cannot be built, or its tokenizer or text tower is not in `directory`.
    """
    cfg = deepcopy(model_cfg)
    text_cfg = cfg["text_cfg"]
    if directory is not None:
        for field, files in TEXT_FILES.items():
            if text_cfg.get(field):
                text_cfg[field] = str(text_folder(directory, f"text_cfg.{field}", files))
    try:
        model = model or _build(cfg)
        tokenizer = _tokenizer(text_cfg)
        # An image tower without `image_size` leaves the size as it is.
        size = {"size": getattr(model.visual, "image_size", None)}
        preprocess_cfg = merge_preprocess_dict(preprocess_cfg, size)
        preprocess = image_transform_v2(PreprocessCfg(**preprocess_cfg), is_train=False)
    except Exception as error:
        raise InputError(
            f"{directory or 'open_clip'}: open_clip {open_clip.__version__} cannot build this "
            f"model: {error}"
        ) from error
    return Clip(model.eval(), tokenizer, preprocess, deepcopy(model_cfg), preprocess_cfg)


def _build(cfg: dict[str, Any]) -> nn.Module:
    """Build the towers, with the new modules of the methods that trained a checkpoint."""
    from react_pipeline.extensions.demo import IMAGE_TOWER

    if "multimodal_cfg" in cfg:
        raise InputError("CoCa is not supported, it has no plain image and text towers")
    vision_cfg, text_cfg = cfg["vision_cfg"], cfg["text_cfg"]
    react_cfg = vision_cfg.pop("react_cfg", None) or {}
    added = cfg.pop("added", ())
    # Weights come from the checkpoint alone, never from a place that its architecture names.
    if tower := vision_cfg.get("timm_model_name"):
        vision_cfg["timm_model_pretrained"] = False
        if tower == IMAGE_TOWER:
            from react_pipeline.extensions.demo import react_demo_hybrid  # noqa: F401 - registers it
    separate_text = cfg.pop("custom_text", False)
    if name := text_cfg.get("hf_model_name"):
        text_cfg["hf_model_pretrained"] = False
        separate_text = True
        _require_no_code(name)
    model = (CustomTextCLIP if separate_text else CLIP)(**cfg)
    if react_cfg.get("enabled"):
        add_gated_blocks(model, react_cfg["last_k_layers"])
    for entry in added:
        method: Any = METHODS.get(entry["method"])
        if method is None:
            raise InputError(
                f"it has modules of the method {entry['method']!r}, which no installed extension "
                "brings; install the package that does"
            )
        method.reattach(model, entry["record"])
    return model


def _require_no_code(name: str) -> None:
    """Refuse a text tower of transformers that needs code from elsewhere; open_clip, which reads it
    once more, would ask on the terminal whether to run it.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except ValueError as error:
        raise InputError(f"{name}: asks for code of its own, which is never run") from error
    if "/" in str(config._attn_implementation):
        raise InputError(f"{name}: _attn_implementation: is code of the Hub, which is never run")


def _tokenizer(text_cfg: dict[str, Any]) -> Callable[[list[str]], Tensor]:
    options = dict(text_cfg.get("tokenizer_kwargs") or {})
    options["context_length"] = text_cfg.get(
        "context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH
    )
    if name := text_cfg.get("hf_tokenizer_name"):
        return open_clip.tokenizer.HFTokenizer(name, trust_remote_code=False, **options)
    return _simple_tokenizer(**options)


_simple_tokenizer = cache(open_clip.SimpleTokenizer)
