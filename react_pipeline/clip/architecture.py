"""The files of a checkpoint folder: the configuration that `open_clip_config.json` records, limits
of what it may ask for (files of its own, never code), and the weights.

open_clip hands fields of a checkpoint's configuration on to transformers and timm, and some of
these load and run Python files, or fetch other models. They are refused here, before any of these
libraries sees them. Does not belong here: building or saving a model (`model`).
"""

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from react_pipeline.store import InputError, read_json_bounded

CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"
FOREIGN_WEIGHTS_FILE = "open_clip_pytorch_model.bin"
"""The weights in a folder of the Hub that has no safetensors."""

GATED_PREFIX = "react_"
"""The prefix before open_clip's name in REACT's names of architectures with gated blocks."""

MAX_CONFIG_BYTES = 1 << 20
MAX_JSON_BYTES = 64 << 20
"""The largest JSON file of a text tower; the largest tokenizers have half."""

_MAX_SIZES = {
    "image_size": 4_096,
    "context_length": 8_192,
    "vocab_size": 1 << 21,
    "width": 1 << 14,
    "layers": 1_000,
}
"""The largest published models have less than half of each."""
_MAX_PATCHES_A_SIDE = 128

_TOKENIZER_OPTIONS = frozenset({"clean", "language", "strip_sep_token"})
"""Options that `tokenizer_kwargs` may hold, as open_clip's own configurations use them; the rest
would reach transformers.
"""

_REGISTERED_NAME = re.compile(r"[A-Za-z0-9_.-]*")
"""A name that timm looks up in its registry; with `:` or `/` it is a place (`hf-hub:`,
`local-dir:`).
"""


def read_config(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read `model_cfg` and `preprocess_cfg` of a checkpoint folder, as they are written.

    Raises:
        InputError: If the directory holds no such file, or another one, or one with a field that
            could run code or fill the memory.
    """
    file = directory / CONFIG_FILE
    try:
        config = read_json_bounded(file, MAX_CONFIG_BYTES)
        model_cfg = dict(config["model_cfg"])
        preprocess_cfg = dict(config["preprocess_cfg"])
        for part in ("vision_cfg", "text_cfg"):
            model_cfg[part] = dict(model_cfg[part])
        model_cfg["embed_dim"] = int(model_cfg["embed_dim"])
        problem = next(_problems(model_cfg), "")
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise InputError(f"{file}: not an open_clip checkpoint folder ({error})") from error
    if problem:
        raise InputError(f"{file}: model_cfg.{problem}")
    return model_cfg, preprocess_cfg


def find_weights(directory: Path) -> Path:
    """Return the file with the weights of a checkpoint folder; an InputError if it has none."""
    for name in (WEIGHTS_FILE, FOREIGN_WEIGHTS_FILE):
        if (directory / name).is_file():
            return directory / name
    raise InputError(f"{directory}: holds no {WEIGHTS_FILE}; other weights are not read")


def _problems(model_cfg: dict[str, Any]) -> Iterator[str]:
    """Yield what must not reach open_clip: options and places that could run code, and sizes of
    what is made before `weights.at_most` sees it.
    """
    vision_cfg, text_cfg = model_cfg["vision_cfg"], model_cfg["text_cfg"]
    for name in {*(text_cfg.get("tokenizer_kwargs") or ())} - _TOKENIZER_OPTIONS:
        yield (
            f"text_cfg.tokenizer_kwargs.{name}: not allowed, for it could run code; allowed: "
            f"{', '.join(sorted(_TOKENIZER_OPTIONS))}"
        )
    name = vision_cfg.get("timm_model_name") or ""
    if not _REGISTERED_NAME.fullmatch(name):
        yield (
            f"vision_cfg.timm_model_name: {name!r} is not in timm's registry; models of other "
            "folders and of the Hub are refused"
        )
    for tower, (field, limit) in product(("vision_cfg", "text_cfg"), _MAX_SIZES.items()):
        for value in _listed(model_cfg[tower].get(field) or 0):
            if not isinstance(value, int) or value > limit:
                yield f"{tower}.{field}: {value!r}, allowed are whole numbers up to {limit:,}"
    sides, patch = (
        _listed(vision_cfg.get(field) or usual)
        for field, usual in (("image_size", 224), ("patch_size", 16))
    )
    if max(sides) // max(1, min(patch)) > _MAX_PATCHES_A_SIDE:
        yield f"vision_cfg.patch_size: {patch}, allowed are {_MAX_PATCHES_A_SIDE} patches a side"


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def text_folder(directory: Path, field: str, files: tuple[str, ...]) -> Path:
    """Return the folder with a part of a text tower that comes from transformers: `text/` of a
    checkpoint folder, or that folder itself.

    A folder of the Hub names its tokenizer and text tower by their place on the Hub and often holds
    their files itself.

    Args:
        field: What of the configuration names it, for the error.
        files: Any of these is the part.

    Returns:
        An absolute path, so that no library takes it for a Hub name.

    Raises:
        InputError: If the folder does not hold them.
    """
    root = directory.resolve()
    for folder in ((root / "text").resolve(), root):
        if folder.is_relative_to(root) and any((folder / file).is_file() for file in files):
            for file in folder.rglob("*.json"):  # transformers reads them whole
                try:
                    read_json_bounded(file, MAX_JSON_BYTES)
                except (OSError, ValueError) as error:
                    raise InputError(f"{file}: cannot be read as JSON ({error})") from error
            return folder
    raise InputError(
        f"{directory}: {field}: this checkpoint folder holds none of {', '.join(files)}; put "
        f"these files into {directory / 'text'}"
    )
