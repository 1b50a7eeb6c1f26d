"""What `plan` gives a method about a training, and what the method answers.

Does not belong here: how seconds are measured (an extension does).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from react_pipeline.settings import TrainingConfig

if TYPE_CHECKING:
    from react_pipeline.training.methods.model_method import ModelMethod


@dataclass(frozen=True)
class PlannedTraining:
    """What decides the cost of one training; seconds are those of one core.

    Attributes:
        pairs: That it is trained on.
        names: Prompts of the zero-shot head.
        prompts: Of all names and synonyms.
        dimension: Of the encoder's vectors.
        weights_bytes: Of the encoder.
        text_seconds: To encode a text.
        model_seconds: Measures the training of a method that sees so many different texts.
        head_step_seconds: Measures a step of a linear head.
    """

    training: TrainingConfig
    pairs: int
    classes: int
    names: int
    prompts: int
    dimension: int
    weights_bytes: float
    text_seconds: float
    model_seconds: Callable[[ModelMethod, int], float]
    head_step_seconds: Callable[[], float]


@dataclass(frozen=True)
class CheckpointCost:
    """Processor seconds in towers, which a GPU is faster at, and of one core alone; bytes
    on disk.
    """

    towers: float
    disk: float
    alone: float = 0
