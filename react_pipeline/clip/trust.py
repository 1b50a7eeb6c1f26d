"""What a checkpoint may ask of the libraries that build it: files of its own folder, never code.

open_clip hands fields of a checkpoint's configuration on to transformers and timm, and some of
these load and run Python files, or fetch other models. They are refused here, before any of these
libraries sees them.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from react_pipeline.store import InputError, read_json_bounded

MAX_FILE_BYTES = 64 << 20
"""Of a JSON file of a text tower; the largest tokenizers have half."""

TOKENIZER_OPTIONS: dict[str, type] = {"clean": str, "language": str, "strip_sep_token": bool}
"""What `tokenizer_kwargs` may hold, as open_clip's own configurations use it; the rest would reach
transformers.
"""

_REGISTERED_NAME = re.compile(r"[A-Za-z0-9_.-]+")
"""A name that timm looks up in its registry; with `:` or `/` it is a place (`hf-hub:`,
`local-dir:`).
"""


def require_allowed(model_cfg: Mapping[str, Any], file: Path) -> None:
    """Refuse a `model_cfg` with tokenizer options beyond `TOKENIZER_OPTIONS`, or a timm model that
    is not timm's own.

    Raises:
        InputError: Naming `file`, the field, and what is allowed.
    """
    options = model_cfg["text_cfg"].get("tokenizer_kwargs") or {}
    where = f"{file}: model_cfg.text_cfg.tokenizer_kwargs"
    if not isinstance(options, dict):
        raise InputError(f"{where}: is not a mapping")
    for name, value in options.items():
        if name not in TOKENIZER_OPTIONS:
            raise InputError(
                f"{where}.{name}: not allowed, for it could run code; allowed: "
                f"{', '.join(TOKENIZER_OPTIONS)}"
            )
        if value is not None and not isinstance(value, TOKENIZER_OPTIONS[name]):
            raise InputError(f"{where}.{name}: must be of type {TOKENIZER_OPTIONS[name].__name__}")
    name = model_cfg["vision_cfg"].get("timm_model_name")
    if name is not None and not (isinstance(name, str) and _REGISTERED_NAME.fullmatch(name)):
        raise InputError(
            f"{file}: model_cfg.vision_cfg.timm_model_name: {name!r} is not in timm's registry; "
            "models of other folders and of the Hub are refused"
        )


def text_folder(directory: Path, name: Any, field: str, files: tuple[str, ...]) -> Path:
    """Return the folder with a part of a text tower that comes from transformers, inside a
    checkpoint folder.

    A folder of the Hub names its tokenizer and text tower by their place on the Hub and often holds
    their files itself.

    Args:
        name: What its configuration says: a folder inside it, or a name of the Hub.
        field: Where it says so, for the error.
        files: Any of these is the part, if it is in `text/` or in the folder itself.

    Returns:
        An absolute path, so that no library takes it for a Hub name.

    Raises:
        InputError: If the folder does not hold them, or a JSON file in it names code to run
            (`auto_map`).
    """
    root = directory.resolve()
    places = [str(name)]
    if not (root / str(name)).is_dir():
        places = [
            place
            for place in ("text", ".")
            if any((root / place / file).is_file() for file in files)
        ]
    if not places:
        raise InputError(
            f"{directory}: {field}: {name!r} is not a folder inside this checkpoint folder, which "
            f"holds none of {', '.join(files)} itself; get these files from where that is and put "
            f"them into {directory / 'text'}"
        )
    folder = (root / places[0]).resolve()
    if not folder.is_relative_to(root):
        raise InputError(
            f"{directory}: {field}: {name!r} is not a folder inside this checkpoint folder"
        )
    for path in sorted(folder.rglob("*.json")):
        try:
            read_json_bounded(path, MAX_FILE_BYTES, object_hook=_refuse_code)
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: {error}") from error
    return folder


def _refuse_code(fields: dict[str, Any]) -> dict[str, Any]:
    # In a vocabulary it may be a token, whose value is a number.
    if isinstance(fields.get("auto_map"), (dict, list)):
        raise ValueError(
            "auto_map: names code of the checkpoint, which is never run; remove it if it is not "
            "needed"
        )
    return fields


def require_known_text_tower(name: str) -> None:
    """Refuse a text tower of transformers that open_clip does not know, or that needs code from
    elsewhere.

    It is named by an absolute path, or by a Hub name that open_clip's own list holds.

    Raises:
        InputError: Naming the tower and the field of its configuration.
    """
    from open_clip.hf_configs import arch_dict
    from transformers import AutoConfig

    try:
        # open_clip, which reads it once more, leaves this to a question on the terminal.
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:
        raise InputError(f"the text tower {name!r} cannot be loaded: {error}") from error
    if config.model_type not in arch_dict:
        raise InputError(
            f"{name}: model_type: {config.model_type!r} is none that open_clip knows "
            f"({', '.join(arch_dict)})"
        )
    if getattr(config, "auto_map", None):
        raise InputError(f"{name}: auto_map: names code of the checkpoint, which is never run")
    if "/" in str(config._attn_implementation):
        raise InputError(
            f"{name}: _attn_implementation: {config._attn_implementation!r} is code of the Hub, "
            "never run"
        )
