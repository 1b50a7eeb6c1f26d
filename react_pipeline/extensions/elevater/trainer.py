"""Training as ELEVATER does: a linear head on features, or the image tower and a head together.

Does not belong here: which trials to run (`sweep`), reading images. Shapes: N examples, B of them
in a batch, H x W pixels, D width of the features, C classes.
"""

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own short name
from torch.utils.data import DataLoader

from react_pipeline.clip import Clip, arithmetic

from .metrics import measure
from .shots import Indices
from .sweep import Curve, Trial

MOMENTUM, BATCH_SIZE, SEED = 0.9, 64, 0
"""Settings of SGD and its batches, as in the benchmark; their order is the same in each trial."""

NOT_FINITE = "values are not finite"
"""The failure of a trial whose weights or logits overflow: learning rate times weight decay is too
large.
"""


@dataclass(frozen=True)
class FeatureExamples:
    """Features with labels.

    Attributes:
        features: (N, D), float, as a head sees them.
        labels: Class ids (N,), int64, or indicators (N, C) for multilabel data.
    """

    features: Tensor
    labels: Tensor

    def subset(self, indices: Indices) -> Self:
        """Return the examples at `indices`, in that order."""
        places = torch.from_numpy(indices)
        return type(self)(self.features[places], self.labels[places])

    def inputs(self, order: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the features of each batch of `order`, (B, D)."""
        return (self.features[batch] for batch in order)


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
        """Return the examples at `indices`, in that order."""
        numbers = indices if self.numbers is None else self.numbers[indices]
        return type(self)(self.read, self.labels[torch.from_numpy(indices)], numbers, self.workers)

    def inputs(self, order: Iterable[Tensor]) -> DataLoader[Tensor]:
        """Load the images of each batch of `order`, (B, 3, H, W)."""
        numbers = [batch.tolist() for batch in order]
        return DataLoader(self, batch_sampler=numbers, num_workers=self.workers)  # type: ignore[arg-type]

    def __getitem__(self, position: int) -> Tensor:
        return self.read(position if self.numbers is None else int(self.numbers[position]))


@dataclass(frozen=True)
class Trainer:
    """Trains a fresh model for each trial, all from the same start and on the same batches.

    SGD with momentum at a constant learning rate; weight decay on everything that trains. Batch
    normalisation without scale and shift comes before the head. A tower is in training mode, as in
    the benchmark: a ResNet's batch statistics move.

    Attributes:
        start: The weight (C, D) that each head starts from: class vectors of the text tower. Its
            bias starts from 0.
        metric: What is measured after each epoch.
        clip: The model whose image tower trains too, on `ImageExamples`; None: heads alone, on
            `FeatureExamples`. It is never changed.
    """

    start: Tensor
    metric: str
    clip: Clip | None = None

    @arithmetic()
    def __call__(
        self,
        train: Any,
        evaluation: Any,
        trial: Trial,
        *,
        epochs: int,
        keep_probabilities: bool = False,
    ) -> Curve:
        """Train on some examples, and measure on others; a trial whose values overflow fails.

        Args:
            keep_probabilities: Whether the curve holds the probabilities of the best epoch.

        Raises:
            InputError: If the metric cannot be measured on `evaluation`.
        """
        curve = Curve(trial)
        device = self.clip.device if self.clip else train.labels.device
        with torch.random.fork_rng():
            model = self._fresh_model().to(device)
            optimizer = torch.optim.SGD(
                model.parameters(),
                trial.learning_rate,
                momentum=MOMENTUM,
                weight_decay=trial.weight_decay,
            )
            torch.manual_seed(SEED)  # dropout of the tower, if it has any
            generator = torch.Generator().manual_seed(SEED)
            for _ in range(epochs):
                model.train()
                order = list(_batches(len(train.labels), generator))
                for batch, inputs in zip(order, train.inputs(order), strict=True):
                    loss = _loss(model(inputs.to(device)), train.labels[batch].to(device))
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                logits = self._logits(model.eval(), evaluation, device)
                if not torch.isfinite(logits).all():
                    curve.failure = NOT_FINITE
                    break
                # The benchmark takes softmax for multilabel data too.
                probabilities = logits.softmax(dim=-1).float().cpu().numpy()
                score = measure(self.metric, evaluation.labels.cpu().numpy(), probabilities)
                if keep_probabilities and score > max(curve.scores, default=-1.0):
                    curve.best_probabilities = probabilities
                curve.scores.append(score)
        return curve

    def _fresh_model(self) -> nn.Module:
        classes, width = self.start.shape
        head = nn.Linear(width, classes)
        head.load_state_dict({"weight": self.start, "bias": torch.zeros(classes)})
        norm = nn.BatchNorm1d(width, affine=False)
        if self.clip is None:
            return nn.Sequential(norm, head)
        tower = deepcopy(self.clip.model.visual).requires_grad_(True)
        return nn.Sequential(tower, _Unit(), norm, head)

    @torch.no_grad()
    def _logits(self, model: nn.Module, examples: Any, device: Any) -> Tensor:
        """Return the logits (N, C) of examples."""
        count = len(examples.labels)
        order = torch.arange(count).split(BATCH_SIZE if self.clip else count)
        return torch.cat([model(part.to(device)) for part in examples.inputs(order)])


class _Unit(nn.Module):
    """Makes features unit vectors."""

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(features, dim=-1)


def _batches(n: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield indices of one epoch's batches, shuffled; none of a single example, which has no batch
    statistics. The order is that of PyTorch's loader.
    """
    loader: DataLoader[Tensor] = DataLoader(
        range(n),  # type: ignore[arg-type]  # a range is a dataset of indices
        batch_size=BATCH_SIZE,
        shuffle=True,
        generator=generator,
        collate_fn=torch.tensor,
    )
    return (batch for batch in loader if len(batch) > 1)


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean loss of logits (B, C) and labels (B,) or, for multilabel data, (B, C)."""
    if labels.ndim == 2:
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    return F.cross_entropy(logits, labels)
