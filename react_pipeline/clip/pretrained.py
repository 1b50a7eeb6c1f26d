"""Pretrained: the CLIP that a configuration names, made of a folder, a checkpoint file, or a tag of
open_clip.

Does not belong here: our own checkpoints (`model`), fetching from the Hub (`base`).
"""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
from open_clip.transform import PreprocessCfg, merge_preprocess_dict

from react_pipeline.clip.architecture import GATED_PREFIX
from react_pipeline.clip.availability import require_available
from react_pipeline.clip.hub import reach_hub
from react_pipeline.clip.model import Clip, build, load, placed
from react_pipeline.clip.weights import at_most, load_strictly, read_weights
from react_pipeline.settings import EncoderConfig
from react_pipeline.store import InputError

logger = logging.getLogger(__name__)

_PREPARED = ("mean", "std", "resize_mode")
"""How images are prepared: fields of the configuration and of open_clip's `preprocess_cfg` alike.
"""


def from_open_clip(encoder: EncoderConfig, device: str = "cpu") -> Clip:
    """Load what `encoder` names: a folder in open_clip's form, a checkpoint file, or a pretrained
    tag of open_clip.

    A state dict may be bare or under `state_dict`, with or without `module.` prefixes; gated blocks
    in it are found by their names, so REACT's released checkpoints load strictly. A folder records
    architecture, activation and normalisation itself; they must not be configured in addition.

    Raises:
        InputError: If the architecture or tag is unknown, the file unreadable, or the weights do
            not fit; if what a folder records is configured.
    """
    require_available(encoder)
    path = Path(str(encoder.pretrained))
    name = encoder.model.removeprefix(GATED_PREFIX)
    if path.is_dir():
        return load(path, device, foreign=True)
    model_cfg = open_clip.get_model_config(name)
    tag_cfg = open_clip.get_pretrained_cfg(name, encoder.pretrained) or {}
    quick_gelu = tag_cfg.get("quick_gelu") if encoder.quick_gelu is None else encoder.quick_gelu
    if quick_gelu is not None:
        model_cfg["quick_gelu"] = quick_gelu
    preprocess_cfg = asdict(PreprocessCfg())
    configured = {field: getattr(encoder, field) for field in _PREPARED}
    for fields in (tag_cfg or _common_to_tags(name), configured):  # without what is None
        preprocess_cfg = merge_preprocess_dict(preprocess_cfg, fields)
    if path.is_file():
        _warn_of_what_is_assumed(encoder, path, {**preprocess_cfg, **model_cfg})
    else:
        with reach_hub() as unreachable:
            try:
                path = Path(open_clip.download_pretrained(tag_cfg))
            except Exception as error:
                raise InputError(
                    f"encoder.pretrained: {name}/{encoder.pretrained} cannot be fetched: "
                    f"{unreachable or error}; connect this machine, or give the path of a local "
                    "checkpoint"
                ) from error
    try:
        weights = read_weights(path)
    except InputError as error:
        raise InputError(f"encoder.pretrained: {error}") from error
    layers = {key.split(".gated_attn_block.")[0] for key in weights if ".gated_attn_block." in key}
    if encoder.model.startswith(GATED_PREFIX) and not layers:
        raise InputError(
            f"{path}: holds no gated blocks, and encoder.model is {encoder.model!r}; use {name!r}"
        )
    if layers:
        model_cfg["vision_cfg"]["react_cfg"] = {"enabled": True, "last_k_layers": len(layers)}
    with at_most(weights):
        clip = build(model_cfg, preprocess_cfg)
    load_strictly(clip.model, weights, path)
    return placed(clip, device)


def _common_to_tags(name: str) -> dict[str, Any]:
    """Return how open_clip prepares images for this architecture, as far as it is the same for all
    weights it knows.
    """
    tags = [
        open_clip.get_pretrained_cfg(name, tag)
        for tag in open_clip.list_pretrained_tags_by_model(name)
    ]
    first = tags[0] if tags else {}
    fields = [field for field in (*_PREPARED, "interpolation") if field in first]
    return {f: first[f] for f in fields if all(tag.get(f) == first[f] for tag in tags)}


def _warn_of_what_is_assumed(encoder: EncoderConfig, path: Path, used: dict[str, Any]) -> None:
    # A name such as ViT-B-32-quickgelu implies the activation too; nearly all models cut the middle
    # out of an image.
    assumed = {"quick_gelu": True, "resize_mode": PreprocessCfg().resize_mode}
    for field in ("quick_gelu", *_PREPARED):
        value = used.get(field, False)
        is_usual = field in assumed and value == assumed[field]
        if getattr(encoder, field) is None and not is_usual:
            logger.warning(
                f"{path}: a checkpoint file does not record its {field}; {value} is assumed. Set "
                f"encoder.{field} if that is wrong"
            )
