"""Built encoders: CLIPs that an extension makes, in place of weights that are loaded.

Does not belong here: any of them, publishing one (`base`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from react_pipeline.settings import encoders

if TYPE_CHECKING:
    from torch import nn


Architecture = tuple[dict[str, Any], dict[str, Any], Path]
"""open_clip's model and preprocessing configurations, and the tokenizer's local folder, whose name
is what `hf_model_name` and `hf_tokenizer_name` say.
"""


class BuiltEncoder:
    """An encoder that `encoder: {model: NAME}` names. Heavy imports are inside its methods.

    Attributes:
        name: As `model` in pipeline.yaml.
        image_tower: timm's name of an architecture that `register` adds; "" if it adds none.
        encoded_texts: Texts that it encodes while it is built, for `plan`.
    """

    name: ClassVar[str]
    image_tower: ClassVar[str] = ""
    encoded_texts: ClassVar[int] = 0

    def packages(self) -> Mapping[str, str]:
        """Return its identity: versions of the packages that it is made from.

        Raises:
            InputError: Naming the packages that are missing.
        """
        raise NotImplementedError

    def architecture(self) -> Architecture:
        """Return what it is, without weights; errors as of `packages`."""
        raise NotImplementedError

    def build(self) -> tuple[nn.Module, dict[str, Any], dict[str, Any], Path]:
        """Build the model in eval mode, and its architecture; equal packages give equal weights."""
        raise NotImplementedError

    def register(self) -> None:
        """Make `image_tower` known to timm."""

    def ingredients(self) -> tuple[tuple[str, str, str], ...]:
        """Packages that it is made of, for the card of a model: name, what of it, licence."""
        return ()


def encoder_of_tower(image_tower: str | None) -> BuiltEncoder | None:
    """Return the encoder that brings an image tower of timm; None for towers of timm itself."""
    if not image_tower:
        return None
    return next((one for one in encoders().values() if one.image_tower == image_tower), None)
