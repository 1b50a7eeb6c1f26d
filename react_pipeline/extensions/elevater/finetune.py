"""Fine-tuning: the image tower and a linear head train together, as ELEVATER does.

A trial encodes every image in every epoch, and trials run one after another, each on a fresh copy
of the tower. Does not belong here: the head (`head`), which trials to run (`sweep`), reading
images. Shapes: N images of H x W pixels, B of them in a batch, D width of the features, C classes.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from react_pipeline.clip import Clip
from react_pipeline.extensions.elevater.head import (
    BATCH_SIZE,
    MOMENTUM,
    NOT_FINITE,
    SEED,
    Head,
    batches,
    losses,
    record,
)
from react_pipeline.extensions.elevater.shots import Indices, Split
from react_pipeline.extensions.elevater.sweep import Adaptation, Curve, Trial, adapt


@dataclass(frozen=True)
class ImageExamples:
    """Images with labels.

    Attributes:
        read: The number of an image to its preprocessed tensor (3, H, W), float32; the same each
            time.
        labels: Class ids (N,), int64, or indicators (N, C) for multilabel data.
        numbers: What `read` is called with, for each label; 0 to N - 1 if None.
        workers: Processes that read images ahead; 0 reads in this process.
    """

    read: Callable[[int], Tensor]
    labels: Tensor
    numbers: Indices | None = None
    workers: int = 0

    def subset(self, indices: Indices) -> Self:
        """The examples at `indices`, in that order."""
        numbers = indices if self.numbers is None else self.numbers[indices]
        return type(self)(self.read, self.labels[torch.from_numpy(indices)], numbers, self.workers)

    def loader(self, order: list[list[int]]) -> DataLoader[Tensor]:
        """The images of each batch of `order`, (B, 3, H, W)."""
        return DataLoader(self, batch_sampler=order, num_workers=self.workers)  # type: ignore[arg-type]

    def __getitem__(self, position: int) -> Tensor:
        return self.read(position if self.numbers is None else int(self.numbers[position]))


def fine_tune(
    clip: Clip,
    train: ImageExamples,
    test: ImageExamples,
    head: Head,
    split: Split,
    metric: str,
) -> Adaptation:
    """Search and fine-tune: `sweep.adapt`. The head is for features of width D; the given model is
    never changed.
    """

    def train_trials(
        train: ImageExamples, evaluation: ImageExamples, trials: list[Trial], **how: Any
    ) -> list[Curve]:
        return [
            train_tower(clip, train, evaluation, head, trial, metric, **how) for trial in trials
        ]

    return adapt(train_trials, train, test, split)


def train_tower(
    clip: Clip,
    train: ImageExamples,
    evaluation: ImageExamples,
    head: Head,
    trial: Trial,
    metric: str,
    *,
    epochs: int,
    keep_probabilities: bool = False,
) -> Curve:
    """Train a fresh copy of the tower, batch normalisation without scale and shift, and a head;
    measure each epoch.

    SGD with momentum at a constant learning rate, weight decay on everything that trains; the order
    of the batches is that of `probe.train_heads`. The tower is in training mode, as in the
    benchmark: a ResNet's batch statistics move.
    """
    visual = deepcopy(clip.model.visual).requires_grad_(True)
    n_classes, width = head.weight.shape
    linear = nn.Linear(width, n_classes)
    linear.load_state_dict({"weight": head.weight, "bias": head.bias})
    model = nn.Sequential(visual, nn.BatchNorm1d(width, affine=False), linear).to(clip.device)
    optimizer = torch.optim.SGD(
        model.parameters(), trial.learning_rate, MOMENTUM, weight_decay=trial.weight_decay
    )
    curve = Curve(trial, n_trainable=sum(parameter.numel() for parameter in model.parameters()))
    generator = torch.Generator().manual_seed(SEED)
    with torch.random.fork_rng():
        # Dropout of the tower, if it has any.
        torch.manual_seed(SEED)
        for _ in range(epochs):
            if not _epoch(model, optimizer, train, generator):
                curve.failure = NOT_FINITE
                break
            logits = _logits(model, evaluation)
            if not record(
                curve, logits, evaluation.labels, metric, keep_probabilities=keep_probabilities
            ):
                break
    return curve


def _epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    train: ImageExamples,
    generator: torch.Generator,
) -> bool:
    """Train for one epoch; False if the loss overflowed."""
    model.train()
    device = next(model.parameters()).device
    order = [batch.tolist() for batch in batches(len(train.labels), generator)]
    for numbers, images in zip(order, train.loader(order), strict=True):
        logits = model(images.to(device))
        loss = losses(logits[:, None], train.labels[numbers].to(device)).sum()
        if not torch.isfinite(loss):
            return False
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return True


@torch.inference_mode()
def _logits(model: nn.Module, examples: ImageExamples) -> Tensor:
    model.eval()
    device = next(model.parameters()).device
    count = len(examples.labels)
    order = [
        list(range(start, min(start + BATCH_SIZE, count))) for start in range(0, count, BATCH_SIZE)
    ]
    return torch.cat([model(images.to(device)) for images in examples.loader(order)])
