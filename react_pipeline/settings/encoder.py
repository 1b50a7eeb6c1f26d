"""Configuration of models that encode: `encoder:`, `retrieval_encoder:` and `embedding:`.

Does not belong here: loading a model (`clip`), encoding with it (`embedding`).
"""

import re
from typing import Any, Literal, Self

from pydantic import PositiveInt, ValidationInfo, field_validator, model_validator

from react_pipeline.settings.section import (
    Name,
    Section,
    Workers,
    absolute_path,
    count_workers,
)
from react_pipeline.settings.training import Precision

DEMO = "demo"
"""The model of the demo."""
HUB_PREFIX, FOLDER_PREFIX = "hf-hub:", "local-dir:"
"""Before a model of the Hugging Face Hub, and before a folder, as open_clip names them."""
_IS_PATH = re.compile(r"/|\.(pt|pth|bin|ckpt|safetensors)$")
"""No tag of open_clip looks so."""


class EncoderConfig(Section):
    """A CLIP: `encoder` is customized, and retrieves too unless `retrieval_encoder` does."""

    model: Name = "ViT-B-32"
    pretrained: str | None = None
    quick_gelu: bool | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    resize_mode: Literal["shortest", "longest", "squash"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _whole_models_are_weights(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        fields = dict(raw)
        if str(fields.get("model", "")).startswith((HUB_PREFIX, FOLDER_PREFIX)):
            if fields.get("pretrained") is not None:
                raise ValueError(
                    f"`model: {fields['model']}` has its own weights; remove `pretrained`"
                )
            fields["pretrained"] = fields.pop("model")
        if isinstance(name := fields.get("pretrained"), str):
            fields["pretrained"] = name.removeprefix(FOLDER_PREFIX)
        return fields

    @model_validator(mode="after")
    def _weights_are_named(self) -> Self:
        if bool(self.pretrained) == self.is_demo:
            raise ValueError(
                "`pretrained` must name a tag of open_clip, a checkpoint or hf-hub:organization/name, "
                f"and is left out for {DEMO}, made from installed packages"
            )
        return self

    @field_validator("pretrained")
    @classmethod
    def _checkpoint_is_absolute(cls, name: str | None, info: ValidationInfo) -> str | None:
        """Make the path of a checkpoint absolute; what names none stays."""
        if name and not name.startswith(HUB_PREFIX):
            checkpoint = absolute_path(info.context, name)
            if checkpoint.exists() or _IS_PATH.search(name):
                return str(checkpoint)
        return name

    @property
    def is_demo(self) -> bool:
        """Return whether it is built from installed packages (`extensions.demo`), not loaded."""
        return self.model == DEMO


class EmbeddingConfig(Section):
    """How images and texts become vectors. `encode` decides which there are, and `precision`
    changes them; the rest is speed.
    """

    encode: Literal["captions", "both"] | None = None
    precision: Precision = "auto"
    batch_size: PositiveInt = 256
    workers: Workers = "auto"

    @property
    def worker_count(self) -> int:
        """The decoding processes."""
        return count_workers(self.workers)
