"""Methods by name, as tests of models use them."""

from __future__ import annotations

from typing import Any

from react_pipeline.settings.methods import METHODS
from react_pipeline.settings.training import TrainingConfig
from react_pipeline.training.methods import ModelMethod


def model_method(name: str) -> ModelMethod:
    """The method, which trains a part of the model."""
    method = METHODS[name]
    assert isinstance(method, ModelMethod)
    return method


def attach(model: Any, name: str, last_k_layers: int) -> None:
    """Add the method's new modules."""
    model_method(name).attach(model, TrainingConfig(last_k_layers=last_k_layers))


def set_trainable(model: Any, name: str) -> int:
    """Freeze what the method does not train; how many parameters train."""
    return model_method(name).set_trainable(model)
