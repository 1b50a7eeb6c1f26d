"""What a checkpoint folder records in `open_clip_config.json`.

Does not belong here: building or saving a model (`model`), its weights (`weights`).
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
from open_clip.transform import PreprocessCfg

from react_pipeline.clip.trust import require_allowed
from react_pipeline.settings import encoders
from react_pipeline.store import InputError, read_json_bounded

CONFIG_FILE = "open_clip_config.json"

GATED_PREFIX = "react_"
"""The prefix before open_clip's name in REACT's names of architectures with gated blocks."""

MAX_CONFIG_BYTES = 1 << 20

_MAX_SIZES = {
    "image_size": 4_096,
    "context_length": 8_192,
    "vocab_size": 1 << 21,
    "width": 1 << 14,
    "layers": 1_000,
}
"""The largest published models have less than half of each."""
_MAX_PATCHES_A_SIDE = 128


def read_config(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read `model_cfg` and `preprocess_cfg` of a checkpoint folder, as they are written.

    Raises:
        InputError: If the directory holds no such file, or another one, or one with a field that
            could run code.
    """
    try:
        config = read_json_bounded(directory / CONFIG_FILE, MAX_CONFIG_BYTES)
        model_cfg = dict(config["model_cfg"])
        preprocess_cfg = dict(config["preprocess_cfg"])
        for part in ("vision_cfg", "text_cfg"):
            model_cfg[part] = dict(model_cfg[part])
        model_cfg["embed_dim"] = int(model_cfg["embed_dim"])
        for entry in model_cfg.get("added", ()):
            if not isinstance(entry["record"], dict) or not isinstance(entry["method"], str):
                raise ValueError("`added` is no list of methods and their records")
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise InputError(
            f"{directory / CONFIG_FILE}: not an open_clip checkpoint folder ({error})"
        ) from error
    require_allowed(model_cfg, directory / CONFIG_FILE)
    _require_sizes(model_cfg, directory / CONFIG_FILE)
    return model_cfg, preprocess_cfg


def _require_sizes(model_cfg: Mapping[str, Any], file: Path) -> None:
    """Refuse what is made before `at_most` sees it: positions of patches and tokens, lists of
    layers.
    """
    for tower in ("vision_cfg", "text_cfg"):
        for field, limit in _MAX_SIZES.items():
            values = model_cfg[tower].get(field) or 0
            for value in values if isinstance(values, list | tuple) else [values]:
                if not isinstance(value, int) or value > limit:
                    raise InputError(
                        f"{file}: {tower}.{field}: {value!r}, allowed are whole numbers up to "
                        f"{limit:,}"
                    )
    vision_cfg = model_cfg["vision_cfg"]
    sides, patch = (
        value if isinstance(value, list | tuple) else [value]
        for value in (vision_cfg.get("image_size") or 224, vision_cfg.get("patch_size") or 16)
    )
    if max(sides) // max(1, min(patch)) > _MAX_PATCHES_A_SIDE:
        raise InputError(
            f"{file}: vision_cfg.patch_size: {patch}, at most {_MAX_PATCHES_A_SIDE} patches a side "
            "are allowed"
        )


def encoder_fields(encoder: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Return what a published base checkpoint is: fields as `EncoderConfig` has them, as its folder
    says.

    Args:
        encoder: What the configuration said when it was published. Its `model` is kept where the
            folder's image tower is open_clip's of that name, or is built; else the tower is
            described.

    Raises:
        InputError: If the directory is not a checkpoint folder.
    """
    if encoder["model"] in encoders():
        return dict(encoder)
    model_cfg, preprocess_cfg = read_config(directory)
    tower = {n: value for n, value in model_cfg["vision_cfg"].items() if n != "react_cfg"}
    named = open_clip.get_model_config(encoder["model"].removeprefix(GATED_PREFIX))
    prepared = {**asdict(PreprocessCfg()), **preprocess_cfg}
    return {
        "model": encoder["model"]
        if named and named["vision_cfg"] == tower
        else ", ".join(f"vision_cfg.{name} {value}" for name, value in tower.items()),
        "pretrained": encoder["pretrained"],
        "quick_gelu": bool(model_cfg.get("quick_gelu")),
        "mean": list(prepared["mean"]),
        "std": list(prepared["std"]),
        "resize_mode": prepared["resize_mode"],
    }
