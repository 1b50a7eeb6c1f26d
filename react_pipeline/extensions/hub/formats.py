"""The forms of a model that an exported folder may have beside open_clip's, a row each.

Does not belong here: how one is written (the module of its name).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from react_pipeline.extensions.hub.exported_folder import ModelForm
from react_pipeline.project import Project
from react_pipeline.settings import DomainConfig
from react_pipeline.store import Artifact


@dataclass(frozen=True)
class Exported:
    """What a format is made from.

    Attributes:
        folder: Holds the model and its class vectors, and gets further files.
        domain: Classes and prompts that the model was trained for.
        loading: How the folder is read.
    """

    project: Project
    checkpoint: Artifact
    folder: Path
    domain: DomainConfig
    loading: ModelForm


Facts = dict[str, Any]
"""What was measured of a format: it is in `export.json` and on the card."""


def _onnx(exported: Exported) -> Facts:
    from react_pipeline.extensions.hub.onnx_model import ONNX_FILE, write_onnx

    return {"difference": write_onnx(exported.folder, exported.folder / ONNX_FILE)}


def _int8(exported: Exported) -> Facts:
    from react_pipeline.extensions.hub.int8_model import write_int8

    return write_int8(exported)


def _space(exported: Exported) -> Facts:
    from react_pipeline.extensions.hub.space import write_space

    return write_space(exported)


FORMATS: Mapping[str, Callable[[Exported], Facts]] = {
    "onnx": _onnx,
    "onnx-int8": _int8,
    "space": _space,
}
"""What writes each, by the name that `--format` takes."""
