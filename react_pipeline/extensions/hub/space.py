"""A Space of the Hub: the folder with an app in it that labels pictures.

Does not belong here: the app, which is copied as it is (`app`).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from react_pipeline.extensions.hub.formats import Exported
from react_pipeline.store import InputError

APP_FILE, REQUIREMENTS_FILE = "app.py", "requirements.txt"
GRADIO = "6.31.0"
"""The version that the app was run with; a Space installs it."""

_REQUIREMENTS = ("open_clip_torch>=3,<4", "safetensors>=0.4.5", "torch>=2.6,<3")


def write_space(exported: Exported) -> dict[str, Any]:
    """Add `app.py` and `requirements.txt`, with which the folder is a Space.

    Raises:
        InputError: If the model loads only with this package, which a Space cannot install.
    """
    if exported.loading.registered is None:
        raise InputError(
            "--format space: open_clip cannot load this model, and a Space cannot install this "
            "package; leave the format out"
        )
    shutil.copyfile(Path(__file__).with_name(APP_FILE), exported.folder / APP_FILE)
    text_tower = ["transformers>=4.50,<6"] if exported.loading.from_inside else []
    lines = [*_REQUIREMENTS, *text_tower]
    (exported.folder / REQUIREMENTS_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"sdk": "gradio", "sdk_version": GRADIO, "app_file": APP_FILE}
