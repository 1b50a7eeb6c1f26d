"""What a checkpoint folder records in `open_clip_config.json`, compared with the configuration.

Does not belong here: building or saving a model (`model`), its weights (`weights`).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import open_clip
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from open_clip.transform import PreprocessCfg

from react_pipeline.clip.trust import require_allowed
from react_pipeline.settings import EncoderConfig
from react_pipeline.store import InputError

CONFIG_FILE = "open_clip_config.json"

GATED_PREFIX = "react_"
"""REACT's names of architectures with gated blocks are open_clip's behind this."""

_TOWERS = {"vision_cfg": asdict(CLIPVisionCfg()), "text_cfg": asdict(CLIPTextCfg())}
_NO_ARCHITECTURE = frozenset(
    {
        *("patch_dropout", "timm_drop", "timm_drop_path"),
        *("output_tokens", "timm_model_pretrained", "hf_model_pretrained"),
        *("hf_model_name", "hf_tokenizer_name", "tokenizer_kwargs"),
    }
)
"""Fields of a tower that act in training alone, or that name a place; in a saved folder the latter
is the folder.
"""


def read_config(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read `model_cfg` and `preprocess_cfg` of a checkpoint folder, as they are written.

    Raises:
        InputError: If the directory holds no such file, or another one, or one with a field that
            could run code.
    """
    try:
        config = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
        model_cfg, preprocess_cfg = dict(config["model_cfg"]), dict(config["preprocess_cfg"])
        for part in ("vision_cfg", "text_cfg"):
            model_cfg[part] = dict(model_cfg[part])
        model_cfg["embed_dim"] = int(model_cfg["embed_dim"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{directory / CONFIG_FILE}: not an open_clip checkpoint folder ({error})"
        ) from error
    require_allowed(model_cfg, directory / CONFIG_FILE)
    return model_cfg, preprocess_cfg


def require_as_configured(encoder: EncoderConfig, directory: Path) -> None:
    """Refuse a checkpoint folder that contradicts the configuration; fields that are not given are
    not compared.

    Raises:
        InputError: If the folder is not a checkpoint; or naming each field of `encoder` that
            differs, with both values.
    """
    model_cfg, preprocess_cfg = read_config(directory)
    # An architecture that is not configured is the default of the field.
    problems = (
        list(_of_another_name(encoder, model_cfg)) if "model" in encoder.model_fields_set else []
    )
    for field, value in _recorded(model_cfg, preprocess_cfg).items():
        given, own = _plain(getattr(encoder, field)), _plain(value)
        if given is not None and given != own:
            problems.append(f"encoder.{field} is {given}, and the folder's is {own}")
    if problems:
        raise InputError(
            f"encoder.pretrained: {directory} records its own architecture, activation and "
            f"normalisation, and the configuration says otherwise: {'; '.join(problems)}. Remove "
            "what differs, or name the checkpoint meant"
        )


def _of_another_name(encoder: EncoderConfig, model_cfg: Mapping[str, Any]) -> Iterator[str]:
    name = encoder.model.removeprefix(GATED_PREFIX)
    known = open_clip.get_model_config(name)
    if known is None:
        yield f"encoder.model is {encoder.model!r}, unknown to open_clip, and the folder's has {description(model_cfg)}"
        return
    if found := differences(model_cfg, known):
        more = f", and {len(found) - 3} more" if len(found) > 3 else ""
        yield f"encoder.model is {encoder.model!r}, and the folder's has {', '.join(found[:3])}{more}"
    if known.get("quick_gelu") and not model_cfg.get("quick_gelu") and encoder.quick_gelu is None:
        yield f"encoder.model is {encoder.model!r}, which has QuickGELU, and the folder's has not"
    if encoder.model.startswith(GATED_PREFIX) and not model_cfg["vision_cfg"].get("react_cfg"):
        yield f"encoder.model is {encoder.model!r}, and the folder's has no gated blocks"


def differences(model_cfg: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The fields in which two of open_clip's architectures differ, with the values of both; none:
    the same one.

    Activation, gated blocks, and which text tower of transformers it is are not compared.
    """
    mine, others = _flat(model_cfg), _flat(other)
    return [
        f"{name} {value} instead of {others[name]}"
        for name, value in mine.items()
        if value != others[name]
    ]


def description(model_cfg: Mapping[str, Any]) -> str:
    """An architecture in words, for one that has no name."""
    vision, text = ({**_TOWERS[tower], **model_cfg[tower]} for tower in ("vision_cfg", "text_cfg"))
    images, texts = f"layers {vision['layers']}, width {vision['width']}", "of transformers"
    if vision["timm_model_name"]:
        images = f"{vision['timm_model_name']} of timm"
    elif not isinstance(vision["layers"], (list, tuple)):  # a ResNet has no patches
        images += f", patches of {vision['patch_size']}"
    if not text["hf_model_name"]:
        texts = f"layers {text['layers']}, width {text['width']}"
    return (
        f"image tower ({images}, images of {vision['image_size']} px), text tower ({texts}) and "
        f"vectors of {model_cfg['embed_dim']} numbers"
    )


def encoder_fields(encoder: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """What a published base checkpoint is: fields as `EncoderConfig` has them, as its folder says.

    Args:
        encoder: What the configuration said when it was published. Its `model` is kept where the
            folder's architecture is open_clip's of that name, or the demo's.

    Raises:
        InputError: If the directory is not a checkpoint folder.
    """
    if encoder["model"] == "demo":
        return dict(encoder)
    model_cfg, preprocess_cfg = read_config(directory)
    known = open_clip.get_model_config(encoder["model"].removeprefix(GATED_PREFIX))
    named = known is not None and not differences(model_cfg, known)
    name = encoder["model"] if named else description(model_cfg)
    return {
        "model": name,
        "pretrained": encoder["pretrained"],
        **_recorded(model_cfg, preprocess_cfg),
    }


def _recorded(model_cfg: Mapping[str, Any], preprocess_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Activation and preparation of images, as fields of `EncoderConfig`."""
    prepared = {**asdict(PreprocessCfg()), **preprocess_cfg}
    fields = {field: prepared[field] for field in ("mean", "std", "resize_mode")}
    fields = {
        field: list(value) if isinstance(value, tuple) else value for field, value in fields.items()
    }
    return {"quick_gelu": bool(model_cfg.get("quick_gelu")), **fields}


def _flat(model_cfg: Mapping[str, Any]) -> dict[str, Any]:
    fields = {"embed_dim": model_cfg["embed_dim"]}
    for tower, defaults in _TOWERS.items():
        values = {**defaults, **model_cfg[tower]}
        fields |= {
            f"{tower}.{name}": _plain(values[name])
            for name in defaults
            if name not in _NO_ARCHITECTURE
        }
        fields[f"{tower} of transformers"] = bool(values.get("hf_model_name"))
    return fields


def _plain(value: Any) -> Any:
    """One form for equivalent values: 224 and [224, 224], {} and None."""
    if isinstance(value, (list, tuple)):
        return value[0] if len(value) == 2 and value[0] == value[1] else list(value)
    return None if value == {} else value
