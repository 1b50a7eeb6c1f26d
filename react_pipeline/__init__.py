"""REACT as a library: class names in, a customized CLIP out.

Every step reads published artifacts and a frozen configuration and publishes one artifact;
`assets/` wraps each step as a Dagster asset. Nothing here imports dagster, only the room `tracking`
imports mlflow, and importing this package loads no torch.
"""

from typing import TYPE_CHECKING

import lazy_loader  # type: ignore[import-untyped]

__version__ = "0.1.0"

if TYPE_CHECKING:
    from react_pipeline.use import Classifier as Classifier

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"use": ["Classifier"]})
