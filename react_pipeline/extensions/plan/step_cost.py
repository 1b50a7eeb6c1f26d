"""What a training costs on this processor: steps measured on a few images, and the sums of a whole
training.

Does not belong here: the other steps of a pipeline (`sums`). Shapes: C classes, D embedding
dimension.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch

from react_pipeline.clip import (
    Clip,
    ImageTower,
    encode_text,
    text_lengths,
    trains_images,
    trains_text,
)
from react_pipeline.embedding import CPU_IMAGES
from react_pipeline.extensions.plan.encoder_cost import core_seconds
from react_pipeline.extensions.plan.encoding_cost import EncodingCost
from react_pipeline.extensions.plan.index_cost import OPERATIONS_PER_SECOND
from react_pipeline.settings import TrainingConfig
from react_pipeline.training import ModelMethod, may_keep

HEAD_CALLS_SECONDS, HEAD_STEP_OPERATIONS = 1e-3, 9.0
"""Seconds of the calls of a linear head's step, and operations per sample, class and dimension:
within a quarter of what a Xeon with bf16 takes for 10 to 1,000 classes.
"""


@dataclass(frozen=True)
class StepCost:
    """Processor seconds of one core: for an image its frozen part and its part of a step, and a
    text in a step.

    Attributes:
        splits: Whether the frozen part may be kept.
        text: 0 where the text tower is frozen.
    """

    frozen: float
    image: float
    text: float
    splits: bool

    @classmethod
    def measured(
        cls, clip: Clip, method: ModelMethod, training: TrainingConfig, precision: str
    ) -> "StepCost":
        """Take steps of a method with a copy of the model."""
        model: Any = deepcopy(clip.model)
        method.attach(model, training)
        method.set_trainable(model)
        bf16 = precision == "bf16"
        tower = ImageTower(model) if trains_images(model) else None
        if tower is not None and bf16:
            tower.use_bf16("cpu")
        splits = tower is None or tower.splits
        size = clip.preprocess_cfg["size"]
        images = torch.zeros(CPU_IMAGES, 3, *((size, size) if isinstance(size, int) else size))
        tokens = clip.tokenizer(
            [f"a photo of a bird, number {number} of many" for number in range(CPU_IMAGES)]
        )
        tokens = tokens[:, : int(text_lengths(model, tokens).max())]
        optimizer = torch.optim.AdamW(
            [weight for weight in model.parameters() if weight.requires_grad], fused=True
        )

        @torch.no_grad()
        def frozen(count: int) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16 and tower is not None):
                return (
                    model.encode_image(images[:count])
                    if tower is None
                    else tower.tokens(images[:count])
                )

        def step(features: Any) -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = features()
            loss.float().square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()

        image = text = 0.0
        if tower is not None:
            inputs = frozen(CPU_IMAGES).float() if splits else images
            run = tower.features if splits else tower
            image = core_seconds(lambda count: step(lambda: run(inputs[:count])), CPU_IMAGES)
        if trains_text(model):
            text = core_seconds(
                lambda count: step(lambda: encode_text(model, tokens[:count])), CPU_IMAGES
            )
        return cls(core_seconds(frozen, CPU_IMAGES) if splits else 0.0, image, text, splits)

    def seconds(
        self, training: TrainingConfig, encoding: EncodingCost, pairs: int, texts: int
    ) -> float:
        """Processor seconds of a whole training, on one core.

        Args:
            training: Its length, and whether what is frozen is computed once an image or at each
                step.
            encoding: Of the base, for what is encoded once.
            pairs: That it is trained on.
            texts: Different ones, if prompts are among them.
        """
        images = training.images(lambda: pairs)
        once = may_keep(training, splits=self.splits)
        prepared = pairs * max(1, training.views) if once else images
        text = images * self.text if self.text else texts * encoding.text
        return (
            prepared * (encoding.prepare + self.frozen)
            + images * self.image
            + text
            + encoding.start
        )


def head_step_seconds(dimension: int, classes: int, batch_size: int) -> float:
    """Processor seconds of one step of a linear head (D, C)."""
    operations = HEAD_STEP_OPERATIONS * batch_size * dimension * classes
    return HEAD_CALLS_SECONDS + operations / OPERATIONS_PER_SECOND["fp32"]
