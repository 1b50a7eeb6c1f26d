"""What a checkpoint folder records in `open_clip_config.json`, compared with the configuration.

Does not belong here: building or saving a model (`model`), its weights (`weights`).
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from open_clip.transform import PreprocessCfg

from react_pipeline.clip.trust import require_allowed
from react_pipeline.settings import EncoderConfig, encoders
from react_pipeline.store import InputError, read_json_bounded

CONFIG_FILE = "open_clip_config.json"

GATED_PREFIX = "react_"
"""The prefix before open_clip's name in REACT's names of architectures with gated blocks."""

_TOWERS = {"vision_cfg": asdict(CLIPVisionCfg()), "text_cfg": asdict(CLIPTextCfg())}
_NO_ARCHITECTURE = frozenset(
    {
        "patch_dropout",
        "timm_drop",
        "timm_drop_path",
        "output_tokens",
        "timm_model_pretrained",
        "hf_model_pretrained",
        "hf_model_name",
        "hf_tokenizer_name",
        "tokenizer_kwargs",
    }
)
"""Fields of a tower that act in training alone, or that name a place; in a saved folder the latter
is the folder.
"""

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


def require_as_configured(encoder: EncoderConfig, directory: Path) -> None:
    """Refuse a checkpoint folder that contradicts the configuration; fields that are not set are
    not compared.

    Raises:
        InputError: If the folder is not a checkpoint; or naming each field of `encoder` that
            differs, with both values.
    """
    model_cfg, preprocess_cfg = read_config(directory)
    problems = []
    if "model" in encoder.model_fields_set:  # else it is the default of the field
        problem = _problem_of_name(encoder, model_cfg)
        if problem:
            problems.append(f"encoder.model is {encoder.model!r}, {problem}")
    for field, value in _recorded(model_cfg, preprocess_cfg).items():
        configured = _plain(getattr(encoder, field))
        recorded = _plain(value)
        if configured is not None and configured != recorded:
            problems.append(f"encoder.{field} is {configured}, and the folder's is {recorded}")
    if problems:
        raise InputError(
            f"encoder.pretrained: {directory} records its own architecture, activation and "
            f"normalisation, and the configuration says otherwise: {'; '.join(problems)}. Remove "
            "what differs, or name the checkpoint meant"
        )


def _problem_of_name(encoder: EncoderConfig, model_cfg: Mapping[str, Any]) -> str:
    """Return why a folder's architecture is not the one that is configured; empty if it is."""
    named = open_clip.get_model_config(encoder.model.removeprefix(GATED_PREFIX))
    if named is None:
        return f"unknown to open_clip, and the folder's has {description(model_cfg)}"
    if changes := differences(model_cfg, named):
        return f"and the folder's has {', '.join(changes[:3])}"
    if named.get("quick_gelu") and not model_cfg.get("quick_gelu") and encoder.quick_gelu is None:
        return "which has QuickGELU, and the folder's has not"
    if encoder.model.startswith(GATED_PREFIX) and not model_cfg["vision_cfg"].get("react_cfg"):
        return "and the folder's has no gated blocks"
    return ""


def differences(model_cfg: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return the fields in which two of open_clip's architectures differ, with the values of both;
    none: the same one.

    Activation, gated blocks, and which text tower of transformers it is are not compared.
    """
    mine = _flat(model_cfg)
    theirs = _flat(other)
    fields = [name for name in mine if mine[name] != theirs[name]]
    return [f"{name} {mine[name]} instead of {theirs[name]}" for name in fields]


def description(model_cfg: Mapping[str, Any]) -> str:
    """Return an architecture that has no name: the fields that open_clip has no default for."""
    own = _flat(model_cfg)
    defaults = _flat({"embed_dim": 0, "vision_cfg": {}, "text_cfg": {}})
    return ", ".join(f"{name} {own[name]}" for name in own if own[name] != defaults[name])


def encoder_fields(encoder: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Return what a published base checkpoint is: fields as `EncoderConfig` has them, as its folder
    says.

    Args:
        encoder: What the configuration said when it was published. Its `model` is kept where the
            folder's architecture is open_clip's of that name, or is built.

    Raises:
        InputError: If the directory is not a checkpoint folder.
    """
    if encoder["model"] in encoders():
        return dict(encoder)
    model_cfg, preprocess_cfg = read_config(directory)
    named = open_clip.get_model_config(encoder["model"].removeprefix(GATED_PREFIX))
    fits = named is not None and not differences(model_cfg, named)
    return {
        "model": encoder["model"] if fits else description(model_cfg),
        "pretrained": encoder["pretrained"],
        **_recorded(model_cfg, preprocess_cfg),
    }


def _recorded(model_cfg: Mapping[str, Any], preprocess_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return activation and preparation of images, as fields of `EncoderConfig`."""
    prepared = {**asdict(PreprocessCfg()), **preprocess_cfg}
    return {
        "quick_gelu": bool(model_cfg.get("quick_gelu")),
        "mean": list(prepared["mean"]),
        "std": list(prepared["std"]),
        "resize_mode": prepared["resize_mode"],
    }


def _flat(model_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return every field of the architecture by its full name, with open_clip's defaults."""
    fields = {"embed_dim": model_cfg["embed_dim"]}
    for tower, defaults in _TOWERS.items():
        values = {**defaults, **model_cfg[tower]}
        for name in defaults:
            if name not in _NO_ARCHITECTURE:
                fields[f"{tower}.{name}"] = _plain(values[name])
        fields[f"{tower}.transformers"] = bool(values.get("hf_model_name"))
    return fields


def _plain(value: Any) -> Any:
    """Return one form for equivalent values: 224 and [224, 224], {} and None."""
    if isinstance(value, (list, tuple)):
        return value[0] if len(value) == 2 and value[0] == value[1] else list(value)
    return None if value == {} else value
